"""Every way to damage a file of a store, for every file: it is named, with what it holds."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from helpers.file_damage import HARMS, flip, kind, swap
from helpers.seven_row_store import INDEX, ROWS, SHARD_ROWS, artifacts, content, make_store

from zsseg.stages.cache.disk.hashing import hash_file
from zsseg.stages.cache.format.manifest import HISTORY, LEDGER, SEAL
from zsseg.stages.cache.verify import DamagedFile, Inspection, Share, inspect_store, verify_store


def held(name: str, *, ids: bool) -> tuple[str | None, str | None, tuple[str, ...]]:
    """Artifact, array and images of a file of `small_store`, by its name and its description."""
    owner = {spec.name: artifact.name for artifact in artifacts() for spec in artifact.arrays}
    first, *rest = name.split("/")
    if first == LEDGER:
        artifact, array, shard = rest[0], None, int(rest[1].removesuffix(".json"))
    elif rest == ["zarr.json"] or not rest:
        return owner.get(first), first if rest else None, ()
    else:
        artifact, array, shard = owner[first], first, int(rest[0].split(".")[1])
    if artifact == "text":
        return artifact, array, ()
    rows = range(shard * SHARD_ROWS, min((shard + 1) * SHARD_ROWS, ROWS))
    return artifact, array, tuple(str(INDEX[row]["id"]) if ids else f"row {row}" for row in rows)


def named(problem: DamagedFile) -> tuple[str, tuple[str | None, str | None, tuple[str, ...]]]:
    return problem.file, (problem.artifact, problem.array, problem.images)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store that no test changes."""
    return make_store(tmp_path_factory.mktemp("made") / "store")


def test_200_of_200_random_cases_are_named_with_array_and_images(
    made: Path, tmp_path: Path
) -> None:
    whole, rng = content(made), Random(0)
    kinds = set()
    for case in range(200):
        path = Path(shutil.copytree(made, tmp_path / str(case)))
        harm, name = rng.choice(HARMS), rng.choice(sorted(whole))
        other = rng.choice([each for each in sorted(whole) if whole[each] != whole[name]])
        harm(path / name, path / other, rng)
        expected = {name, other} if harm is swap else {name}
        found = dict(map(named, verify_store(path, read_data=True)))
        ids = "index.jsonl" not in expected
        assert found == {file: held(file, ids=ids) for file in expected}, (harm, name, other)
        kinds |= {(harm, kind(file)) for file in expected}
        shutil.rmtree(path)
    assert len(kinds) >= 30  # of the 6 kinds of files x 7 harms


PLACES = ("zarr.json", SEAL, "index.jsonl", "ledger/dense/000001.json", "ledger/text/000000.json")


@pytest.mark.parametrize("other", ["dense/zarr.json", "dense/c.1.0.0.0", *PLACES])
@pytest.mark.parametrize("name", PLACES)
def test_what_is_swapped_with_a_description_is_named_as_well(
    made: Path, tmp_path: Path, name: str, other: str
) -> None:
    path = Path(shutil.copytree(made, tmp_path / "store"))
    swap(path / name, path / other, Random(0))
    found = dict(map(named, verify_store(path, read_data=True)))
    files = {name, other} if name != other else set()
    assert found == {file: held(file, ids="index.jsonl" not in files) for file in files}


@pytest.mark.parametrize("names", [("zarr.json", SEAL), ("zarr.json",), (SEAL,)])
def test_damaged_data_is_found_without_the_description(
    made: Path, tmp_path: Path, names: tuple[str, ...]
) -> None:
    path = Path(shutil.copytree(made, tmp_path / "store"))
    damaged = {*names, "dense/c.1.0.0.0", "regions/c.2.0.0"}
    for name in damaged:
        flip(path / name, path, Random(1))
    found = dict(map(named, verify_store(path, read_data=True)))
    assert found == {file: held(file, ids=True) for file in damaged}


