"""Resizing for the teacher: torch's way against Pillow's, and what of it a store keeps."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import clip_store
from helpers.drawn_world import draw_world
from helpers.example_teachers import COLOURS

from zsseg.stages.cache.reader import Store
from zsseg.stages.precompute.make.class_crops import crop_salt
from zsseg.stages.precompute.plan.stored_settings import recall_settings
from zsseg.stages.precompute.precompute_config import (
    DenseConfig,
    LocalConfig,
    PrecomputeConfig,
    RegionConfig,
    Resize,
    TextConfig,
)
from zsseg.stages.precompute.teacher.open_teacher import open_teacher
from zsseg.stages.precompute.teacher.resizing import resized
from zsseg.stages.precompute.teacher.teacher_files import resolve_teacher

CONFIG = PrecomputeConfig(
    text=TextConfig(templates="single"),
    dense=DenseConfig(size=(64, 96)),
    regions=RegionConfig(windows=(2,), minimum_tokens=1),
    local=LocalConfig(max_masks=4),
    shard_images=3,
    device="cpu",
)
COSINE = 0.9999
"""Least cosine of tokens that are made by either."""


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(40, 17), (224, 224), (97, 150), (1, 1)])
@pytest.mark.parametrize("given", [(97, 150), (1, 1), (3, 500), (224, 223)])
def test_torch_resizes_as_pillow_but_for_the_last_digits(
    given: tuple[int, int], size: tuple[int, int], interpolation: str
) -> None:
    image_HW3 = np.random.default_rng(0).integers(0, 256, (*given, 3), dtype=np.uint8)
    image_HW3[: given[0] // 2] = 255  # an edge, where bicubic overshoots

    def made(resize: Resize) -> np.ndarray:
        return resized(image_HW3, size, interpolation=interpolation, resize=resize)  # type: ignore[arg-type]

    ours, pillow = made("torch"), made("pillow")
    assert ours.dtype == np.uint8
    assert ours.flags.c_contiguous
    difference = np.abs(ours.astype(int) - pillow)
    assert difference.max() <= 2
    assert difference.mean() < 0.05


def test_a_view_of_an_image_is_resized_too_and_one_of_that_size_is_returned() -> None:
    whole = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    part = whole[10:50:2, 5:65]
    same = resized(part.copy(), (30, 30), interpolation="bilinear", resize="torch")
    assert (resized(part, (30, 30), interpolation="bilinear", resize="torch") == same).all()
    assert resized(part, (20, 60), interpolation="bilinear", resize="torch") is part


@pytest.mark.parametrize("kind", ["clip", "own"])
def test_teachers_resize_by_what_they_are_opened_with(kind: str, tiny_clip: str) -> None:
    spec = tiny_clip if kind == "clip" else COLOURS
    files = resolve_teacher(spec, typed=True)
    image_HW3 = np.random.default_rng(0).integers(0, 256, (97, 150, 3), dtype=np.uint8)
    ways: tuple[Resize, ...] = ("pillow", "torch")
    made = [
        open_teacher(files, device="cpu", resize=way).fitted(image_HW3, (40, 17)) for way in ways
    ]
    for way, fitted in zip(ways, made, strict=True):
        same = resized(image_HW3, (40, 17), interpolation="bicubic", resize=way)
        assert (fitted == same).all()
    assert not (made[0] == made[1]).all()


def test_a_store_made_with_torch_has_the_tokens_of_one_made_with_pillow(
    tmp_path: Path, tiny_clip: str
) -> None:
    world = draw_world(tmp_path / "world", images=5)
    stores = {}
    for resize in ("pillow", "torch"):
        config = CONFIG.model_copy(update={"resize": resize})
        result = clip_store.run(world, tiny_clip, tmp_path / resize, config=config)
        stores[resize] = Store.open(result.path)
    for array in ("cls", "dense", "local"):
        one, other = (stores[each].read_all(array).astype(np.float64) for each in stores)
        if array == "dense":
            one, other = np.moveaxis(one, 1, -1), np.moveaxis(other, 1, -1)
        if array == "local":  # regions may differ by a token: masks that are the visible classes'
            one, other = one[:, :2], other[:, :2]
        there = one.any(-1)
        cosine = (one * other).sum(-1)[there]
        cosine /= (np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1))[there]
        assert cosine.min() > COSINE

    recipes = stores["torch"].recipes
    assert {name for name in recipes if recipes[name].get("resize")} == {"cls", "dense", "local"}
    assert not any("resize" in recipe for recipe in stores["pillow"].recipes.values())
    assert crop_salt(recipes["local"]) != crop_salt(stores["pillow"].recipes["local"])
    for resize, store in stores.items():
        assert recall_settings(store.path, store.manifest).config.resize == resize


def test_a_history_that_does_not_say_means_pillow(tmp_path: Path, tiny_clip: str) -> None:
    world = draw_world(tmp_path / "world", images=3)
    result = clip_store.run(world, tiny_clip, tmp_path / "cache", config=CONFIG)
    history = result.path / "history.jsonl"
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    for line in lines:
        line.get("settings", {}).get("config", {}).pop("resize", None)
    history.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert recall_settings(result.path, None).config.resize == "pillow"
