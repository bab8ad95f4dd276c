"""Stage one end to end: what a store holds, and that nothing but its recipe decides its bytes."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.clip_store import (
    BALL,
    CONFIG,
    IN_ORDER,
    content,
    files,
    image_of,
    label_of,
    pixels,
    run,
)
from helpers.stage_one_faults import spoil_tokens
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from zsseg.stages.cache.reader import Store
from zsseg.stages.cache.writer import Writer
from zsseg.stages.data.spec import load_spec
from zsseg.stages.errors import CacheError, NonFiniteError, ResourceError, UserError
from zsseg.stages.precompute.make.class_crops import class_crops
from zsseg.stages.precompute.make.regions import mine_regions
from zsseg.stages.precompute.precompute_config import (
    DenseConfig,
    LocalConfig,
    PrecomputeConfig,
    RegionConfig,
    TextConfig,
)
from zsseg.stages.precompute.progress import Progress
from zsseg.stages.precompute.teacher.clip_teacher import ClipTeacher, load_teacher
from zsseg.stages.precompute.teacher.teacher_files import resolve_teacher
from zsseg.stages.precompute.teacher.text_embeddings import encode_names
from zsseg.stages.train.run_config import StudentConfig

pytestmark = pytest.mark.usefixtures("one_teacher")


def test_a_store_holds_what_the_teacher_says(made: tuple[Path, Path], tiny_clip: str) -> None:
    world, path = made
    store = Store.open(path)
    spec = load_spec(str(world))
    teacher = load_teacher(resolve_teacher(tiny_clip), device="cpu")
    assert store.rows == 6
    assert [entry["id"] for entry in store.index] == [f"scene_{n:03d}" for n in range(6)]
    assert store.index[1]["image"] == "images/train/scene_001.png"
    assert store.index[1]["label"] == "labels/train/scene_001.png"
    assert store.identity["classes"] == ["sky", "ground", "box", "ball"]
    assert store.info["traits"] == {
        "width": 24,
        "native_size": [32, 32],
        "grid": [8, 12],
        "dense_path": "clearclip",
    }
    names = ["sky", "ground", "cardboard box", "ball"]
    np.testing.assert_allclose(
        store.read_all("text"), encode_names(resolve_teacher(tiny_clip), names, "single"), atol=1e-6
    )
    np.testing.assert_array_equal(store.read_all("size"), [[48, 64]] * 6)
    assert not store.read_all("status").any()
    np.testing.assert_array_equal(store.read_all("views"), [[[0, 0, 1, 1, 0, 1]]] * 6)
    for row in range(6):
        image_HW3, label_HW = pixels(image_of(world, row)), pixels(label_of(world, row))
        visible_HW = np.where(label_HW == BALL, 255, label_HW).astype(np.uint8)
        np.testing.assert_allclose(store.read("cls", row), teacher.cls([image_HW3]), atol=2e-3)
        dense_Dhw = store.read("dense", row)
        assert dense_Dhw.dtype == np.float16
        (expected_Dhw,) = teacher.dense([image_HW3], CONFIG.dense)
        np.testing.assert_allclose(dense_Dhw, expected_Dhw, atol=2e-3)
        # Tokens of 6 x 16/3 pixels: half of 32 must be void or ball.
        share_hw = np.kron(visible_HW == 255, np.ones((1, 3))).reshape(8, 6, 12, 16).mean((1, 3))
        region_hw = mine_regions(dense_Dhw, share_hw >= 0.5, CONFIG.regions, backend="sklearn")
        np.testing.assert_array_equal(store.read("regions", row), region_hw)
        crops, ids, _ = class_crops(image_HW3, visible_HW, region_hw, margin=0.1, max_masks=5)
        padded = [*ids, *[-1] * (5 - len(ids))]
        assert store.read("local_ids", row).tolist() == padded
        local_KD = store.read("local", row)
        np.testing.assert_allclose(
            local_KD[: len(ids)],
            teacher.cls([crop.masked(teacher.mean_colour) for crop in crops]),
            atol=2e-3,
        )
        assert not local_KD[len(ids) :].any()
    assert spec.unseen_ids == (BALL,)
    assert (store.read_all("regions") > 0).any()
    assert BALL not in store.read_all("local_ids")


def test_colours_of_the_classes_are_no_matter_to_a_store(
    made: tuple[Path, Path], tiny_clip: str, tmp_path: Path
) -> None:
    world, path = made
    shutil.copytree(world.parent, tmp_path / "world")
    shutil.copytree(path, tmp_path / "cache" / path.name)
    description = tmp_path / "world" / world.name
    with description.open("a") as file:
        file.write("colours: {ball: '#ff0000'}\n")
    assert load_spec(str(description)).colours == {"ball": (255, 0, 0)}
    before = content(tmp_path / "cache" / path.name)
    result = run(description, tiny_clip, tmp_path / "cache")
    assert content(result.path) == before == content(path)


def test_equal_runs_make_equal_bytes(
    made: tuple[Path, Path], tiny_clip: str, tmp_path: Path
) -> None:
    world, path = made
    other = tmp_path / "elsewhere"
    shutil.copytree(world.parent, other)
    result = run(other / world.name, tiny_clip, tmp_path / "cache")
    assert result.path.name == path.name
    assert content(result.path) == content(path)
    everything = b"".join(content(result.path).values())
    assert str(other).encode() not in everything


def test_a_second_run_does_nothing_and_loads_no_model(
    fresh: tuple[Path, Path], tiny_clip: str
) -> None:
    world, path = fresh
    run(world, tiny_clip, path.parent)  # the copy lies elsewhere, which the history notes
    before = files(path)
    stamps = {name: (path / name).stat().st_mtime_ns for name in before}
    code = f"""
