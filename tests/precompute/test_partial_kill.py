"""A change is made all the same from any point at which a run, or a process of it, was killed."""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers.clip_store import CONFIG as MERGED
from helpers.clip_store import image_of, load_once
from helpers.dataset_changes import add, edit, relabel, remove
from helpers.partial_store import (
    CONFIG,
    IN_ORDER,
    Change,
    copy,
    equal,
    equal_to_anew,
    few,
    run,
)
from helpers.stage_one_faults import kill_commit

from zsseg.stages.cache.format.manifest import read_manifest
from zsseg.stages.cache.reader import Store
from zsseg.stages.errors import CacheError
from zsseg.stages.precompute.engine.jobs import KILLED, Job, RunContext, ShardResult
from zsseg.stages.precompute.engine.shard_worker import ShardWorker, Tick
from zsseg.stages.precompute.plan import changed_files
from zsseg.stages.precompute.plan.work_plan import Planner
from zsseg.stages.precompute.precompute_config import DenseConfig

pytest_plugins = ["helpers.partial_fixtures"]
pytestmark = pytest.mark.usefixtures("one_teacher")


@pytest.mark.parametrize("left_out", [(), (0, 2, 3)], ids=["whole", "halved"])
def test_a_shard_whose_process_was_lost_copies_nothing_that_it_left(
    partial_fresh: tuple[Path, Path],
    tiny_clip: str,
    monkeypatch: pytest.MonkeyPatch,
    left_out: tuple[int, ...],
) -> None:
    """It may have replaced the old values, or have been sent to find the image that kills it."""
    work = ShardWorker.work

    def lost_once(self: ShardWorker, job: Job, context: RunContext, tick: Tick) -> ShardResult:
        work(self, job.without(dict.fromkeys(left_out, "not looked at")), context, tick)
        return work(self, job, context, tick)

    world, path = partial_fresh
    relabel(world, 0)
    edit(world, 1)
    monkeypatch.setattr(ShardWorker, "work", lost_once)
    result = run(world, tiny_clip, path.parent, update=True)
    monkeypatch.undo()
    monkeypatch.setattr("zsseg.stages.precompute.teacher.clip_teacher.load_teacher", load_once)
    assert not result.failed
    equal_to_anew(path, world, tiny_clip)


def test_an_image_that_killed_its_process_is_not_read_for_another_setting_or_date(
    partial_fresh: tuple[Path, Path],
    tiny_clip: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    looked_at: list[str],
) -> None:
    world, cache = partial_fresh[0], tmp_path / "killed"
    reason, job = f"{KILLED}: images/train/scene_001.png", Planner.job
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Planner, "job", lambda *args: job(*args).without({1: reason}))
        run(world, tiny_clip, cache, limit=3)
    looked_at.clear()
    monkeypatch.setattr(changed_files, "read_image_row", lambda *_: pytest.fail("it is read"))
    again = run(world, tiny_clip, cache, limit=3, config=MERGED, update=True)
    assert sorted(looked_at) == ["scene_000", "scene_002"]
    assert again.failed == {"scene_001": reason}
    os.utime(image_of(world, 1))
    assert run(world, tiny_clip, cache, limit=3, config=MERGED).written == {}
    retried = run(world, tiny_clip, cache, limit=3, config=MERGED, retry_failed=True)
    assert (retried.written["dense"], retried.failed) == (1, {})


def another_threshold(_: Path) -> Mapping[str, Any]:
    return {"config": few(MERGED)}


def edited(world: Path) -> Mapping[str, Any]:
    edit(world, 1)
    return {"config": few(CONFIG)}


def came_and_went(world: Path) -> Mapping[str, Any]:
    add(world, 0, "a")
    remove(world, 1)
    return {"config": few(CONFIG)}


@pytest.mark.parametrize(
    ("change", "commits"),
    [
        (another_threshold, 2 * 2),
        (edited, 5),
        (came_and_went, 2 * 5 + 1),
    ],
)
def test_killed_before_any_commit_a_change_is_made_all_the_same(
    partial_small: tuple[Path, Path], tmp_path: Path, tiny_clip: str, change: Change, commits: int
) -> None:
    world, _ = copy(partial_small, tmp_path / "whole")
    more = change(world)
    anew = run(world, tiny_clip, tmp_path / "anew", **more).path
    for number in range(commits + 1):
        world, path = copy(partial_small, tmp_path / str(number))
        more = change(world)
        with pytest.MonkeyPatch.context() as patch:
            kill_commit(patch, number)
            if number == commits:
                run(world, tiny_clip, path.parent, update=True, **more)
            else:
                with pytest.raises(KeyboardInterrupt):
                    run(world, tiny_clip, path.parent, update=True, **more)
                with pytest.raises(CacheError, match="not finished"):
                    Store.open(path)
        run(world, tiny_clip, path.parent, update=True, **more)
        equal(path, anew)


@pytest.mark.parametrize("change", [edited, came_and_went])
def test_killed_after_a_lost_basis_is_fitted_again_nothing_of_the_old_one_is_kept(
    partial_fresh: tuple[Path, Path], tmp_path: Path, tiny_clip: str, change: Change
) -> None:
    """Here, and in the store that was set aside: other images, another basis."""
    world, _ = partial_fresh
    config = IN_ORDER.model_copy(update={"dense": DenseConfig(size=(64, 96), format="pca:4")})
    path = run(world, tiny_clip, tmp_path / "pca", config=few(config)).path
    assert isinstance(path, Path)
    (path / "pca_mean" / "c.0").unlink()
    change(world)
    with pytest.MonkeyPatch.context() as patch:
        kill_commit(patch, 3)  # the basis at least is there
        with pytest.raises(KeyboardInterrupt):
            run(world, tiny_clip, path.parent, config=few(config), update=True)
    assert (path / "pca_mean" / "c.0").exists()
    run(world, tiny_clip, path.parent, config=few(config), update=True)
    equal_to_anew(path, world, tiny_clip, config=few(config))


def test_killed_while_the_store_is_set_aside_nothing_is_lost(
    partial_small: tuple[Path, Path], tmp_path: Path, tiny_clip: str, passed: Counter[str]
) -> None:
    world, _ = copy(partial_small, tmp_path / "whole")
    more = came_and_went(world)
    anew = run(world, tiny_clip, tmp_path / "anew", **more).path
    arrays = len(read_manifest(anew).arrays)
    replace = Path.replace
    for number in range(4 + arrays):
        world, path = copy(partial_small, tmp_path / str(number))
        more = came_and_went(world)
        moved = [0]

        def failing(self: Path, target: Path, moved: list[int] = moved, n: int = number) -> Path:
            if Path(target).parent.name == ".previous":
                moved[0] += 1
                if moved[0] > n:
                    raise KeyboardInterrupt
            return replace(self, target)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "replace", failing)
            with pytest.raises(KeyboardInterrupt):
                run(world, tiny_clip, path.parent, update=True, **more)
        passed.clear()
        run(world, tiny_clip, path.parent, update=True, **more)
        assert passed["dense"] == 1, "the other rows are copied"
        equal(path, anew)
