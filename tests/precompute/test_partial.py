"""What changed is computed again and nothing else, from any point at which a run was killed.

Every store that came about by changes is compared with one made anew of the same files.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.clip_store import BALL, content, image_of, load_once, pixels
from helpers.clip_store import CONFIG as MERGED
from helpers.clip_store import run as run_stage
from helpers.dataset_changes import add, edit, relabel, remove
from helpers.drawn_world import draw_world
from helpers.stage_one_faults import kill_commit
from numpy.typing import NDArray
from PIL import Image

from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.manifest import read_manifest
from zsseg.stages.cache.reader import Store
from zsseg.stages.cache.writer import Writer
from zsseg.stages.data.images import read_image
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec, load_spec
from zsseg.stages.data.visible import read_visible_label
from zsseg.stages.errors import CacheError, DatasetError
from zsseg.stages.precompute.engine import fill_shard
from zsseg.stages.precompute.engine.jobs import KILLED, Job, RunContext, ShardResult
from zsseg.stages.precompute.engine.shard_worker import ShardWorker, Tick
from zsseg.stages.precompute.make import pictures
from zsseg.stages.precompute.make.class_crops import class_crops
from zsseg.stages.precompute.plan import changed_files
from zsseg.stages.precompute.plan.work_plan import Planner
from zsseg.stages.precompute.precompute_config import DenseConfig, PrecomputeConfig
from zsseg.stages.precompute.run import PrecomputeResult
from zsseg.stages.precompute.teacher.clip_teacher import ClipTeacher
from zsseg.stages.precompute.teacher.teacher_files import resolve_teacher

PER_ROW = ("index", "cls", "dense", "regions", "local")
# Of the two thresholds this one keeps regions apart that the other merges.
CONFIG = MERGED.model_copy(
    update={"regions": MERGED.regions.model_copy(update={"merge_threshold": 0.97})}
)
IN_ORDER = CONFIG.model_copy(update={"shards_at_once": 1})
Change = Callable[[Path], Mapping[str, Any]]
"""Changes a world; what to ask of the next run."""


def run(world: Path, clip: str, cache: Path, **more: Any) -> PrecomputeResult:
    return run_stage(world, clip, cache, **{"config": CONFIG} | more)


pytestmark = pytest.mark.usefixtures("one_teacher")


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Images and crops that the teacher has encoded since."""
    count: Counter[str] = Counter()
    cls, dense = ClipTeacher.cls, ClipTeacher.dense

    def counted_cls(self: ClipTeacher, images: Any) -> NDArray[np.float32]:
        count["cls"] += len(images)
        return cls(self, images)

    def counted_dense(self: ClipTeacher, images: Any, config: Any) -> NDArray[np.float32]:
        count["dense"] += len(images)
        return dense(self, images, config)

    monkeypatch.setattr(ClipTeacher, "cls", counted_cls)
    monkeypatch.setattr(ClipTeacher, "dense", counted_dense)
    return count


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the images that are decoded for their tokens."""
    seen: list[str] = []

    def noted(
        spec: DatasetSpec, root: Path, sample: Sample, *, keep: Callable[[int], bool]
    ) -> pictures.ShardRow:
        seen.append(sample.id)
        return pictures.read_shard_row(spec, root, sample, keep=keep)

    monkeypatch.setattr(fill_shard, "read_shard_row", noted)
    return seen


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_clip: str) -> tuple[Path, Path]:
    """A world of six images and its store, for tests that change neither."""
    folder = tmp_path_factory.mktemp("partial")
    world = draw_world(folder / "world", images=6)
    draw_world(folder / "more", images=4, seed=7)
    store = run(world, tiny_clip, folder / "cache").path
    assert isinstance(store, Path)
    return world, store


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, tiny_clip: str) -> tuple[Path, Path]:
    """Three images in two shards, where a test runs stage one many times."""
    folder = tmp_path_factory.mktemp("small")
    world = draw_world(folder / "world", images=3)
    draw_world(folder / "more", images=4, seed=7)
    store = run(world, tiny_clip, folder / "cache", config=few(CONFIG)).path
    assert isinstance(store, Path)
    return world, store


def few(config: PrecomputeConfig) -> PrecomputeConfig:
    return config.model_copy(update={"shard_images": 2})


def copy(made: tuple[Path, Path], folder: Path) -> tuple[Path, Path]:
    """The world and its store in `folder`, with the other images beside; files keep their dates."""
    world, store = made
    shutil.copytree(world.parent, folder / "world")
    shutil.copytree(world.parents[1] / "more", folder / "more")
    shutil.copytree(store, folder / "cache" / store.name)
    return folder / "world" / world.name, folder / "cache" / store.name


@pytest.fixture
def fresh(made: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    return copy(made, tmp_path)


def equal(path: StorePath, other: StorePath) -> None:
    """Two stores hold the same, but for the last bit of what other batches give."""
    store, wanted = Store.open(path), Store.open(other)
    assert store.index == wanted.index
    for name in wanted.manifest.arrays:
        values, expected = store.read_all(name), wanted.read_all(name)
        if values.dtype == np.float16:
            np.testing.assert_allclose(values, expected, rtol=2**-10, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(values, expected, err_msg=name)
    for artifact in wanted.manifest.artifacts:
        for shard in wanted.manifest.shards(artifact):
            receipts = [each.receipt(artifact.name, shard) for each in (store, wanted)]
            for receipt in receipts:
                receipt.pop("files")
            assert receipts[0] == receipts[1], (artifact.name, shard)
    assert not (path / ".previous").exists()


def equal_to_anew(path: Path, world: Path, clip: str, **more: Any) -> None:
    anew = run(world, clip, path.parents[1] / "anew", **more)
    assert path.name == anew.path.name
    equal(path, anew.path)


def values(path: StorePath) -> dict[str, NDArray[Any]]:
    store = Store.open(path)
    return {name: store.read_all(name) for name in store.manifest.arrays}


def history(path: Path) -> Mapping[str, Any]:
    """The history's entry of the last run that computed anything."""
    return next(entry for entry in reversed(Store.open(path).history) if "forwards" in entry)


