"""A store whose writer is killed: whatever it was at, the next run ends in the same bytes."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.seven_row_store import INDEX, artifacts, content, fill, open_writer, values

from zsseg.stages.cache.verify import verify_store


class _Killed(BaseException):
    """As SIGKILL: no handler for Exception may see it."""


def _kill_at(monkeypatch: pytest.MonkeyPatch, call: int, *, within_folders: bool = False) -> None:
    """Die before the `call`-th file that is published or deleted, by us or by zarr.

    `within_folders`: also between any two files of a folder that is deleted. fsync changes
    nothing that a killed process leaves, so it is left out to save time.
    """
    done = 0

    def dying(original: Any) -> Any:
        def replacement(*arguments: Any, **options: Any) -> Any:
            nonlocal done
            done += 1
            if done > call:
                raise _Killed
            return original(*arguments, **options)

        return replacement

    # What deletes a folder takes these two itself.
    inside = ((os, "unlink"), (os, "rmdir")) if within_folders else ((Path, "unlink"),)
    for owner, name in ((Path, "replace"), (shutil, "rmtree"), *inside):
        monkeypatch.setattr(owner, name, dying(getattr(owner, name)))
    monkeypatch.setattr(os, "fsync", lambda _: None)


_TWO_SHARDS: dict[str, Any] = {"index": INDEX[:4]}


def _finished(path: Path, **changes: Any) -> Path:
    with open_writer(path, **changes) as writer:
        fill(writer)
        writer.seal()
    return path


def _killed_and_resumed(
    path: Path, call: int, *, within_folders: bool = False, **changes: Any
) -> bool:
    """Run, die at `call`, look, run again; False when the run ended before it could die."""
    with pytest.MonkeyPatch.context() as patch:
        _kill_at(patch, call, within_folders=within_folders)
        try:
            _finished(path, **changes)
        except _Killed:
            finished = False
        else:
            finished = True
    if (path / "zarr.json").exists():
        # A store that is just being set aside is in two places, its index first in the other.
        moving = {"index.jsonl"} if (path / ".previous").exists() else set()
        allowed = {"seal.json"} | moving
        wrong = [p for p in verify_store(path, read_data=True) if p.file not in allowed]
        assert wrong == [], f"committed and damaged after {call} calls"
    _finished(path, **changes)
    return not finished


def test_killed_at_any_point_a_run_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    whole = content(_finished(tmp_path / "whole", **_TWO_SHARDS))
    call = 0
    while _killed_and_resumed(tmp_path / str(call), call, **_TWO_SHARDS):
        assert content(tmp_path / str(call)) == whole
        call += 1
    assert call >= 26  # 9 shards, 7 receipts, 7 metadata files, card, seal and lock


def test_killed_at_any_point_an_update_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    changes = _TWO_SHARDS | {"artifacts": artifacts(threshold=0.8), "update": True}
    whole = content(_finished(tmp_path / "whole", **changes))
    before = _finished(tmp_path / "before", **_TWO_SHARDS)
    call = 0
    while True:
        path = tmp_path / str(call)
        shutil.copytree(before, path)
        if not _killed_and_resumed(path, call, **changes):
            break
        assert content(path) == whole
        call += 1
    assert call >= 10


@pytest.mark.parametrize("unfinished", [False, True])
def test_killed_at_any_point_a_change_of_images_resumes_to_the_same_bytes(
    tmp_path: Path, unfinished: bool
) -> None:
    """Aside, filled, sealed, and what was set aside deleted; or the second change in a row."""
    changes: dict[str, Any] = {"index": [INDEX[1], INDEX[0]], "update": True}
    whole = content(_finished(tmp_path / "whole", **changes))
    before = _finished(tmp_path / "before", index=INDEX[:2])
    if unfinished:
        with open_writer(before, index=INDEX[:3], update=True) as writer:
            writer.write("index", 0, values("index", range(3)))
        assert (before / ".previous" / "zarr.json").exists()
    call = 0
    while True:
        path = tmp_path / str(call)
        shutil.copytree(before, path)
        if not _killed_and_resumed(path, call, within_folders=True, **changes):
            break
        assert not (path / ".previous").exists()
        assert content(path) == whole, call
        shutil.rmtree(path)
        call += 1
    assert call >= 50  # 8 moves or deletions, 15 files of the new store, 20 of the old one