import sys
from pathlib import Path
from zsseg.stages.data.spec import load_spec
from zsseg.stages.precompute.plan.request import PrecomputeRequest
from zsseg.stages.precompute.precompute_config import PrecomputeConfig
from zsseg.stages.precompute.run import precompute
spec = load_spec({str(world)!r})
config = PrecomputeConfig.model_validate_json({CONFIG.model_dump_json()!r})
request = PrecomputeRequest(
    spec=spec, root=Path({str(world.parent)!r}), split="train", teacher={tiny_clip!r},
    cache=Path({str(path.parent)!r}), config=config,
)
result = precompute(
    request, update=False, progress=lambda _: sys.exit("there was something to do")
)
assert (result.images, result.written, result.seconds) == (6, {{}}, {{}}), result
loaded = {{"torch", "open_clip", "sklearn", "cuml"}} & set(sys.modules)
assert not loaded, loaded
"""
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
    assert files(path) == before
    assert {name: (path / name).stat().st_mtime_ns for name in before} == stamps


def test_an_interrupted_run_continues_to_the_same_bytes(
    made: tuple[Path, Path], tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One store, interrupted after every one of its eleven commits but the last."""
    world, path = made
    commit, calls = Writer.commit, [0]

    def failing(self: Writer, *args: Any, **kwargs: Any) -> None:
        if calls[0] == 1:
            raise KeyboardInterrupt
        calls[0] += 1
        commit(self, *args, **kwargs)

    committed = []
    with monkeypatch.context() as patch:
        patch.setattr(Writer, "commit", failing)
        for _ in range(10):
            calls[0] = 0
            with pytest.raises(KeyboardInterrupt):
                run(world, tiny_clip, tmp_path, config=IN_ORDER)
            (store,) = tmp_path.iterdir()
            committed.append(len(list((store / "ledger").rglob("*.json"))))
            with pytest.raises(CacheError, match="not finished"):
                Store.open(store)
    assert committed == list(range(1, 11))
    result = run(world, tiny_clip, tmp_path)
    assert result.written == {"local": 2}
    assert content(result.path) == content(path)


