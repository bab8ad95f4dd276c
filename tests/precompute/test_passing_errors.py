"""Errors that a network file system answers for a moment, or for ever: EIO and ESTALE."""

import errno
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.clip_store import content, image_of, label_of, run

from zsseg.stages.cache.reader import Store
from zsseg.stages.cache.verify import verify_store
from zsseg.stages.errors import CacheError, ResourceError

pytestmark = pytest.mark.usefixtures("one_teacher")
BOTH = pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])


class Faults:
    """Lets opening and writing files fail, `times` times for each file that `concerns` is true of.

    `tried` counts the attempts for those files.
    """

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        number: int,
        *,
        times: int,
        concerns: Callable[[Path], bool],
    ) -> None:
        self.tried: Counter[str] = Counter()
        self._number, self._times, self._concerns = number, times, concerns
        patch.setattr("time.sleep", lambda seconds: None)
        opened, replaced = os.open, Path.replace

        def opening(path: Any, *given: Any, **more: Any) -> int:
            self._tell(Path(os.fsdecode(path)) if isinstance(path, str | bytes | Path) else None)
            return opened(path, *given, **more)

        def replacing(path: Path, target: Path) -> Path:
            self._tell(Path(target))
            return replaced(path, target)

        patch.setattr(os, "open", opening)
        patch.setattr(Path, "replace", replacing)

    def _tell(self, path: Path | None) -> None:
        if path is None or not self._concerns(path):
            return
        self.tried[path.name] += 1
        if self.tried[path.name] <= self._times:
            raise OSError(self._number, os.strerror(self._number), str(path))


@BOTH
def test_a_moment_costs_nothing(
    made: tuple[Path, Path],
    tiny_world: Path,
    tiny_clip: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    """Images, labels, shards, receipts, manifest and seal fail twice each."""
    touched = (".png", ".json", ".jsonl", ".0")
    with monkeypatch.context() as patch:
        faults = Faults(patch, number, times=2, concerns=lambda file: file.suffix in touched)
        result = run(tiny_world, tiny_clip, tmp_path / "cache")
    assert result.failed == {}
    assert content(result.path) == content(made[1])
    names = {"scene_003.png", "seal.json", "000001.json", "c.1.0.0.0", "zarr.json"}
    assert names <= faults.tried.keys()


@BOTH
@pytest.mark.parametrize("file_of", [image_of, label_of])
def test_an_image_that_cannot_be_read_is_that_row_by_name(
    made: tuple[Path, Path],
    tiny_world: Path,
    tiny_clip: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    file_of: Callable[[Path, int], Path],
) -> None:
    bad = file_of(tiny_world, 3)
    with monkeypatch.context() as patch:
        faults = Faults(patch, number, times=10**6, concerns=lambda file: file == bad)
        result = run(tiny_world, tiny_clip, tmp_path / "cache")
    assert list(result.failed) == ["scene_003"]
    assert "scene_003.png: cannot be read" in result.failed["scene_003"]
    assert os.strerror(number) in result.failed["scene_003"]
    assert faults.tried[bad.name] < 20, "bounded"
    receipt = Store.open(result.path).receipt("index", 0)
    assert receipt["failures"].keys() == {"3"}
    assert [row for row, each in enumerate(receipt["images"]) if each is None] in ([3], [])
    assert verify_store(result.path, read_data=True) == []
    # The disk answers again: the row is made, and no trace is left.
    assert run(tiny_world, tiny_clip, tmp_path / "cache").failed == {}
    assert content(result.path) == content(made[1])


@BOTH
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("c.1.0.0.0", "shard 1 of dense"),
        ("000001.json", "shard 1 of "),
        ("seal.json", "seal.json and README.md"),
    ],
)
def test_a_write_that_fails_for_good_is_named_and_loses_nothing(
    made: tuple[Path, Path],
    tiny_world: Path,
    tiny_clip: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    name: str,
    said: str,
) -> None:
    cache = tmp_path / "cache"
    with monkeypatch.context() as patch:
        faults = Faults(patch, number, times=10**6, concerns=lambda file: file.name == name)
        with pytest.raises(ResourceError, match=rf"cannot write {said}.*What is committed is safe"):
            run(tiny_world, tiny_clip, cache)
    assert 3 < faults.tried[name] < 20
    result = run(tiny_world, tiny_clip, cache)
    assert content(result.path) == content(made[1])


@BOTH
def test_a_file_that_cannot_be_hashed_is_not_sealed_without_a_hash(
    fresh: tuple[Path, Path], tiny_clip: str, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """An image of a finished store has another time, and the disk fails while it is hashed."""
    world, path = fresh
    before, bad = content(path), image_of(world, 2)
    os.utime(bad, (1, 1))
    with monkeypatch.context() as patch:
        Faults(patch, number, times=10**6, concerns=lambda file: file == bad)
        with pytest.raises(CacheError, match=r"have changed.*scene_002"):
            run(world, tiny_clip, path.parent)
        assert content(path) == before
        result = run(world, tiny_clip, path.parent, update=True)
        assert list(result.failed) == ["scene_002"]
        assert verify_store(path, read_data=True) == []
    assert run(world, tiny_clip, path.parent).failed == {}
    assert content(path) == before


@BOTH
def test_rows_of_a_store_are_read_again(
    made: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store = Store.open(made[1])
    before = store.read("dense", 1)
    opened, left = Path.open, [2]

    def opening(path: Path, *given: Any, **more: Any) -> Any:
        if path.name.startswith("c.") and left[0]:
            left[0] -= 1
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, *given, **more)

    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(Path, "open", opening)
    assert (store.read("dense", 1) == before).all()
    left[0] = 10**6
    with pytest.raises(CacheError, match=r"dense/c\.0\.0\.0\.0: .*error|handle"):
        store.read("dense", 1)
    assert left[0] > 10**6 - 20
    assert verify_store(made[1], read_data=True), "what cannot be read is damaged"
