"""Links and files that others have put into a store: never written through, never deleted."""

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from helpers.seven_row_store import make_store, open_writer

from zsseg.stages.cache.disk.durable import append_durably, write_durably
from zsseg.stages.cache.disk.local import LocalStorage
from zsseg.stages.cache.disk.lock import HOLDER, locked
from zsseg.stages.cache.tools.removal import prune, remove_store
from zsseg.stages.cache.verify import verify_store
from zsseg.stages.data.images import write_png
from zsseg.stages.errors import CacheError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return Path(make_store(tmp_path / "cache" / "store"))


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of somebody else that a link leads to."""
    file = tmp_path / "victim"
    file.write_bytes(b"precious")
    return file


def test_a_link_in_the_place_of_a_temporary_file_is_replaced(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "x.json.partial").symlink_to(victim)
    write_durably(tmp_path / "x.json", b"new")
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / "x.json").read_bytes() == b"new"


def test_a_picture_is_not_written_through_a_link(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "a.png.partial").symlink_to(victim)
    write_png(tmp_path / "a.png", np.zeros((2, 2), np.uint8))
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_link_in_the_place_of_a_file_is_replaced_and_never_followed(
    tmp_path: Path, victim: Path
) -> None:
    for name in ("classes.json", "log", ".used"):
        (tmp_path / name).symlink_to(victim)
    write_durably(tmp_path / "classes.json", b"new")
    with pytest.raises(OSError, match="symbolic links"):
        append_durably(tmp_path / "log", b"new")
    with pytest.raises(OSError, match="symbolic links"):
        LocalStorage(tmp_path / ".used").touch()
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / "classes.json").read_bytes() == b"new"


def test_the_name_of_the_writer_is_not_written_through_a_link(path: Path, victim: Path) -> None:
    (path / HOLDER).symlink_to(victim)
    with locked(path):
        assert not (path / HOLDER).is_symlink()
    assert victim.read_bytes() == b"precious"


@pytest.mark.parametrize("folder", ["dense", "ledger", "ledger/dense"])
def test_a_folder_that_is_a_link_is_refused(path: Path, tmp_path: Path, folder: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    (path / folder).rename(elsewhere)
    (path / folder).symlink_to(elsewhere)
    before = {file: file.read_bytes() for file in elsewhere.rglob("*") if file.is_file()}
    with pytest.raises(CacheError, match="symbolic link"):
        open_writer(path)
    with pytest.raises(CacheError, match="did not write"):
        remove_store(path)
    assert {file: file.read_bytes() for file in elsewhere.rglob("*") if file.is_file()} == before
    if folder != "ledger":
        assert any("symbolic link" in each.reason for each in verify_store(path, read_data=False))


def test_files_of_others_are_left_where_they_are(path: Path, tmp_path: Path) -> None:
    mine = zarr.create_array(
        str(path / "mine"), shape=(4,), chunks=(2,), dtype="f4",
        chunk_key_encoding={"name": "default", "separator": "."}, attributes={"of": "me"},
    )  # fmt: skip
    mine[:] = np.ones(4)
    write_durably(path / "notes.partial", b"kept")
    write_durably(path / "dense" / "thesis.partial", b"kept")
    others = [*(path / "mine").iterdir(), path / "notes.partial", path / "dense" / "thesis.partial"]
    write_durably(path / "old" / "c.0", b"of a version before")
    write_durably(path / "dense" / "c.0.0.0.0.partial", b"half")
    gone = {garbage.path for garbage in prune(tmp_path / "cache", unfinished=False, dry_run=False)}
    assert gone == {path / "old" / "c.0", path / "dense" / "c.0.0.0.0.partial"}
    with open_writer(path):
        pass
    with pytest.raises(CacheError, match="did not write"):
        remove_store(path)
    assert all(file.exists() for file in others)


def test_a_usable_image_without_a_hash_is_damage(path: Path) -> None:
    from zsseg.stages.cache.format.recipe import fingerprint

    file = path / "ledger" / "index" / "000001.json"
    receipt = json.loads(file.read_text())
    del receipt["check"]
    receipt |= {"images": ["a", None, "c"], "failures": {}}
    file.write_text(json.dumps(receipt | {"check": fingerprint(receipt)}))
    (path / "seal.json").unlink()
    reasons = [each.reason for each in verify_store(path, read_data=False)]
    assert any("no hash of the image of row 4" in reason for reason in reasons)
    receipt["failures"] = {"4": "cut short"}
    file.write_text(json.dumps(receipt | {"check": fingerprint(receipt)}))
    reasons = [each.reason for each in verify_store(path, read_data=False)]
    assert not any("no hash" in reason for reason in reasons)
