"""What is planned, and why: counted before anything is computed, and nothing is touched by it."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from helpers.clip_store import CONFIG, IN_ORDER, content, files, image_of, label_of, pixels, request
from helpers.clip_store import run as run_stage
from helpers.dataset_changes import add, edit, relabel, remove
from helpers.drawn_world import draw_world
from helpers.stage_one_faults import kill_commit
from PIL import Image

from zsseg.pipeline.cli.forecast_text import forecast_lines
from zsseg.stages.cache.disk.store_path import StorePath, store_path
from zsseg.stages.data.spec import DatasetSpec, load_spec
from zsseg.stages.errors import CacheError
from zsseg.stages.precompute.engine.thread_engine import Engine
from zsseg.stages.precompute.forecast import forecast_plan
from zsseg.stages.precompute.plan import changed_files
from zsseg.stages.precompute.plan.changed_files import refuse_changed
from zsseg.stages.precompute.plan.wanted_store import WantedStore, resolve_request
from zsseg.stages.precompute.plan.work_plan import Plan, Planner, planned_bytes
from zsseg.stages.precompute.precompute_config import DenseConfig, LocalConfig, PrecomputeConfig
from zsseg.stages.precompute.progress import Meter
from zsseg.stages.precompute.teacher.teacher_files import Traits, resolve_teacher

PER_ROW = ("index", "cls", "dense", "regions", "local")
FIRST, LAST, ALL = [0], [1], [0, 1]
"""The shards of six images, four in each."""


pytestmark = pytest.mark.usefixtures("one_teacher")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_clip: str) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("plan")
    world = draw_world(folder / "world", images=6)
    draw_world(folder / "more", images=2, seed=7)
    store = run_stage(world, tiny_clip, folder / "cache").path
    assert isinstance(store, Path)
    return world, store


@pytest.fixture
def fresh(made: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """A copy of the world, of other images and of the store; files keep their dates."""
    world, store = made
    shutil.copytree(world.parents[1] / "more", tmp_path / "more")
    shutil.copytree(world.parent, tmp_path / "world")
    shutil.copytree(store, tmp_path / "cache" / store.name)
    return tmp_path / "world" / world.name, tmp_path / "cache" / store.name


def wanted(
    world: Path,
    clip: str,
    cache: StorePath,
    *,
    config: PrecomputeConfig = CONFIG,
    spec: DatasetSpec | None = None,
) -> WantedStore:
    def ask(_: PrecomputeConfig) -> Traits:
        return Traits(24, [32, 32], [8, 12], "clearclip")

    def look(_: PrecomputeConfig) -> dict[str, str]:
        return {"precision": "fp32", "backend": "sklearn"}

    def ask_size(*_: object) -> tuple[int, int]:
        raise AssertionError("the size is given")

    asked = request(world, clip, cache, config=config, spec=spec)
    files = resolve_teacher(clip)
    return resolve_request(asked, files, look=look, ask_traits=ask, ask_size=ask_size)


def planned(
    world: Path, clip: str, cache: StorePath, *, retry_failed: bool = False, **more: Any
) -> tuple[Planner, Plan]:
    """The plan of a run, which changes no byte of what is there and no date."""
    before = {file: file.stat().st_mtime_ns for file in cache.rglob("*")}
    bytes_before = files(cache)
    meter = Meter(lambda _: None)
    planner = Planner(
        wanted(world, clip, cache, **more), retry_failed=retry_failed, keeps=False, meter=meter
    )
    plan = planner.plan()
    assert files(cache) == bytes_before
    assert {file: file.stat().st_mtime_ns for file in cache.rglob("*")} == before
    return planner, plan


def whole(reason: str, *names: str, rows: int = 6) -> dict[str, dict[str, int]]:
    return {name: {reason: rows} for name in names}


def test_nothing_is_planned_of_a_finished_store(fresh: tuple[Path, Path], tiny_clip: str) -> None:
    world, path = fresh
    planner, plan = planned(world, tiny_clip, path.parent)
    assert (plan.todo, plan.why, plan.states, plan.steps, plan.shards) == ({}, {}, {}, 0, [])
    assert planner.mismatch is not None
    assert planner.mismatch.lines == []


def test_everything_is_planned_of_no_store(
    fresh: tuple[Path, Path], tiny_clip: str, tmp_path: Path
) -> None:
    world, _ = fresh
    (tmp_path / "empty").mkdir()
    planner, plan = planned(world, tiny_clip, tmp_path / "empty")
    assert list(plan.todo) == ["text", *PER_ROW]
    assert plan.todo == {"text": [0]} | dict.fromkeys(PER_ROW, ALL)
    assert plan.rows == {"text": 4} | dict.fromkeys(PER_ROW, 6)
    assert plan.why == whole("not there yet", "text", rows=4) | whole("not there yet", *PER_ROW)
    assert plan.steps == 4 + 5 * 6
    job = planner.job(plan, 1)
    assert (job.shard, job.todo, job.old) == (1, PER_ROW, None)
    assert [sample.id for sample in job.samples] == ["scene_004", "scene_005"]
    # A float16 token is 2 bytes: 24 of the image, 24 of each of 8 x 12, 24 of each of 5 crops.
    row = 8 + 1 + 6 * 4 + 24 * 2 * (1 + 8 * 12 + 5) + 8 * 12 + 5 * 2
    assert planned_bytes(plan, wanted(world, tiny_clip, tmp_path / "empty").manifest) == 6 * row


def test_what_a_killed_run_left_is_planned_alone(
    fresh: tuple[Path, Path], tiny_clip: str, tmp_path: Path
) -> None:
    world, _ = fresh
    with pytest.MonkeyPatch.context() as patch:
        kill_commit(patch, 1 + 3)  # text; index, cls and dense of the first shard
        with pytest.raises(KeyboardInterrupt):
            run_stage(world, tiny_clip, tmp_path / "cut", config=IN_ORDER)
    planner, plan = planned(world, tiny_clip, tmp_path / "cut")
    late, early = ("regions", "local"), ("index", "cls", "dense")
    assert plan.todo == dict.fromkeys(late, ALL) | dict.fromkeys(early, LAST)
    assert plan.rows == dict.fromkeys(late, 6) | dict.fromkeys(early, 2)
    job = planner.job(plan, 0)
    assert job.todo == late
    assert job.old is not None
    assert job.old.valid == {"index", "cls", "dense"}
    assert planner.job(plan, 1).old is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            {"regions": CONFIG.regions.model_copy(update={"merge_threshold": 0.5})},
            whole("regions.merge_threshold: stored 0.9, asked 0.5", "regions")
            | whole("local: made from index, regions, where something differs", "local"),
        ),
        (
            {"local": LocalConfig(max_masks=5, margin=0.5)},
            whole("local.margin: stored 0.1, asked 0.5", "local"),
        ),
        ({"local": LocalConfig(max_masks=5, enabled=False)}, {}),
        (
            {"dense": DenseConfig(size=(64, 96), format="int8")},
            {
                "dense": 'dense.format: stored nothing, asked "int8"',
                "regions": "regions: made from dense, index, where something differs",
                "local": "local: made from index, regions, where something differs",
            },
        ),
    ],
)
def test_another_setting_names_what_it_touches(
    fresh: tuple[Path, Path],
    tiny_clip: str,
    *,
    change: Mapping[str, Any],
    why: dict[str, Any],
) -> None:
    world, path = fresh
    config = CONFIG.model_copy(update=change)
    planner, plan = planned(world, tiny_clip, path.parent, config=config)
    assert plan.why.keys() == why.keys()
    for name, reasons in why.items():
        if isinstance(reasons, dict):
            assert plan.why[name] == reasons
        else:
            ((found, rows),) = plan.why[name].items()
            assert rows == 6
            assert reasons in found
    assert plan.todo == dict.fromkeys(why, ALL)
    assert plan.rows == dict.fromkeys(why, 6)
    assert planner.mismatch is not None
    assert not planner.mismatch.fixed
    for shard in plan.shards:
        job = planner.job(plan, shard)
        assert job.todo == tuple(name for name in PER_ROW if name in why)
        assert job.old is not None
        assert not job.old.valid & set(why)
        # Tokens of the crops that stay what they are can be had from here.
        assert all(row.crops for row in job.old.rows.values())
        assert all(row.same for row in job.old.rows.values())


def test_other_names_are_text_alone(fresh: tuple[Path, Path], tiny_clip: str) -> None:
    world, path = fresh
    spec = load_spec(str(world)).model_copy(update={"names": {"box": "crate"}})
    planner, plan = planned(world, tiny_clip, path.parent, spec=spec)
    assert plan.todo == {"text": [0]}
    assert plan.rows == {"text": 4}
    assert list(plan.why) == ["text"]
    assert 'asked "crate"' in next(iter(plan.why["text"]))
    assert plan.shards == []
    assert planner.units_set_aside == {}


def test_edited_and_relabelled_images_count_by_row(
    fresh: tuple[Path, Path], tiny_clip: str
) -> None:
    world, path = fresh
    relabel(world, 0)
    edit(world, 2)
    edit(world, 3)
    planner, plan = planned(world, tiny_clip, path.parent)
    changed, relabelled = (
        "their image file is another one",
        "their visible label is another one",
    )
    both = {changed: 2, relabelled: 1}
    assert plan.why == {
        "index": both,
        "cls": {changed: 2},
        "dense": {changed: 2},
        "regions": both,
        "local": both,
    }
    assert plan.states == {0: "relabelled", 2: "changed", 3: "changed"}
    assert plan.todo == dict.fromkeys(PER_ROW, FIRST)
    assert plan.rows == {"index": 3, "cls": 2, "dense": 2, "regions": 3, "local": 3}
    assert plan.copied == {"index": 1, "cls": 2, "dense": 2, "regions": 1, "local": 1}
    job = planner.job(plan, 0)
    copied = {name: [i for i in range(4) if job.copies(i, name)] for name in PER_ROW}
    assert copied == {
        "index": [1],
        "cls": [0, 1],
        "dense": [0, 1],
        "regions": [1],
        "local": [1],
    }
    assert [job.reads(i) for i in range(4)] == [True, False, True, True]
    with pytest.raises(CacheError, match=r"3 of 6 images .*: scene_000, scene_002, scene_003\. "):
        refuse_changed(path, wanted(world, tiny_clip, path.parent).samples, plan.states)


def test_labels_of_unseen_classes_are_no_reason(fresh: tuple[Path, Path], tiny_clip: str) -> None:
    world, path = fresh
    label_HW = pixels(label_of(world, 1))
    Image.fromarray(np.where(label_HW == 3, 255, label_HW)).save(label_of(world, 1))
    _, plan = planned(world, tiny_clip, path.parent)
    assert (plan.todo, plan.states) == ({}, {})


@pytest.mark.parametrize("kept", ["in front", "set aside"])
def test_images_that_come_and_go_count_those_that_are_new(
    fresh: tuple[Path, Path], tiny_clip: str, kept: str
) -> None:
    """Before a run, and after one that was killed when it had set the store aside."""
    world, path = fresh
    add(world, 0, "a")
    remove(world, 4)
    edit(world, 1)
    if kept == "set aside":
        with pytest.MonkeyPatch.context() as patch:
            kill_commit(patch, 0)
            with pytest.raises(KeyboardInterrupt):
                run_stage(world, tiny_clip, path.parent, config=IN_ORDER, update=True)
        assert (path / ".previous" / "zarr.json").exists()
    planner, plan = planned(world, tiny_clip, path.parent)
    assert plan.todo == dict.fromkeys(PER_ROW, ALL)
    assert plan.rows == dict.fromkeys(PER_ROW, 2)
    assert plan.copied == dict.fromkeys(PER_ROW, 4)
    for name in PER_ROW:
        reasons = +plan.why[name]
        assert reasons == {"they are new": 1, "their image file is another one": 1}
    # The text has no rows: it is copied.
    assert planner.units_set_aside.keys() == {"text"}
    job = planner.job(plan, 0)
    assert [sample.id for sample in job.samples] == ["a", "scene_000", "scene_001", "scene_002"]
    assert job.old is not None
    assert {place: (row.row, row.same) for place, row in job.old.rows.items()} == {
        1: (0, True),
        2: (1, False),
        3: (2, True),
    }


def test_lost_and_damaged_shards_are_named(fresh: tuple[Path, Path], tiny_clip: str) -> None:
    world, path = fresh
    (path / "regions" / "c.1.0.0").unlink()
    (path / "ledger" / "index" / "000000.json").write_text("{}")
    _, plan = planned(world, tiny_clip, path.parent)
    assert plan.todo == dict.fromkeys(("index", "cls", "dense", "local"), FIRST) | {"regions": ALL}
    assert plan.why["regions"] == {
        "its index is lost": 4,
        f"{path / 'regions' / 'c.1.0.0'}: missing": 2,
    }
    ((reason, rows),) = plan.why["index"].items()
    assert rows == 4
    assert "damaged, it does not fit its own checksum" in reason
    assert plan.why["cls"] == {"its index is lost": 4}


def test_failed_images_are_planned_when_their_file_changes_or_on_demand(
    fresh: tuple[Path, Path], tiny_clip: str
) -> None:
    world, path = fresh
    good = image_of(world, 5).read_bytes()
    image_of(world, 5).write_text("no image")
    run_stage(world, tiny_clip, path.parent, update=True)
    assert planned(world, tiny_clip, path.parent)[1].todo == {}
    assert planned(world, tiny_clip, path.parent, retry_failed=True)[1].todo == {}
    image_of(world, 5).write_bytes(good[:200])
    _, plan = planned(world, tiny_clip, path.parent)
    assert (plan.states, plan.rows["cls"]) == ({5: "useless"}, 1)
    assert plan.why["index"] == {"they fail for another reason now": 1}
    image_of(world, 5).write_bytes(good)
    _, plan = planned(world, tiny_clip, path.parent)
    assert plan.states == {5: "usable"}
    assert plan.why["dense"] == {"they can be read now, or are to be tried again": 1}
    refuse_changed(path, wanted(world, tiny_clip, path.parent).samples, plan.states)


def test_a_basis_that_is_lost_takes_what_is_made_from_it(
    fresh: tuple[Path, Path], tiny_clip: str, tmp_path: Path
) -> None:
    world, _ = fresh
    config = CONFIG.model_copy(update={"dense": DenseConfig(size=(64, 96), format="pca:4")})
    path = run_stage(world, tiny_clip, tmp_path / "pca", config=config).path
    (path / "pca_mean" / "c.0").unlink()
    planner, plan = planned(world, tiny_clip, path.parent, config=config)
    late = ("dense", "regions", "local")
    (basis,) = plan.todo.keys() - set(late)
    assert plan.todo == {basis: [0]} | dict.fromkeys(late, ALL)
    assert {name: plan.why[name] for name in late} == whole(
        "what it is made from is made again", *late
    )
    assert plan.rows[basis] == 6
    job = planner.job(plan, 0)
    assert job.old is not None
    assert job.old.valid == {"index", "cls"}


def test_a_list_that_changes_again_is_planned_from_what_was_set_aside(
    fresh: tuple[Path, Path], tiny_clip: str
) -> None:
    """The unfinished store in front would be given up, so nothing is copied of it."""
    world, path = fresh
    add(world, 0, "a")
    with pytest.MonkeyPatch.context() as patch:
        kill_commit(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            run_stage(world, tiny_clip, path.parent, config=IN_ORDER, update=True)
    add(world, 1, "b")
    _, plan = planned(world, tiny_clip, path.parent)
    assert plan.rows == dict.fromkeys(PER_ROW, 2)
    done = run_stage(world, tiny_clip, path.parent, update=True)
    assert done.written == plan.rows


class Measured:
    """An engine that has timed each artifact of an image."""

    def ask(self, _: Any) -> dict[str, float]:
        return {"text": 0.0, "index": 1, "cls": 10, "dense": 100, "regions": 1000, "local": 1e4}


def test_a_forecast_says_what_would_be_refused(fresh: tuple[Path, Path], tiny_clip: str) -> None:
    world, path = fresh
    config = CONFIG.model_copy(update={"shard_images": 2})
    planner, plan = planned(world, tiny_clip, path.parent, config=config)
    lines = forecast_lines(forecast_plan(planner, plan, cast(Engine, Measured())))
    assert lines[1:] == [
        "this would be refused: a different store is in this folder",
        "  shard_rows: stored 4, asked 2",
    ]
    with pytest.raises(CacheError, match="shard_rows: stored 4, asked 2"):
        run_stage(world, tiny_clip, path.parent, config=config, update=True)
    # The same change of images, followed on the disk, at a URL.
    add(world, 0, "z")
    planner, plan = planned(world, tiny_clip, path.parent)
    assert forecast_plan(planner, plan, cast(Engine, Measured())).refused == ()
    planner.wanted = replace(planner.wanted, path=store_path("memory://bucket/store"))
    lines = forecast_lines(forecast_plan(planner, plan, cast(Engine, Measured())))
    assert lines[1].startswith("this would be refused: images were added or removed")
    assert "`zsseg cache export`" in lines[1]
    assert lines[2:] == ["  index: 1 image new: z"]


def test_a_forecast_says_that_an_update_is_needed_though_nothing_is_computed(
    fresh: tuple[Path, Path], tiny_clip: str
) -> None:
    world, path = fresh
    config = CONFIG.model_copy(update={"local": LocalConfig(enabled=False)})
    planner, plan = planned(world, tiny_clip, path.parent, config=config)
    found = forecast_plan(planner, plan, cast(Engine, None))
    assert (found.artifacts, found.update) == ((), True)
    assert forecast_lines(found)[-1] == "needs --update"
    with pytest.raises(CacheError, match="--update"):
        run_stage(world, tiny_clip, path.parent, config=config)


def test_dense_tokens_that_are_not_kept_cost_time_where_regions_are_made(
    fresh: tuple[Path, Path], tiny_clip: str, tmp_path: Path
) -> None:
    world, _ = fresh
    config = CONFIG.model_copy(update={"dense": DenseConfig(size=(64, 96), format="none")})
    anew = planned(world, tiny_clip, tmp_path / "none", config=config)
    assert forecast_plan(*anew, cast(Engine, Measured())).seconds == 6 * 11111
    path = run_stage(world, tiny_clip, tmp_path / "none", config=config).path
    (path / "ledger" / "regions" / "000001.json").unlink()
    again = planned(world, tiny_clip, path.parent, config=config)
    assert again[1].rows == {"regions": 2}
    assert forecast_plan(*again, cast(Engine, Measured())).seconds == 2 * 1100


def test_a_forecast_says_what_dense_tokens_cost(
    fresh: tuple[Path, Path], tiny_clip: str, tmp_path: Path
) -> None:
    world, path = fresh
    dense = {"size": [64, 96], "scales": [0.5, 1.5], "flip": True, "windows": {"size": 64}}
    config = CONFIG.model_copy(update={"dense": DenseConfig.model_validate_json(json.dumps(dense))})
    anew = planned(world, tiny_clip, tmp_path / "several", config=config)
    found = forecast_plan(*anew, cast(Engine, Measured()))
    # 64 x 64 pixels of 96 x 144 every 32: 2 x 4 windows (0, 24 or 32, 48 or 56, 80).
    assert (
        "dense tokens of an image: 18 passes (32 x 48, 96 x 144 in 8 windows of 64 x 64, each also "
        "mirrored), 100.00 s, stored on 8 x 12 in 4.6 kB"
    ) in forecast_lines(found)
    once = planned(world, tiny_clip, tmp_path / "once")
    assert (
        "dense tokens of an image: 1 pass (64 x 96), 100.00 s, stored on 8 x 12 in 4.6 kB"
    ) in forecast_lines(forecast_plan(*once, cast(Engine, Measured())))
    complete = planned(world, tiny_clip, path.parent)
    assert forecast_plan(*complete, cast(Engine, None)).dense is None


def test_planning_with_the_lock_keeps_what_was_learnt(
    fresh: tuple[Path, Path], tiny_clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that files of another date are hashed once, also where the run is killed then."""
    world, path = fresh
    for number in range(6):
        os.utime(image_of(world, number), ns=(1, 1))
    edit(world, 3)
    before = content(path)
    meter = Meter(lambda _: None)
    asked = wanted(world, tiny_clip, path.parent)
    plan = Planner(asked, retry_failed=False, keeps=True, meter=meter).plan()
    assert plan.states == {3: "changed"}
    assert content(path) == before
    looked: list[str] = []

    def noted(_: DatasetSpec, sample: Any) -> Any:
        looked.append(sample.id)
        raise CacheError("enough")

    monkeypatch.setattr(changed_files, "content_hashes", noted)
    planner = Planner(asked, retry_failed=False, keeps=True, meter=meter)
    with pytest.raises(CacheError, match="enough"):
        planner.plan()
    assert looked == ["scene_003"]


def test_images_that_come_are_a_difference_with_their_names(
    fresh: tuple[Path, Path], tiny_clip: str
) -> None:
    world, path = fresh
    add(world, 0, "z")
    remove(world, 2)
    planner, _ = planned(world, tiny_clip, path.parent)
    assert planner.mismatch is not None
    assert planner.mismatch.images == (
        "index: 1 image no longer there: scene_002",
        "index: 1 image new: z",
    )
    assert planner.mismatch.lines == list(planner.mismatch.images)
