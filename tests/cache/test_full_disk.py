"""A disk that is full or refuses at any moment: one message, nothing lost, and the run goes on."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.clip_store import CONFIG, content, load_once, make
from helpers.drawn_world import draw_world

from zsseg.pipeline.cli import main
from zsseg.stages.cache.disk.local import LocalStorage
from zsseg.stages.cache.verify import verify_store
from zsseg.stages.errors import ResourceError

SETTINGS = CONFIG.model_copy(update={"shard_images": 2})
STEP = 1 if "ZSSEG_KILLS" in os.environ else 3
"""A file is written out, renamed, and its folder written out: one of the three is refused."""
BLOCK = 4096
DISK = 3 << 20


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_world(tmp_path_factory.mktemp("world"), images=3)


@pytest.fixture(scope="module")
def whole(world: Path, tiny_clip: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a run that nothing disturbed."""
    return make(world, tiny_clip, tmp_path_factory.mktemp("whole"), SETTINGS)


@pytest.fixture(autouse=True)
def one_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsseg.stages.precompute.teacher.clip_teacher.load_teacher", load_once)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few MiB in memory."""
    if sys.platform != "linux":
        pytest.skip("tmpfs is Linux'")
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(disk)]
    made = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"mounting is not permitted: {made.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


class Filler:
    """A file that leaves so many free blocks on a disk; with none it is gone."""

    def __init__(self, disk: Path) -> None:
        self._file = disk / "filler"

    def leave(self, blocks: int) -> None:
        """Fill the disk up to so many blocks."""
        left = os.statvfs(self._file.parent).f_bavail - blocks
        with self._file.open("ab") as file:
            file.write(bytes(max(0, left) * BLOCK))

    def remove(self) -> None:
        self._file.unlink()

    def leave_after_the_space_was_checked(self, patch: pytest.MonkeyPatch, blocks: int) -> None:
        """Fill the disk right after somebody has asked, for the first time, what is free."""
        free_bytes = LocalStorage.free_bytes

        def asked(folder: LocalStorage) -> int:
            free = free_bytes(folder)
            if not self._file.exists():
                self.leave(blocks)
            return free

        patch.setattr(LocalStorage, "free_bytes", asked)


def zsseg(*arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["zsseg", *arguments])
        with pytest.raises(SystemExit) as stop:
            main.main()
    return stop.value.code if isinstance(stop.value.code, int) else 1


def check_message(said: str, store: Path) -> None:
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, said
    assert "Traceback" not in said
    for part in (str(store), "MiB free", "What is committed is safe", "run the same command again"):
        assert part in errors[0], said


def command(world: Path, clip: str, cache: Path, config: Path, *more: str) -> list[str]:
    config.write_text(yaml.safe_dump(SETTINGS.model_dump(mode="json")))
    made = ["precompute", "--dataset", str(world), "--root", str(world.parent), "--teacher", clip]
    return [*made, "--cache", str(cache), "--config", str(config), "--quiet", *more]


def test_a_disk_that_fills_up_at_any_moment(
    world: Path,
    tiny_clip: str,
    whole: Path,
    small_disk: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Another program fills it when the space was found to be enough: with any number of blocks
    left, until the run gets through."""
    filler, hit, blocks, code = Filler(small_disk), set[str](), 0, 7
    while code:
        cache = small_disk / str(blocks)
        arguments = command(world, tiny_clip, cache, tmp_path / "config.yaml")
        with monkeypatch.context() as patch:
            filler.leave_after_the_space_was_checked(patch, blocks)
            code = zsseg(*arguments)
        filler.remove()
        store = cache / whole.name
        said = capfd.readouterr().err
        if code:
            assert code == 7, said
            check_message(said, store)
            hit.add(said.split("cannot write ")[1].split(":")[0])
            wrong = {problem.file for problem in verify_store(store, read_data=True)}
            assert wrong == {"seal.json"}
            assert not list(store.rglob("*.partial"))
            assert zsseg(*arguments) == 0
            capfd.readouterr()
        assert content(store) == content(whole)
        subprocess.run(["rm", "-r", str(cache)], check=True)
        blocks += 1 + blocks // 12
    shards = {f"shard {n} of {name}" for n in (0, 1) for name in ("cls", "dense", "local")}
    assert len(hit & shards) >= 3
    assert hit - shards, "other files too"


def refused(number: int, code: int, calls: list[int]) -> Callable[[], None]:
    def count() -> None:
        calls[0] += 1
        if calls[0] == number:
            raise OSError(code, os.strerror(code))

    return count


_ERRORS = (errno.EDQUOT, errno.ENOSPC, errno.EROFS)
"""Passing errors are tried again: `test_passing_errors`."""


def test_each_write_that_is_refused_once(tiny_clip: str, tmp_path: Path) -> None:
    """One write after the other, as SQLite's tests do it; then the run is done again."""
    world = draw_world(tmp_path / "world", images=1)
    whole = make(world, tiny_clip, tmp_path / "whole", SETTINGS)
    number, finished, said = 1 - STEP, False, set[str]()
    while not finished:
        number += STEP
        code = _ERRORS[number % len(_ERRORS)]
        cache, calls = tmp_path / str(number), [0]
        tell = refused(number, code, calls)
        with pytest.MonkeyPatch.context() as patch:
            refuse(patch, tell)
            error = outcome(world, tiny_clip, cache)
            finished = calls[0] < number
        assert finished == (error is None), number
        if error:
            assert os.strerror(code) in str(error)
            _, _, written = str(error).partition("cannot write ")
            assert "What is committed is safe" in written or "cannot make this folder" in str(error)
            said.add(written.split(":")[0])
        store = cache / whole.name
        if not finished and (store / "zarr.json").exists():
            wrong = {problem.file for problem in verify_store(store, read_data=True)}
            assert wrong <= {"seal.json"}, number
        make(world, tiny_clip, cache, SETTINGS)
        assert content(store) == content(whole), number
    assert number > 60, "folders, files, renaming: each was refused"
    assert {"history.jsonl", "sources.jsonl", "seal.json and README.md"} <= said


def refuse(patch: pytest.MonkeyPatch, tell: Callable[[], None]) -> None:
    """Tell before each file gets its name or reaches the disk."""

    def telling(original: Any) -> Any:
        def replacement(*given: Any, **more: Any) -> Any:
            tell()
            return original(*given, **more)

        return replacement

    patch.setattr(Path, "replace", telling(Path.replace))
    patch.setattr(Path, "write_bytes", telling(Path.write_bytes))
    patch.setattr(os, "fsync", telling(os.fsync))


def outcome(world: Path, clip: str, cache: Path) -> ResourceError | None:
    try:
        make(world, clip, cache, SETTINGS)
    except ResourceError as error:
        return error
    return None


def test_workers_tell_of_a_full_disk(
    world: Path,
    tiny_clip: str,
    whole: Path,
    small_disk: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    filler, cache = Filler(small_disk), small_disk / "cache"
    arguments = command(world, tiny_clip, cache, tmp_path / "config.yaml", "--workers", "1")
    with monkeypatch.context() as patch:
        filler.leave_after_the_space_was_checked(patch, 30)
        assert zsseg(*arguments) == 7
    check_message(capfd.readouterr().err, cache / whole.name)
    filler.remove()
    assert zsseg(*arguments) == 0
    assert content(cache / whole.name) == content(whole)