def test_a_crash_before_the_seal_needs_no_model(
    fresh: tuple[Path, Path], tiny_clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, path = fresh
    before = content(path)
    (path / "seal.json").unlink()
    monkeypatch.setattr("zsseg.stages.precompute.teacher.clip_teacher.load_teacher", None)
    assert run(world, tiny_clip, path.parent).written == {}
    assert content(path) == before


def test_labels_of_unseen_classes_change_nothing(
    made: tuple[Path, Path], fresh: tuple[Path, Path], tiny_clip: str, tmp_path: Path
) -> None:
    _, path = made
    world, copied = fresh
    rng = np.random.default_rng(0)
    for number in range(6):
        label_HW = pixels(label_of(world, number))
        hidden_HW = (label_HW == BALL) | (label_HW == 255)
        noise_HW = rng.choice(np.array([BALL, 255], np.uint8), label_HW.shape)
        changed_HW = np.where(hidden_HW, noise_HW, label_HW)
        assert (changed_HW != label_HW).any()
        Image.fromarray(changed_HW).save(label_of(world, number))
    assert content(run(world, tiny_clip, tmp_path / "other").path) == content(path)
    # And a store that is there does not see that the files have changed.
    assert run(world, tiny_clip, copied.parent).written == {}


def test_a_renamed_teacher_continues_its_store(
    fresh: tuple[Path, Path], tiny_clip: str, tmp_path: Path
) -> None:
    world, path = fresh
    before = content(path)
    renamed = tmp_path / "another name"
    shutil.copytree(tiny_clip.removeprefix("local-dir:"), renamed)
    result = run(world, f"local-dir:{renamed}", path.parent)
    assert (result.path, result.written) == (path, {})
    assert content(path) == before
    assert Store.open(path).last("teacher") == f"local-dir:{renamed}"
    fewer = run(world, f"local-dir:{renamed}", path.parent, limit=1)
    assert fewer.path != path


def test_a_lost_index_receipt_takes_what_is_made_from_the_same_files(
    fresh: tuple[Path, Path], tiny_clip: str, tmp_path: Path
) -> None:
    """Without it the image may not be the one that the tokens were made of."""
    world, path = fresh
    (path / "ledger" / "index" / "000001.json").unlink()
    Image.fromarray(pixels(image_of(world, 5))[::-1]).save(image_of(world, 5))
    result = run(world, tiny_clip, path.parent)
    assert result.written == dict.fromkeys(("index", "cls", "dense", "regions", "local"), 2)
    assert content(path) == content(run(world, tiny_clip, tmp_path / "anew").path)


def test_lost_index_data_alone_is_written_again_alone(
    fresh: tuple[Path, Path], tiny_clip: str
) -> None:
    world, path = fresh
    before = content(path)
    (path / "size" / "c.1.0").unlink()
    assert run(world, tiny_clip, path.parent).written == {"index": 2}
    assert content(path) == before


@pytest.mark.parametrize(
    ("change", "named", "written"),
    [
        (
            {"regions": RegionConfig(windows=(3,), backend="sklearn")},
            r"regions\.windows.*",
            {"regions": 6, "local": 6},
        ),
        (
            {"local": LocalConfig(max_masks=5, margin=0.5)},
            r"local\.margin: stored 0\.1, asked 0\.5",
            {"local": 6},
        ),
        ({"text": TextConfig(templates="coco15")}, r"text\.templates", {"text": 4}),
    ],
)
def test_other_settings_are_refused_and_updated_alone(
    fresh: tuple[Path, Path],
    tiny_clip: str,
    tmp_path: Path,
    *,
    change: Mapping[str, Any],
    named: str,
    written: dict[str, int],
) -> None:
    world, path = fresh
    config = CONFIG.model_copy(update=change)
    with pytest.raises(CacheError, match=named):
        run(world, tiny_clip, path.parent, config=config)
    assert run(world, tiny_clip, path.parent, config=config, update=True).written == written
    anew = run(world, tiny_clip, tmp_path / "anew", config=config)
    assert content(path) == content(anew.path)


@pytest.mark.parametrize("change", [{"batch": 1}, {"device": "auto"}])
def test_settings_that_change_no_content_are_not_compared(
    fresh: tuple[Path, Path], tiny_clip: str, change: Mapping[str, Any]
) -> None:
    world, path = fresh
    config = CONFIG.model_copy(update=change)
    assert run(world, tiny_clip, path.parent, config=config).written == {}


def test_other_dense_tokens_are_another_store(
    fresh: tuple[Path, Path], tiny_clip: str, tmp_path: Path
) -> None:
    world, path = fresh
    config = CONFIG.model_copy(update={"dense": DenseConfig(size=(64, 96), path="value")})
    result = run(world, tiny_clip, path.parent, config=config, limit=1)
    assert result.path != path
    assert result.images == 1


def test_the_limit_takes_the_first_images(
    made: tuple[Path, Path], fresh: tuple[Path, Path], tiny_clip: str
) -> None:
    world, path = fresh
    result = run(world, tiny_clip, path.parent, limit=2)
    assert (result.images, result.path == path) == (2, False)
    store = Store.open(result.path)
    assert [entry["id"] for entry in store.index] == ["scene_000", "scene_001"]
    np.testing.assert_allclose(store.read("cls", 1), Store.open(made[1]).read("cls", 1), atol=2e-3)
    assert run(world, tiny_clip, path.parent, limit=6).path == path
    with pytest.raises(UserError, match="--limit 0"):
        run(world, tiny_clip, path.parent, limit=0)


def test_images_without_labels_are_all_unlabelled(
    tiny_world: Path, tiny_clip: str, tmp_path: Path
) -> None:
    spec = load_spec(str(tiny_world))
    assert spec.patterns is not None
    spec = spec.model_copy(update={"patterns": spec.patterns.model_copy(update={"labels": None})})
    config = CONFIG.model_copy(
        update={"regions": RegionConfig(windows=(4,), minimum_tokens=1, backend="sklearn")}
    )
    result = run(tiny_world, tiny_clip, tmp_path / "cache", config=config, spec=spec, limit=2)
    store = Store.open(result.path)
    assert store.index[0]["label"] is None
    assert (store.read_all("regions") > 0).all()
    ids = store.read_all("local_ids")
    assert ((ids >= 1001) | (ids == -1)).all()
    assert (ids[:, 0] == 1001).all()


def test_masks_beyond_the_limit_are_counted(
    tiny_world: Path, tiny_clip: str, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"local": LocalConfig(max_masks=2)})
    result = run(tiny_world, tiny_clip, tmp_path / "cache", config=config, limit=3)
    left_out = Store.open(result.path).receipt("local", 0)["left_out"]
    assert left_out.keys() == {"0", "1", "2"}
    assert all(count >= 1 for count in left_out.values())