def crops_of(world: Path, path: Path, clip: str, config: PrecomputeConfig) -> list[list[bytes]]:
    """Pixels of each crop of each image as the teacher sees them, from the region maps stored."""
    spec, store = load_spec(str(world)), Store.open(path)
    teacher = load_once(resolve_teacher(clip), device="cpu")
    found = []
    for row, entry in enumerate(store.index):
        image, label = (world.parent / entry[kind] for kind in ("image", "label"))
        crops, _, _ = class_crops(
            read_image(image),
            read_visible_label(spec, Sample(entry["id"], image, label)),
            store.read("regions", row),
            margin=config.local.margin,
            max_masks=config.local.max_masks,
        )
        masked = (crop.masked(teacher.mean_colour) for crop in crops)
        found.append([teacher.fitted(crop, teacher.native_size).tobytes() for crop in masked])
    return found


# (a) Another threshold


def test_another_threshold_encodes_the_crops_that_differ_and_nothing_else(
    fresh: tuple[Path, Path], tiny_clip: str, passed: Counter[str]
) -> None:
    world, path = fresh
    before, old_crops = values(path), crops_of(world, path, tiny_clip, CONFIG)
    result = run(world, tiny_clip, path.parent, config=MERGED, update=True)
    forwards = dict(passed)
    after, new_crops = values(path), crops_of(world, path, tiny_clip, MERGED)
    known = {crop for row in old_crops for crop in row}
    others = [crop for row in new_crops for crop in row if crop not in known]
    total = sum(map(len, new_crops))
    assert 0 < len(others) < total, "the test needs regions that change and some that do not"
    assert (before["regions"] != after["regions"]).any()
    assert forwards == {"cls": len(others)}
    assert history(path)["forwards"] == {"local": len(others)}
    assert history(path)["kept"] == {"local": total - len(others)}
    assert result.written == {"regions": 6, "local": 6}
    for name in ("size", "status", "views", "cls", "dense", "text"):
        np.testing.assert_array_equal(before[name], after[name])
    equal_to_anew(path, world, tiny_clip, config=MERGED)


