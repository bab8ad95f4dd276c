"""The map of names: against loops, and as an artifact of a store."""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.clip_store import (
    BALL,
    CONFIG,
    content,
    image_of,
    label_of,
    load_once,
    make,
    pixels,
    request,
    run,
)
from helpers.drawn_world import draw_world
from numpy.typing import NDArray
from PIL import Image
from test_pixel_refinement import pamr_slowly

from zsseg.stages.cache.format.manifest import read_manifest
from zsseg.stages.cache.reader import Store
from zsseg.stages.cache.verify import EVERYTHING
from zsseg.stages.data.images import resize_image
from zsseg.stages.data.spec import VOID, load_spec
from zsseg.stages.errors import CacheError
from zsseg.stages.precompute.check.against_teacher import ArtifactCheck, compare_with_teacher
from zsseg.stages.precompute.check.repair import repair_store
from zsseg.stages.precompute.make.names_artifact import Naming, map_grid, name_arrays
from zsseg.stages.precompute.precompute_config import PixelNamesConfig, PrecomputeConfig
from zsseg.stages.precompute.run import forecast
from zsseg.stages.precompute.teacher.clip_teacher import ClipTeacher

CPU = torch.device("cpu")
NAMES = PixelNamesConfig(enabled=True, stride=8, iterations=2, dilations=(1, 2))
MAPS = {"pixel_names", "unseen_names"}


def config_of(form: str = "fp16", **fields: Any) -> PrecomputeConfig:
    dense = CONFIG.dense.model_copy(update={"format": form})
    names = NAMES.model_copy(update=fields)
    return CONFIG.model_copy(update={"dense": dense, "pixel_names": names})