def test_tokens_beyond_half_precision_name_their_image(
    tiny_world: Path, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_tokens(monkeypatch, image_of(tiny_world, 2), 70000)
    with pytest.raises(NonFiniteError, match=r"dense, 1 row: scene_002\. .*65504"):
        run(tiny_world, tiny_clip, tmp_path / "cache")


@pytest.mark.parametrize(
    "values",
    [
        {"regions": {"windows": (8, 0)}},
        {"regions": {"windows": (-4,)}},
        {"dense": {"nacl_sigma": math.inf}},
        {"local": {"margin": math.nan}},
        {"local": {"margin": math.inf}},
    ],
)
def test_settings_without_a_meaning_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"greater than|finite number"):
        PrecomputeConfig.model_validate(values)
    with pytest.raises(ValidationError, match="finite number"):
        StudentConfig(logit_scale=math.inf)


def test_too_small_a_disk_is_refused_before_the_work(
    tiny_world: Path, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(ResourceError, match="GiB are needed"):
        run(tiny_world, tiny_clip, tmp_path / "cache")


def test_progress_reaches_its_total_and_seconds_are_told(
    tiny_world: Path, tiny_clip: str, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    result = run(tiny_world, tiny_clip, tmp_path / "cache", seen=seen)
    done = [step.done for step in seen]
    assert done == sorted(done)
    assert {step.total for step in seen} == {5 * 6 + 4}
    assert done[-1] == 5 * 6 + 4
    phases = {"read", "preprocess", "teacher", "regions", "crops", "write"}
    assert seen[-1].seconds.keys() == result.seconds.keys() == phases
    assert seen[-1].seconds["teacher"] > seen[0].seconds.get("teacher", 0)
    assert all(step.images_per_second is None or step.images_per_second > 0 for step in seen)
    assert seen[-1].images_per_second is not None
    # Of the shards; `text` is no shard.
    ledger = (result.path / "ledger").glob("*/*.json")
    receipts = [json.loads(file.read_text()) for file in ledger if file.parent.name != "text"]
    sizes = [entry["bytes"] for receipt in receipts for entry in receipt["files"].values()]
    assert seen[-1].bytes == sum(sizes)
    entry, places = Store.open(result.path).history
    assert places.keys() == {"root", "teacher", "settings"}
    assert entry["kmeans"] == "sklearn"
    assert entry["versions"].keys() >= {"torch", "zarr"}


def test_a_timm_teacher_makes_a_store(tiny_world: Path, tiny_cnn_clip: str, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"dense": DenseConfig(size=(128, 128))})
    result = run(tiny_world, tiny_cnn_clip, tmp_path / "cache", config=config, limit=2)
    store = Store.open(result.path)
    assert store.info["traits"]["dense_path"] == "feature_map"
    assert store.read("dense", 0).shape == (24, 4, 4)


def test_the_teacher_gets_images_of_its_size(
    tiny_world: Path, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resizing is done in the threads, and full crops of a batch are never held together."""
    shapes: dict[str, set[tuple[int, ...]]] = {"cls": set(), "dense": set()}
    cls, dense = ClipTeacher.cls, ClipTeacher.dense

    def seen_cls(self: ClipTeacher, images: Any) -> NDArray[np.float32]:
        shapes["cls"] |= {image.shape for image in images}
        return cls(self, images)

    def seen_dense(self: ClipTeacher, images: Any, config: DenseConfig) -> NDArray[np.float32]:
        shapes["dense"] |= {fitted.shape for sizes in images for fitted in sizes.values()}
        return dense(self, images, config)

    monkeypatch.setattr(ClipTeacher, "cls", seen_cls)
    monkeypatch.setattr(ClipTeacher, "dense", seen_dense)
    run(tiny_world, tiny_clip, tmp_path / "cache", limit=2)
    assert shapes == {"cls": {(32, 32, 3)}, "dense": {(64, 96, 3)}}