def test_the_old_threshold_again_encodes_only_what_is_not_there_any_more(
    fresh: tuple[Path, Path], tiny_clip: str, passed: Counter[str]
) -> None:
    world, path = fresh
    before = content(path)
    run(world, tiny_clip, path.parent, config=MERGED, update=True)
    there = {crop for row in crops_of(world, path, tiny_clip, MERGED) for crop in row}
    passed.clear()
    run(world, tiny_clip, path.parent, update=True)
    forwards = Counter(passed)
    wanted = [crop for row in crops_of(world, path, tiny_clip, CONFIG) for crop in row]
    others = sum(crop not in there for crop in wanted)
    assert others < len(wanted)
    assert forwards == Counter(cls=others)
    assert content(path).keys() == before.keys()
    equal_to_anew(path, world, tiny_clip)


def test_equal_maps_encode_no_crop(
    fresh: tuple[Path, Path], tiny_clip: str, passed: Counter[str]
) -> None:
    """A setting may be another one and its regions the same."""
    world, path = fresh
    regions = CONFIG.regions.model_copy(update={"iterations": CONFIG.regions.iterations + 90})
    config = CONFIG.model_copy(update={"regions": regions})
    maps = values(path)["regions"]
    run(world, tiny_clip, path.parent, config=config, update=True)
    np.testing.assert_array_equal(maps, values(path)["regions"])
    assert not passed
    assert history(path)["forwards"] == {}


@pytest.mark.parametrize("damage", ["missing", "cut short", "flipped"])
def test_damaged_tokens_of_crops_are_encoded_again(
    fresh: tuple[Path, Path], tiny_clip: str, passed: Counter[str], damage: str
) -> None:
    world, path = fresh
    file = path / "local" / "c.0.0.0"
    data = file.read_bytes()
    shard, crops = range(CONFIG.shard_images), crops_of(world, path, tiny_clip, CONFIG)
    known = {crop for row in crops[CONFIG.shard_images :] for crop in row}
    if damage == "missing":
        file.unlink()
    elif damage == "cut short":
        file.write_bytes(data[:-1])
    else:
        file.write_bytes(data[:99] + bytes([data[99] ^ 4]) + data[100:])
    run(world, tiny_clip, path.parent, config=MERGED, update=True)
    forwards = passed["cls"]
    new = crops_of(world, path, tiny_clip, MERGED)
    assert forwards == sum(
        row in shard or crop not in known for row, crops in enumerate(new) for crop in crops
    )
    assert passed.keys() == {"cls"}
    equal_to_anew(path, world, tiny_clip, config=MERGED)


# (b), (f) Edited and relabelled images


def test_an_edited_image_touches_its_own_row(
    fresh: tuple[Path, Path], tiny_clip: str, passed: Counter[str], looked_at: list[str]
) -> None:
    world, path = fresh
    before = values(path)
    untouched = (path / "dense" / "c.1.0.0.0").stat().st_mtime_ns
    edit(world, 1)
    result = run(world, tiny_clip, path.parent, update=True)
    crops = len(crops_of(world, path, tiny_clip, CONFIG)[1])
    assert result.written == dict.fromkeys(PER_ROW, 1)
    assert looked_at == ["scene_001"]
    assert passed == {"dense": 1, "cls": 1 + crops}
    assert history(path)["forwards"] == {"dense": 1, "cls": 1, "local": crops}
    after = values(path)
    others = [0, 2, 3, 4, 5]
    for name in ("size", "status", "views", "cls", "dense", "regions", "local", "local_ids"):
        assert before[name][others].tobytes() == after[name][others].tobytes(), name
    assert (before["dense"][1] != after["dense"][1]).any()
    assert (path / "dense" / "c.1.0.0.0").stat().st_mtime_ns == untouched
    equal_to_anew(path, world, tiny_clip)