@pytest.mark.parametrize("name", PLACES)
def test_a_lost_end_of_line_is_damage(made: Path, tmp_path: Path, name: str) -> None:
    """What is left still says the same."""
    path = Path(shutil.copytree(made, tmp_path / "store"))
    os.truncate(path / name, (path / name).stat().st_size - 1)
    found = dict(map(named, verify_store(path, read_data=False)))
    assert found == {name: held(name, ids=name != "index.jsonl")}


def test_files_of_equal_size_that_changed_places_are_named(made: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(made, tmp_path / "store"))
    swap(path / "dense/c.0.0.0.0", path / "dense/c.1.0.0.0", Random(0))
    assert verify_store(path, read_data=False) == []
    found = {problem.file for problem in verify_store(path, read_data=True)}
    assert found == {"dense/c.0.0.0.0", "dense/c.1.0.0.0"}


def test_a_file_that_the_disk_cannot_read_is_damaged(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = made / "dense" / "c.1.0.0.0"
    monkeypatch.setattr("zsseg.stages.cache.format.ledger.hash_file", _failing(bad, errno.EIO))
    (problem,) = verify_store(made, read_data=True)
    assert named(problem) == ("dense/c.1.0.0.0", held("dense/c.1.0.0.0", ids=True))
    assert "disk cannot read" in problem.reason
    monkeypatch.setattr("zsseg.stages.cache.format.ledger.hash_file", _failing(bad, errno.EACCES))
    with pytest.raises(PermissionError):
        verify_store(made, read_data=True)


def _failing(bad: Path, code: int) -> Callable[[Path], str]:
    def read(file: Path) -> str:
        if file == bad:
            raise OSError(code, os.strerror(code), str(file))
        return hash_file(file)

    return read


def test_a_line_of_the_history_that_is_cut_short_is_named(made: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(made, tmp_path / "store"))
    (path / HISTORY).write_text('{"root": "/data"}\n{"teacher": "local-d')
    (problem,) = verify_store(path, read_data=True)
    assert problem.file == HISTORY
    assert "line 2" in problem.reason
    assert verify_store(path, read_data=False) == []


def inspect(path: Path, share: Share | None) -> Inspection:
    return inspect_store(path, share=share, progress=lambda done, total: None)


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 20])
def test_each_shard_is_read_in_exactly_one_of_the_parts(
    made: Path, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def noted(file: Path) -> str:
        read.append(file)
        return hash_file(file)

    monkeypatch.setattr("zsseg.stages.cache.format.ledger.hash_file", noted)
    found = [inspect(made, Share(number, parts)) for number in range(1, parts + 1)]
    data = [made / name for name in content(made) if "/c." in name]
    assert sorted(read) == sorted(data)
    assert [each.shards for each in found] == [10] * parts  # 3 x 3 per row, and text
    counts = [each.shards_read for each in found]
    assert sum(counts) == 10
    assert max(counts) - min(counts) <= 1
    assert sum(each.bytes_read for each in found) == sum(file.stat().st_size for file in data)


def test_a_part_finds_the_damage_in_it_only(made: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(made, tmp_path / "store"))
    flip(path / "dense/c.1.0.0.0", path, Random(0))
    found = [inspect(path, Share(number, 3)).problems for number in (1, 2, 3)]
    assert sorted(map(len, found)) == [0, 0, 1]
    assert inspect(path, None).problems == ()


@pytest.mark.parametrize(("number", "parts"), [(0, 5), (6, 5), (-1, 5), (1, 0)])
def test_a_part_that_there_is_not_is_refused(number: int, parts: int) -> None:
    with pytest.raises(ValueError, match="no part"):
        Share(number, parts)


def test_progress_ends_at_the_number_of_shards(made: Path) -> None:
    seen: list[tuple[int, int]] = []
    inspect_store(made, share=None, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 10) for done in range(1, 11)]
