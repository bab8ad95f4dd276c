"""What changed is computed again and nothing else.

Every store that came about by changes is compared with one made anew of the same files.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.clip_store import BALL, content, image_of, pixels
from helpers.clip_store import CONFIG as MERGED
from helpers.dataset_changes import add, edit, relabel, remove
from helpers.partial_store import (
    CONFIG,
    IN_ORDER,
    PER_ROW,
    copy,
    crops_of,
    equal,
    equal_to_anew,
    history,
    run,
    values,
)
from helpers.stage_one_faults import kill_commit
from PIL import Image

from zsseg.stages.cache.reader import Store
from zsseg.stages.cache.writer import Writer
from zsseg.stages.data.spec import load_spec
from zsseg.stages.errors import CacheError

pytest_plugins = ["helpers.partial_fixtures"]
pytestmark = pytest.mark.usefixtures("one_teacher")


# (a) Another threshold


def test_another_threshold_encodes_the_crops_that_differ_and_nothing_else(
    partial_fresh: tuple[Path, Path], tiny_clip: str, passed: Counter[str]
) -> None:
    world, path = partial_fresh
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
    partial_fresh: tuple[Path, Path], tiny_clip: str, passed: Counter[str]
) -> None:
    world, path = partial_fresh
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
    partial_fresh: tuple[Path, Path], tiny_clip: str, passed: Counter[str]
) -> None:
    """A setting may be another one and its regions the same."""
    world, path = partial_fresh
    regions = CONFIG.regions.model_copy(update={"iterations": CONFIG.regions.iterations + 90})
    config = CONFIG.model_copy(update={"regions": regions})
    maps = values(path)["regions"]
    run(world, tiny_clip, path.parent, config=config, update=True)
    np.testing.assert_array_equal(maps, values(path)["regions"])
    assert not passed
    assert history(path)["forwards"] == {}


@pytest.mark.parametrize("damage", ["missing", "cut short", "flipped"])
def test_damaged_tokens_of_crops_are_encoded_again(
    partial_fresh: tuple[Path, Path], tiny_clip: str, passed: Counter[str], damage: str
) -> None:
    world, path = partial_fresh
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
    partial_fresh: tuple[Path, Path], tiny_clip: str, passed: Counter[str], looked_at: list[str]
) -> None:
    world, path = partial_fresh
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
    partial_fresh: tuple[Path, Path], tiny_clip: str, passed: Counter[str], looked_at: list[str]
) -> None:
    world, path = partial_fresh
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
    partial_fresh: tuple[Path, Path], tiny_clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row was made before, so its new date is none that the store was made from."""
    world, path = partial_fresh
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
    partial_made: tuple[Path, Path],
    tmp_path: Path,
    tiny_clip: str,
    passed: Counter[str],
    looked_at: list[str],
    *,
    added: list[str],
    removed: list[int],
    shard_images: int,
) -> None:
    world, path = copy(partial_made, tmp_path)
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
    partial_fresh: tuple[Path, Path], tiny_clip: str, passed: Counter[str], looked_at: list[str]
) -> None:
    world, path = partial_fresh
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
    partial_fresh: tuple[Path, Path], tiny_clip: str, passed: Counter[str]
) -> None:
    world, path = partial_fresh
    known = {crop for row in crops_of(world, path, tiny_clip, CONFIG) for crop in row}
    add(world, 0, "a")
    run(world, tiny_clip, path.parent, config=MERGED, update=True)
    forwards = dict(passed)
    new = crops_of(world, path, tiny_clip, MERGED)
    others = sum(crop not in known for row in new for crop in row)
    assert forwards == {"dense": 1, "cls": 1 + others}
    equal_to_anew(path, world, tiny_clip, config=MERGED)


def test_a_list_that_changes_again_before_the_run_is_finished(
    partial_fresh: tuple[Path, Path], tiny_clip: str, passed: Counter[str]
) -> None:
    """What was set aside first still serves, though the store in front is given up."""
    world, path = partial_fresh
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
    partial_fresh: tuple[Path, Path], tiny_clip: str, name: str
) -> None:
    world, path = partial_fresh
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


# (e) Names


def test_other_names_touch_the_text_alone(
    partial_fresh: tuple[Path, Path], tiny_clip: str, passed: Counter[str], looked_at: list[str]
) -> None:
    world, path = partial_fresh
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


# (i) Unseen labels


def test_unseen_labels_change_no_byte_of_an_update(
    partial_made: tuple[Path, Path], tmp_path: Path, tiny_clip: str
) -> None:
    """Noise in their place: the store is the same, and so is every change of it."""
    worlds, paths = zip(
        *[copy(partial_made, tmp_path / name) for name in ("clean", "noisy")], strict=True
    )
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