def test_a_relabelled_image_beside_an_edited_one(
    fresh: tuple[Path, Path], tiny_clip: str, passed: Counter[str], looked_at: list[str]
) -> None:
    world, path = fresh
    before = values(path)
    known = {crop for row in crops_of(world, path, tiny_clip, CONFIG)[:4] for crop in row}
    relabel(world, 0)
    edit(world, 2)
    result = run(world, tiny_clip, path.parent, update=True)
    new = crops_of(world, path, tiny_clip, CONFIG)
    others = sum(crop not in known for row in (0, 2) for crop in new[row])
    assert 0 < others < len(new[0]) + len(new[2])
    assert result.written == {"index": 2, "cls": 1, "dense": 1, "regions": 2, "local": 2}
    assert sorted(looked_at) == ["scene_000", "scene_002"]
    assert passed == {"dense": 1, "cls": 1 + others}
    after = values(path)
    assert before["dense"][0].tobytes() == after["dense"][0].tobytes()
    for name in ("regions", "local", "local_ids"):
        assert before[name][[1, 3, 4, 5]].tobytes() == after[name][[1, 3, 4, 5]].tobytes(), name
    equal_to_anew(path, world, tiny_clip)


def test_an_image_edited_while_the_run_goes_on_is_noticed_by_the_next(
    fresh: tuple[Path, Path], tiny_clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row was made before, so its new date is none that the store was made from."""
    world, path = fresh
    edit(world, 1)
    commit = Writer.commit

    def meanwhile(self: Writer, artifact: str, *args: Any, **kwargs: Any) -> None:
        commit(self, artifact, *args, **kwargs)
        if artifact == "local":
            edit(world, 1)
            edit(world, 4)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "commit", meanwhile)
        run(world, tiny_clip, path.parent, update=True)
    with pytest.raises(CacheError, match=r"2 of 6 images .*scene_001, scene_004\."):
        run(world, tiny_clip, path.parent)
    assert run(world, tiny_clip, path.parent, update=True).written == dict.fromkeys(PER_ROW, 2)
    equal_to_anew(path, world, tiny_clip)


# (c) Images that come and go


@pytest.mark.parametrize(
    ("added", "removed", "shard_images"),
    [
        (["a"], [], 4),
        (["scene_001b"], [], 4),
        (["z", "z2", "z3"], [], 4),
        ([], [0], 4),
        ([], [4, 5], 4),
        (["a", "scene_003b"], [0, 2, 5], 4),
        (["a", "scene_003b"], [2], 8),
        (["scene_003b", "z"], [0, 3], 1),
    ],
)
def test_images_that_come_and_go_move_the_others_rows(
    made: tuple[Path, Path],
    tmp_path: Path,
    tiny_clip: str,
    passed: Counter[str],
    looked_at: list[str],
    *,
    added: list[str],
    removed: list[int],
    shard_images: int,
) -> None:
    world, path = copy(made, tmp_path)
    config = CONFIG.model_copy(update={"shard_images": shard_images})
    if shard_images != CONFIG.shard_images:
        other = run(world, tiny_clip, tmp_path / "other", config=config).path
        assert isinstance(other, Path)
        path = other
    before, ids = values(path), [entry["id"] for entry in Store.open(path).index]
    for number, name in enumerate(added):
        add(world, number, name)
    for number in removed:
        remove(world, number)
    with pytest.raises(CacheError, match=r"images? (new|no longer there): .*[\s\S]*--update"):
        run(world, tiny_clip, path.parent, config=config)
    passed.clear()
    looked_at.clear()
    result = run(world, tiny_clip, path.parent, config=config, update=True)
    forwards = dict(passed)
    after, now = values(path), [entry["id"] for entry in Store.open(path).index]
    assert now == sorted({*ids, *added} - {f"scene_{number:03d}" for number in removed})
    crops = sum(map(len, (crops_of(world, path, tiny_clip, config)[now.index(a)] for a in added)))
    assert sorted(looked_at) == sorted(added)
    if added:
        assert forwards == {"dense": len(added), "cls": len(added) + crops}
        assert result.written == dict.fromkeys(PER_ROW, len(added))
    else:
        assert (forwards, result.written) == ({}, {})
    old, new = zip(*[(ids.index(i), now.index(i)) for i in now if i in ids], strict=True)
    for name in ("size", "status", "views", "cls", "dense", "regions", "local", "local_ids"):
        assert before[name][list(old)].tobytes() == after[name][list(new)].tobytes(), name
    equal_to_anew(path, world, tiny_clip, config=config)
    assert run(world, tiny_clip, path.parent, config=config).written == {}


def test_images_that_come_while_others_are_edited_and_fail(
    fresh: tuple[Path, Path], tiny_clip: str, passed: Counter[str], looked_at: list[str]
) -> None:
    world, path = fresh
    image_of(world, 3).write_text("no image")
    assert list(run(world, tiny_clip, path.parent, update=True).failed) == ["scene_003"]
    add(world, 0, "a")
    edit(world, 1)
    relabel(world, 5)
    passed.clear()
    looked_at.clear()
    result = run(world, tiny_clip, path.parent, update=True)
    assert sorted(looked_at) == ["a", "scene_001", "scene_005"]
    assert passed["dense"] == 2
    assert result.written == {"index": 3, "cls": 2, "dense": 2, "regions": 3, "local": 3}
    assert list(result.failed) == ["scene_003"]
    equal_to_anew(path, world, tiny_clip)


def test_images_that_come_with_another_threshold(
    fresh: tuple[Path, Path], tiny_clip: str, passed: Counter[str]
) -> None:
    world, path = fresh
    known = {crop for row in crops_of(world, path, tiny_clip, CONFIG) for crop in row}
    add(world, 0, "a")
    run(world, tiny_clip, path.parent, config=MERGED, update=True)
    forwards = dict(passed)
    new = crops_of(world, path, tiny_clip, MERGED)
    others = sum(crop not in known for row in new for crop in row)
    assert forwards == {"dense": 1, "cls": 1 + others}
    equal_to_anew(path, world, tiny_clip, config=MERGED)


def test_a_list_that_changes_again_before_the_run_is_finished(
    fresh: tuple[Path, Path], tiny_clip: str, passed: Counter[str]
) -> None:
    """What was set aside first still serves, though the store in front is given up."""
    world, path = fresh
    add(world, 0, "a")
    with pytest.MonkeyPatch.context() as patch:
        kill_commit(patch, 7)
        with pytest.raises(KeyboardInterrupt):
            run(world, tiny_clip, path.parent, config=IN_ORDER, update=True)
    assert (path / ".previous" / "zarr.json").exists()
    add(world, 1, "b")
    with pytest.raises(CacheError, match="1 image new: b"):
        run(world, tiny_clip, path.parent)
    passed.clear()
    run(world, tiny_clip, path.parent, update=True)
    assert passed["dense"] == 2
    equal_to_anew(path, world, tiny_clip)


@pytest.mark.parametrize("name", ["cls/c.0.0.0", "text/c.0.0"])
def test_damage_in_what_was_set_aside_is_named_and_its_file_may_be_deleted(
    fresh: tuple[Path, Path], tiny_clip: str, name: str
) -> None:
    world, path = fresh
    file = path / name
    data = file.read_bytes()
    file.write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])
    add(world, 0, "a")
    damaged = path / ".previous" / name
    for _ in range(2):
        with pytest.raises(CacheError, match=f"{damaged}: damaged .*Delete the file"):
            run(world, tiny_clip, path.parent, update=True)
    damaged.unlink()
    run(world, tiny_clip, path.parent, update=True)
    equal_to_anew(path, world, tiny_clip)


@pytest.mark.parametrize("left_out", [(), (0, 2, 3)], ids=["whole", "halved"])
def test_a_shard_whose_process_was_lost_copies_nothing_that_it_left(
    fresh: tuple[Path, Path],
    tiny_clip: str,
    monkeypatch: pytest.MonkeyPatch,
    left_out: tuple[int, ...],
) -> None:
    """It may have replaced the old values, or have been sent to find the image that kills it."""
    work = ShardWorker.work

    def lost_once(self: ShardWorker, job: Job, context: RunContext, tick: Tick) -> ShardResult:
        work(self, job.without(dict.fromkeys(left_out, "not looked at")), context, tick)
        return work(self, job, context, tick)

    world, path = fresh
    relabel(world, 0)
    edit(world, 1)
    monkeypatch.setattr(ShardWorker, "work", lost_once)
    result = run(world, tiny_clip, path.parent, update=True)
    monkeypatch.undo()
    monkeypatch.setattr("zsseg.stages.precompute.teacher.clip_teacher.load_teacher", load_once)
    assert not result.failed
    equal_to_anew(path, world, tiny_clip)


def test_an_image_that_killed_its_process_is_not_read_for_another_setting_or_date(
    fresh: tuple[Path, Path],
    tiny_clip: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    looked_at: list[str],
) -> None:
    world, cache = fresh[0], tmp_path / "killed"
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


# (d) Killed at any point


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
    small: tuple[Path, Path], tmp_path: Path, tiny_clip: str, change: Change, commits: int
) -> None:
    world, _ = copy(small, tmp_path / "whole")
    more = change(world)
    anew = run(world, tiny_clip, tmp_path / "anew", **more).path
    for number in range(commits + 1):
        world, path = copy(small, tmp_path / str(number))
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
    fresh: tuple[Path, Path], tmp_path: Path, tiny_clip: str, change: Change
) -> None:
    """Here, and in the store that was set aside: other images, another basis."""
    world, _ = fresh
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
    small: tuple[Path, Path], tmp_path: Path, tiny_clip: str, passed: Counter[str]
) -> None:
    world, _ = copy(small, tmp_path / "whole")
    more = came_and_went(world)
    anew = run(world, tiny_clip, tmp_path / "anew", **more).path
    arrays = len(read_manifest(anew).arrays)
    replace = Path.replace
    for number in range(4 + arrays):
        world, path = copy(small, tmp_path / str(number))
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


# (e) Names


def test_other_names_touch_the_text_alone(
    fresh: tuple[Path, Path], tiny_clip: str, passed: Counter[str], looked_at: list[str]
) -> None:
    world, path = fresh
    spec = load_spec(str(world)).model_copy(update={"names": {"box": "crate", "sky": "heaven"}})
    before, old = content(path), values(path)
    with pytest.raises(CacheError, match=r"text\.names\[0\]: stored \"sky\", asked \"heaven\""):
        run(world, tiny_clip, path.parent, spec=spec)
    result = run(world, tiny_clip, path.parent, spec=spec, update=True)
    assert result.written == {"text": 4}
    assert (dict(passed), looked_at) == ({}, [])
    after = content(path)
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    metadata = {"zarr.json", "seal.json", "README.md"}
    assert changed - metadata == {"ledger/text/000000.json", "text/c.0.0"}
    assert (old["text"] != values(path)["text"]).any(1).tolist() == [True, False, True, False]
    equal_to_anew(path, world, tiny_clip, spec=spec)


# (g) Failures


def test_a_failed_image_is_left_alone_until_it_is_asked_for(
    fresh: tuple[Path, Path],
    tiny_clip: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    looked_at: list[str],
) -> None:
    """A disk that failed once leaves no trace in the file."""
    world, path = fresh
    edit(world, 1)
    anew = run(world, tiny_clip, tmp_path / "good").path

    def failing(file: Path, content: bytes) -> NDArray[np.uint8]:
        if file == image_of(world, 1):
            raise DatasetError(f"{file}: Stale file handle")
        return read_image(file, content)

    with monkeypatch.context() as patch:
        patch.setattr(pictures, "read_image", failing)
        result = run(world, tiny_clip, path.parent, update=True)
    assert result.failed == {"scene_001": "images/train/scene_001.png: Stale file handle"}
    assert Store.open(path).read_all("status").tolist() == [0, 1, 0, 0, 0, 0]
    asked: list[str] = []

    def noted(spec: DatasetSpec, root: Path, sample: Sample) -> pictures.ImageRow:
        asked.append(sample.id)
        return pictures.read_image_row(spec, root, sample)

    monkeypatch.setattr(changed_files, "read_image_row", noted)
    looked_at.clear()
    # Neither for nothing, nor for another row of its shard.
    assert run(world, tiny_clip, path.parent).written == {}
    edit(world, 2)
    assert run(world, tiny_clip, path.parent, update=True).written == dict.fromkeys(PER_ROW, 1)
    edit(world, 2)
    assert list(run(world, tiny_clip, path.parent, update=True).failed) == ["scene_001"]
    assert (asked, looked_at) == ([], ["scene_002"] * 2)
    result = run(world, tiny_clip, path.parent, retry_failed=True)
    assert (result.written, result.failed) == (dict.fromkeys(PER_ROW, 1), {})
    assert asked == ["scene_001"]
    equal(path, anew)


def test_failures_that_stay_are_tried_each_time_they_are_asked_for(
    fresh: tuple[Path, Path], tiny_clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, path = fresh
    image_of(world, 5).write_text("no image")
    run(world, tiny_clip, path.parent, update=True)
    before = content(path)
    monkeypatch.setattr("zsseg.stages.precompute.teacher.clip_teacher.load_teacher", None)
    result = run(world, tiny_clip, path.parent, retry_failed=True)
    assert (result.written, list(result.failed)) == ({}, ["scene_005"])
    assert content(path) == before


def test_more_failures_than_allowed_end_the_run(
    small: tuple[Path, Path], tmp_path: Path, tiny_clip: str, passed: Counter[str]
) -> None:
    world, _ = copy(small, tmp_path)
    for number in (0, 1):
        image_of(world, number).write_text("no image")
    more: dict[str, Any] = {"config": IN_ORDER.model_copy(update={"shard_images": 1})}
    cache = tmp_path / "bad"
    message = r"2 images cannot be used, more than --max-failures 1\. .*scene_00[01]\.png"
    with pytest.raises(DatasetError, match=message):
        run(world, tiny_clip, cache, max_failures=1, **more)
    passed.clear()
    # Failures of before count: the same run ends before it computes what is left.
    with pytest.raises(DatasetError, match=message):
        run(world, tiny_clip, cache, max_failures=1, **more)
    assert not passed
    result = run(world, tiny_clip, cache, max_failures=2, **more)
    assert list(result.failed) == ["scene_000", "scene_001"]
    before = content(result.path)
    with pytest.raises(DatasetError, match=message):
        run(world, tiny_clip, cache, max_failures=1, **more)
    assert content(result.path) == before
    equal(result.path, run(world, tiny_clip, tmp_path / "anew", **more).path)


# (i) Unseen labels


def test_unseen_labels_change_no_byte_of_an_update(
    made: tuple[Path, Path], tmp_path: Path, tiny_clip: str
) -> None:
    """Noise in their place: the store is the same, and so is every change of it."""
    worlds, paths = zip(*[copy(made, tmp_path / name) for name in ("clean", "noisy")], strict=True)
    rng = np.random.default_rng(3)
    # The picture that comes shows unseen classes, too.
    for file in [*(tmp_path / "noisy").glob("*/labels/train/*.png")]:
        label_HW = pixels(file)
        hidden_HW = (label_HW == BALL) | (label_HW == 255)
        noise_HW = rng.choice(np.array([BALL, 255], np.uint8), label_HW.shape)
        assert (noise_HW != label_HW)[hidden_HW].any()
        Image.fromarray(np.where(hidden_HW, noise_HW, label_HW)).save(file)
    for world, path in zip(worlds, paths, strict=True):
        edit(world, 1)
        add(world, 0, "scene_003b")
        result = run(world, tiny_clip, path.parent, config=MERGED, update=True)
        assert result.written == dict.fromkeys(PER_ROW, 2) | {"regions": 7, "local": 7}
    assert content(paths[0]) == content(paths[1])
    anew = [run(world, tiny_clip, world.parents[1] / "anew", config=MERGED) for world in worlds]
    assert content(anew[0].path) == content(anew[1].path)
    equal(paths[1], anew[0].path)
