"""Every damaged file of a store is named, and running again mends it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.seven_row_store import content, fill, make_store, open_writer

from zsseg.stages.cache.reader import Store
from zsseg.stages.cache.verify import DamagedFile, verify_store
from zsseg.stages.errors import CacheError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store that no test changes."""
    return make_store(tmp_path_factory.mktemp("made") / "store")


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    """A finished store to damage."""
    return Path(shutil.copytree(made, tmp_path / "store"))


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _delete(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize("read_data", [False, True])
def test_a_sound_store_has_no_problems(made: Path, read_data: bool) -> None:
    assert verify_store(made, read_data=read_data) == []


@pytest.mark.parametrize("harm", [_flip, _cut, _empty, _delete])
def test_every_damaged_file_is_named_and_mended_by_running_again(
    made: Path, path: Path, harm: Callable[[Path], None]
) -> None:
    whole = content(made)
    for name in whole:
        harm(path / name)
        problems = verify_store(path, read_data=True)
        array = name.split("/")[0] if "/c." in name or name.endswith("/zarr.json") else None
        assert [(problem.file, problem.array) for problem in problems] == [(name, array)]
        if harm is _flip and "/c." in name:
            assert verify_store(path, read_data=False) == []
        else:
            with pytest.raises(CacheError, match=name.replace(".", r"\.")):
                Store.open(path)
        # The advice of every message: delete the file, run the same command again.
        (path / name).unlink(missing_ok=True)
        with open_writer(path) as writer:
            fill(writer)
            writer.seal()
        assert content(path) == whole


@pytest.mark.parametrize("harm", [_flip, _cut, _empty])
def test_damaged_metadata_is_mended_even_where_it_was_not_deleted(
    made: Path, path: Path, harm: Callable[[Path], None]
) -> None:
    for name in ("zarr.json", "index.jsonl", "dense/zarr.json", "ledger/index/000000.json"):
        harm(path / name)
        with open_writer(path) as writer:
            fill(writer)
            writer.seal()
        assert content(path) == content(made)


def test_damaged_data_names_its_images(path: Path) -> None:
    _flip(path / "dense" / "c.2.0.0.0")
    _cut(path / "text" / "c.0.0")
    assert verify_store(path, read_data=True) == [
        DamagedFile(
            "dense/c.2.0.0.0",
            "dense",
            "dense",
            ("scene 6é",),
            "content changed since it was written (hash differs)",
        ),
        DamagedFile("text/c.0.0", "text", "text", (), "34 bytes, 68 were written"),
    ]


def test_links_out_of_the_store_are_not_followed(path: Path, tmp_path: Path) -> None:
    for name in ("dense/c.0.0.0.0", "index.jsonl"):
        shutil.move(path / name, tmp_path / "outside")
        (path / name).symlink_to(tmp_path / "outside")
        (problem,) = verify_store(path, read_data=True)
        assert problem.file == name
        assert "symbolic link" in problem.reason
        (path / name).unlink()
        shutil.move(tmp_path / "outside", path / name)


def test_an_unfinished_store_is_checked_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with open_writer(path) as writer:
        fill(writer)
    _cut(path / "ledger" / "regions" / "000002.json")
    _delete(path / "norm" / "c.1")
    files = {problem.file for problem in verify_store(path, read_data=False)}
    assert files == {"seal.json", "ledger/regions/000002.json", "norm/c.1"}


def test_a_damaged_index_is_one_problem_and_rows_stand_in_for_ids(path: Path) -> None:
    _cut(path / "index.jsonl")
    _delete(path / "dense" / "c.2.0.0.0")
    problems = verify_store(path, read_data=False)
    assert [(p.file, p.images) for p in problems] == [
        ("index.jsonl", ()),
        ("dense/c.2.0.0.0", ("row 6",)),
    ]


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="no store here"):
        verify_store(tmp_path / "nothing", read_data=False)