def upsampled_slowly(map_hw: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Bilinear, half-pixel centres, the border repeated."""
    height, width = map_hw.shape
    out = np.zeros(size)
    for y in range(size[0]):
        for x in range(size[1]):
            v = min(max((y + 0.5) * height / size[0] - 0.5, 0), height - 1)
            u = min(max((x + 0.5) * width / size[1] - 0.5, 0), width - 1)
            top, left = int(v), int(u)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            a, b = v - top, u - left
            out[y, x] = (1 - a) * ((1 - b) * map_hw[top, left] + b * map_hw[top, right]) + a * (
                (1 - b) * map_hw[bottom, left] + b * map_hw[bottom, right]
            )
    return out


def map_slowly(
    dense_Dhw: NDArray[np.floating],
    image_HW3: NDArray[np.uint8],
    text_CD: NDArray[np.float32],
    ids: tuple[int, ...],
    grid: tuple[int, int],
    config: PixelNamesConfig,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Best two classes of a group (2, y, x) and the log-odds of their scores."""
    token_Dhw, text = dense_Dhw.astype(np.float64), text_CD.astype(np.float64)
    cosines = np.zeros((len(ids), *dense_Dhw.shape[1:]))
    for y in range(dense_Dhw.shape[1]):
        for x in range(dense_Dhw.shape[2]):
            token_D = token_Dhw[:, y, x] / math.sqrt((token_Dhw[:, y, x] ** 2).sum())
            cosines[:, y, x] = [float(text[c] @ token_D) for c in ids]
    cosine_Gyx = np.stack([upsampled_slowly(each, grid) for each in cosines])
    score_Gyx = np.exp(cosine_Gyx / config.temperature)
    score_Gyx /= score_Gyx.sum(0)
    if config.refinement == "pamr":
        small_3yx = resize_image(image_HW3, grid).transpose(2, 0, 1).astype(np.float64)
        score_Gyx = pamr_slowly(score_Gyx, small_3yx, config.iterations, config.dilations)
    order = np.argsort(-score_Gyx, axis=0, kind="stable")[:2]
    best = np.take_along_axis(score_Gyx, order, 0)
    return np.array(ids)[order], np.log(best / (1 - best))


@pytest.mark.parametrize("refinement", ["none", "pamr"])
def test_it_is_what_loops_make_of_tokens_and_names(refinement: Any) -> None:
    rng = np.random.default_rng(0)
    dense_Dhw = rng.normal(size=(6, 3, 4)).astype(np.float16)
    image_HW3 = rng.integers(0, 256, (29, 40, 3)).astype(np.uint8)
    text_CD = rng.normal(size=(5, 6)).astype(np.float32)
    text_CD /= np.linalg.norm(text_CD, axis=1, keepdims=True)
    config = NAMES.model_copy(update={"refinement": refinement, "temperature": 0.3})
    naming = Naming(text_CD, (1, 2, 4), (7, 9), config)
    found = name_arrays(dense_Dhw, image_HW3, naming, CPU)
    assert found.keys() == MAPS
    for name, ids in (("pixel_names", (0, 1, 2, 3, 4)), ("unseen_names", (1, 2, 4))):
        class_2yx, odds_2yx = map_slowly(dense_Dhw, image_HW3, text_CD, ids, (7, 9), config)
        np.testing.assert_array_equal(found[name][:2], class_2yx)
        assert np.abs(found[name][2:] - (128 + 10 * odds_2yx)).max() < 0.501


def test_one_unseen_class_has_no_second_and_none_or_all_have_no_map_of_their_own() -> None:
    rng = np.random.default_rng(1)
    dense_Dhw = rng.normal(size=(4, 2, 2)).astype(np.float32)
    dense_Dhw[:, 0, 0] = 0  # a token without a direction is like all names alike
    image_HW3 = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
    text_CD = np.eye(3, 4, dtype=np.float32)
    for unseen, keys in (((2,), MAPS), ((), None), ((0, 1, 2), None)):
        found = name_arrays(dense_Dhw, image_HW3, Naming(text_CD, unseen, (4, 4), NAMES), CPU)
        assert found.keys() == (keys or {"pixel_names"})
        assert set(found["pixel_names"][:2].ravel()) <= {0, 1, 2}
        if keys:
            for values, expected in zip(found["unseen_names"], (2, VOID, 255, 0), strict=True):
                assert (values == expected).all()


def test_a_cell_at_the_edge_counts_where_the_stride_does_not_divide_the_size() -> None:
    assert map_grid((64, 96), 8) == (8, 12)
    assert map_grid((33, 40), 4) == (9, 10)


@pytest.fixture(autouse=True)
def one_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsseg.stages.precompute.teacher.clip_teacher.load_teacher", load_once)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_world(tmp_path_factory.mktemp("names") / "world", images=5)


@pytest.fixture(scope="module")
def made(world: Path, tiny_clip: str) -> Path:
    return make(world, tiny_clip, world.parent.parent / "cache", config_of())


def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each dense pass from here on sees."""
    seen: list[int] = []
    dense = ClipTeacher.dense

    def counted(self: ClipTeacher, images: Any, config: Any) -> Any:
        seen.append(len(images))
        return dense(self, images, config)

    monkeypatch.setattr(ClipTeacher, "dense", counted)
    return seen


def test_a_store_s_map_is_that_of_its_tokens(made: Path, world: Path) -> None:
    store = Store.open(made)
    assert store.recipes["pixel_names"] == {
        "stride": 8,
        "temperature": 0.05,
        "refinement": "pamr",
        "iterations": 2,
        "dilations": [1, 2],
    }
    naming = Naming(store.read_all("text"), (BALL,), (8, 12), NAMES)
    for row in range(store.rows):
        image_HW3 = pixels(image_of(world, row))
        expected = name_arrays(store.read("dense", row), image_HW3, naming, CPU)
        for name, values in expected.items():
            np.testing.assert_array_equal(store.read(name, row), values)


def test_added_later_it_is_the_same_and_the_teacher_sees_nothing(
    made: Path, world: Path, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = make(world, tiny_clip, tmp_path)
    assert not MAPS & read_manifest(without).arrays.keys()
    assert read_manifest(made).arrays.keys() >= MAPS
    with pytest.raises(CacheError, match="pixel_names"):
        run(world, tiny_clip, tmp_path, config=config_of())
    seen = passes(monkeypatch)
    result = run(world, tiny_clip, tmp_path, config=config_of(), update=True)
    assert result.written == {"pixel_names": 5}
    assert seen == []
    assert content(result.path) == content(made)
    run(world, tiny_clip, tmp_path, update=True)
    assert content(without) == content(make(world, tiny_clip, tmp_path / "again"))


def test_another_name_costs_no_dense_pass(
    made: Path, world: Path, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made, tmp_path / made.name)
    spec = load_spec(str(world)).model_copy(update={"names": {"ball": "red balloon"}})
    seen = passes(monkeypatch)
    result = run(world, tiny_clip, tmp_path, config=config_of(), spec=spec, update=True)
    assert result.written == {"text": 4, "pixel_names": 5}
    assert seen == []
    assert sum(result.forwards.values()) == 0
    fresh = run(world, tiny_clip, tmp_path / "fresh", config=config_of(), spec=spec)
    assert content(fresh.path) == content(result.path)


def test_without_stored_tokens_one_pass_serves_regions_and_names(
    made: Path, world: Path, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = passes(monkeypatch)
    result = run(world, tiny_clip, tmp_path, config=config_of("none"))
    assert sum(seen) == 5
    store, kept = Store.open(result.path), Store.open(made)
    assert not store.has("dense")
    for name in (*MAPS, "regions"):
        np.testing.assert_array_equal(store.read_all(name), kept.read_all(name))
    # Where only the map is to be made, its tokens are.
    seen.clear()
    other = config_of("none", temperature=0.1)
    assert run(world, tiny_clip, tmp_path, config=other, update=True).written == {"pixel_names": 5}
    assert sum(seen) == 5


def test_hidden_labels_do_not_reach_it(
    made: Path, world: Path, tiny_clip: str, tmp_path: Path
) -> None:
    shutil.copytree(world.parent, tmp_path / "world")
    other, rng, changed = tmp_path / "world" / world.name, np.random.default_rng(0), 0
    for number in range(5):
        label_HW = pixels(label_of(other, number)).copy()
        hidden = np.isin(label_HW, (BALL, VOID))
        label_HW[hidden] = rng.choice(np.array([BALL, VOID], np.uint8), int(hidden.sum()))
        changed += int((label_HW != pixels(label_of(other, number))).sum())
        Image.fromarray(label_HW).save(label_of(other, number))
    assert changed > 10
    again = make(other, tiny_clip, tmp_path / "cache", config_of())
    assert content(again) == content(made)


def test_the_map_is_compared_with_the_teacher_s(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one of other names does not pass; its dense tokens do."""

    def compare() -> dict[str, ArtifactCheck]:
        found = compare_with_teacher(
            made,
            number=2,
            root=None,
            teacher=None,
            device=None,
            progress=lambda done, total: None,
        )
        return {check.artifact: check for check in found.checks}

    right = compare()["pixel_names"]
    assert (right.measure, right.mean, right.passed) == ("share of equal names", 1.0, True)
    whole = Store.read

    def other(self: Store, array: str, row: int) -> Any:
        values = whole(self, array, row)
        return (values + 1) % 4 if array == "pixel_names" else values

    monkeypatch.setattr(Store, "read", other)
    checks = compare()
    assert [name for name, check in checks.items() if not check.passed] == ["pixel_names"]


@pytest.mark.parametrize("lost", ["unseen_names/c.0.0.0.0", "ledger/text/000000.json"])
def test_a_damaged_map_is_made_again_from_stored_tokens(
    lost: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the text that it is made of has to be made again."""
    store = Path(shutil.copytree(made, tmp_path / made.name))
    (store / lost).write_bytes(b"damaged")
    seen = passes(monkeypatch)
    repaired = repair_store(
        store,
        share=EVERYTHING,
        root=None,
        teacher=None,
        device=None,
        look=lambda done, total: None,
        progress=lambda _: None,
    )
    assert repaired is not None
    assert seen == []
    assert content(store) == content(made)


def test_a_forecast_knows_its_time(world: Path, tiny_clip: str, tmp_path: Path) -> None:
    asked = request(world, tiny_clip, tmp_path, config=config_of("none"))
    found = forecast(asked, retry_failed=False, progress=lambda _: None)
    assert {each.artifact: each.rows for each in found.artifacts}["pixel_names"] == 5
    assert found.seconds is not None
    assert found.seconds > 0
