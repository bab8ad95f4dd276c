"""Files and folders on a disk and at URLs: the same calls do the same."""

import os
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import xxhash
from helpers.urls import at_url

from zsseg.stages.cache.disk.bucket import BucketStorage
from zsseg.stages.cache.disk.durable import durable_file, write_durably
from zsseg.stages.cache.disk.hashing import hash_bytes, hash_file
from zsseg.stages.cache.disk.local import LocalStorage
from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath


@pytest.fixture(params=["disk", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> StorePath:
    """A folder with nothing in it."""
    if request.param == "disk":
        return tmp_path
    if request.param == "memory":
        return at_url(f"memory://{uuid.uuid4().hex}/of/tests")
    return request.getfixturevalue("bucket")  # type: ignore[no-any-return]


def public(kind: type) -> set[str]:
    return {name for name in vars(kind) if not name.startswith("_")}


def test_both_have_the_same_methods() -> None:
    """A bucket has three more, for what is done to objects only."""
    more = public(BucketStorage) - public(LocalStorage)
    assert more == {"create", "remove_files", "sizes"}
    assert public(LocalStorage) <= public(BucketStorage)


def test_a_file_is_written_read_replaced_and_removed(folder: StorePath) -> None:
    file = storage(folder / "a" / "b.json")
    file.write(b"first")
    assert (file.read(), file.size(), file.exists()) == (b"first", 5, True)
    file.write(memoryview(b"another"))
    assert (file.read(), file.size()) == (b"another", 7)
    with file.open() as (data, size):
        assert (data.read(), size) == (b"another", 7)
    assert file.is_plain_file()
    assert not file.is_link()
    assert not file.is_folder()
    file.remove()
    assert not file.exists()
    file.remove()


def test_what_is_not_there(folder: StorePath) -> None:
    file = storage(folder / "nothing")
    assert (file.exists(), file.size()) == (False, None)
    for read in (file.read, lambda: list(file.blocks()), file.modified):
        with pytest.raises(FileNotFoundError):
            read()
    assert (file.list_files(), file.subfolders(), file.total_bytes()) == ([], [], 0)
    file.remove_folder()
    file.check_reachable()


def test_files_are_appended_to_and_touched(folder: StorePath) -> None:
    file = storage(folder / "lines")
    file.append(b"one\n")
    file.append(b"two\n")
    assert file.read() == b"one\ntwo\n"
    mark = storage(folder / ".used")
    mark.touch()
    assert mark.read() == b""
    assert abs(mark.modified() - datetime.now(UTC)) < timedelta(minutes=1)


def test_a_folder_is_listed_measured_and_removed(folder: StorePath) -> None:
    storage(folder / "store").make_folder()
    for name in ("store/zarr.json", "store/b/c.0", "store/a/c.0", "store/a/deep/x", "other/x"):
        storage(folder / name).write(name.encode())
    store = storage(folder / "store")
    assert sorted(store.list_files()) == ["a/c.0", "a/deep/x", "b/c.0", "zarr.json"]
    assert store.subfolders() == [folder / "store" / "a", folder / "store" / "b"]
    assert store.total_bytes() == len("store/zarr.jsonstore/b/c.0store/a/c.0store/a/deep/x")
    storage(folder / "store" / "a").remove_folder()
    assert sorted(store.list_files()) == ["b/c.0", "zarr.json"]
    store.remove_whatever_is_at("b/c.0")
    store.remove_empty_folders("b/c.0")
    assert store.subfolders() == []
    assert storage(folder / "other" / "x").exists()


def test_files_are_hashed_piece_by_piece(folder: StorePath) -> None:
    data = np.random.default_rng(0).bytes((17 << 20) + 5)
    file = folder / "file"
    storage(file).write(data)
    blocks = list(storage(file).blocks())
    assert len(blocks) > 2
    assert max(map(len, blocks)) <= 8 << 20
    assert hash_file(file) == hash_bytes(data) == xxhash.xxh3_128_hexdigest(data)


def test_what_is_written_while_read_ahead_is_seen(folder: StorePath) -> None:
    storage(folder / "a.json").write(b"1")
    storage(folder / "c.0").write(b"old")
    with storage(folder).read_ahead():
        storage(folder / "a.json").write(b"22")
        storage(folder / "b.json").write(b"333")
        storage(folder / "c.0").remove()
        assert storage(folder / "a.json").read() == b"22"
        assert storage(folder / "b.json").size() == 3
        assert storage(folder).list_files() == ["a.json", "b.json"]
        with pytest.raises(FileNotFoundError):
            storage(folder / "c.0").read()
    assert storage(folder).list_files() == ["a.json", "b.json"]
    assert storage(folder).total_bytes() == 5


def test_every_item_has_its_result_in_order(folder: StorePath) -> None:
    assert storage(folder).map(lambda number: number**2, range(100)) == [n**2 for n in range(100)]
    assert storage(folder).map(str, []) == []


# A disk


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_durably(tmp_path / "file", b"old")

    def refuse(_: int) -> None:
        raise OSError("the disk refuses")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match="refuses"):
            write_durably(tmp_path / "file", b"new")

    def interrupted() -> None:
        with durable_file(tmp_path / "file") as file:
            file.write(b"half of the new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {"file": b"old"}


def test_half_written_files_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    for name in ("a/c.0", "a/c.0.partial", "zarr.json.partial"):
        write_durably(tmp_path / name, b"x")
    storage(tmp_path).remove_partial_files(lambda name: True)
    assert storage(tmp_path).list_files() == ["a/c.0"]


def test_links_and_folders_in_the_place_of_files(tmp_path: Path) -> None:
    write_durably(tmp_path / "outside", b"kept")
    for name in ("link", "a", "b/zarr.json"):
        (tmp_path / "store" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "store" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "store" / "a").write_bytes(b"a file where a folder should be")
    (tmp_path / "store" / "b" / "zarr.json").mkdir()
    store = storage(tmp_path / "store")
    assert storage(tmp_path / "store" / "link").is_link()
    assert not storage(tmp_path / "store" / "link").is_plain_file()
    assert storage(tmp_path / "store" / "b" / "zarr.json").is_folder()
    for name in ("link", "a/zarr.json", "b/zarr.json"):
        store.remove_whatever_is_at(name)
    assert [path.name for path in (tmp_path / "store").rglob("*")] == ["b"]
    assert (tmp_path / "outside").read_bytes() == b"kept"


def test_free_space_of_a_folder_that_is_still_to_be_made(tmp_path: Path) -> None:
    free = storage(tmp_path / "not" / "yet").free_bytes()
    assert free is not None
    assert free > 0
    assert storage(at_url("memory://somewhere/x")).free_bytes() is None


def test_a_file_lies_in_a_folder_by_whatever_path(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "store")
    assert storage(tmp_path / "store").contains(tmp_path / "link" / "new.tar")
    assert not storage(tmp_path / "store").contains(tmp_path / "store" / ".." / "new.tar")
    assert not storage(at_url("memory://somewhere/x")).contains(tmp_path)
