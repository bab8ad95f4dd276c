"""Recorded views: which crops, their pixels as the teacher saw them, and what they depend on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pytest
from helpers.clip_store import run
from helpers.drawn_world import draw_world
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from zsseg.stages.cache.format.manifest import fingerprints
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.geometry import View
from zsseg.stages.data.spec import DatasetSpec, FolderPatterns
from zsseg.stages.precompute.make.cls_artifact import cls_arrays
from zsseg.stages.precompute.make.pictures import Picture
from zsseg.stages.precompute.make.recorded_views import image_views, seen_by_teacher
from zsseg.stages.precompute.plan.recipes import store_artifacts
from zsseg.stages.precompute.precompute_config import (
    DenseConfig,
    PrecomputeConfig,
    TextConfig,
    ViewConfig,
)
from zsseg.stages.precompute.teacher.clip_teacher import ClipTeacher, load_teacher
from zsseg.stages.precompute.teacher.teacher_files import TeacherFiles, Traits, resolve_teacher

SIZES = ((48, 64), (97, 61), (33, 33), (20, 90))


@dataclass
class Witness:
    """In place of a teacher: remembers what it is shown; its token is the image, averaged."""

    native_size: tuple[int, int] = (24, 24)
    mean_colour: tuple[int, int, int] = (122, 117, 104)
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    width: int = 12
    by_id: bool = False
    seen: list[NDArray[np.uint8]] = field(default_factory=list)

    def cls(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        self.seen += images
        means = [image.reshape(4, -1, 3).mean(1).ravel() for image in images]
        return (np.stack(means) / 255).astype(np.float32)


def picture(size: tuple[int, int], seed: int = 0) -> Picture:
    rng = np.random.default_rng(seed)
    return Picture(rng.integers(0, 256, (*size, 3)).astype(np.uint8), np.zeros(size, np.uint8))


def crops(size: tuple[int, int], **fields: Any) -> NDArray[np.float32]:
    """(300, 6) crops of one image, by three seeds."""
    image_HW3 = picture(size).image_HW3
    configs = (ViewConfig(number=100, seed=seed, **fields) for seed in range(3))
    return np.concatenate([image_views(image_HW3, config)[1:] for config in configs])


def seen(
    witness: Witness, pictures: Sequence[Picture], config: ViewConfig, *, batch: int = 3
) -> Mapping[str, NDArray[Any]]:
    done: list[int] = []
    made = cls_arrays(
        cast(ClipTeacher, witness), pictures, config, batch=batch, advance=done.append
    )
    assert sum(done) == len(pictures)
    return made


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_recorded_numbers_give_the_teacher_s_pixels(
    interpolation: Literal["bilinear", "bicubic"],
) -> None:
    """Byte for byte, cut by Pillow from nothing but the stored numbers and the image."""
    pictures = [picture(size, seed) for seed, size in enumerate(SIZES)]
    witness = Witness(native_size=(24, 32), interpolation=interpolation)
    made = seen(witness, pictures, ViewConfig(number=5))
    view_NV6 = made["views"]
    assert view_NV6.shape == (4, 6, 6)
    assert view_NV6.dtype == np.float32
    assert made["cls"].shape == (4, 6, 12)
    assert made["cls"].dtype == np.float16
    resampling = Image.Resampling[interpolation.upper()]
    flips = set()
    for i, each in enumerate(pictures):
        height, width = each.visible_HW.shape
        for v in range(6):
            y0, x0, rows, columns, flip, _ = view_NV6[i, v].astype(np.float64)
            box = (x0 * width, y0 * height, (x0 + columns) * width, (y0 + rows) * height)
            box = (box[0], box[1], min(box[2], width), min(box[3], height))
            shown = Image.fromarray(each.image_HW3).resize((32, 24), resampling, box=box)
            expected = np.asarray(shown)[:, ::-1] if flip else np.asarray(shown)
            np.testing.assert_array_equal(witness.seen[6 * i + v], expected)
            token = witness.cls([np.ascontiguousarray(expected)])[0]
            np.testing.assert_array_equal(made["cls"][i, v], token.astype(np.float16))
            flips.add(flip)
    assert flips == {0, 1}


@pytest.mark.parametrize("size", [*SIZES, (24, 24), (24, 32)])
def test_view_0_is_the_whole_image_as_it_always_was(size: tuple[int, int], tiny_clip: str) -> None:
    teacher = load_teacher(resolve_teacher(tiny_clip), device="cpu")
    image_HW3 = picture(size).image_HW3
    (view_6,) = image_views(image_HW3, ViewConfig())
    np.testing.assert_array_equal(view_6, [0, 0, 1, 1, 0, 1])
    np.testing.assert_array_equal(
        seen_by_teacher(teacher, image_HW3, view_6, (32, 32)), teacher.fitted(image_HW3, (32, 32))
    )


@pytest.mark.parametrize("size", SIZES)
def test_crops_are_whole_pixels_inside_the_image_and_no_more_stretched_than_it(
    size: tuple[int, int],
) -> None:
    height, width = size
    view_V6 = crops(size)
    shapes = []
    for view_6 in view_V6:
        view = View.from_row(view_6)
        top, rows = view.y0 * height, view.height * height
        left, columns = view.x0 * width, view.width * width
        for number in (top, rows, left, columns):
            assert number == pytest.approx(round(number), abs=1e-4)
        assert top >= 0
        assert left >= 0
        assert round(top + rows) <= height
        assert round(left + columns) <= width
        side = min(size) / view.scale
        assert round(rows) == min(round(side), height)
        assert round(columns) == min(round(side), width)
        shapes.append(round(columns) / round(rows))
    assert max(shapes) <= max(1, width / height)
    assert min(shapes) >= min(1, width / height)
    assert np.mean(np.array(shapes) == 1) > 0.75
    scales, flips = view_V6[:, 5], view_V6[:, 4]
    assert 0.75 <= scales.min() < 0.8
    assert 1.95 < scales.max() <= 2
    assert 0.4 < flips.mean() < 0.6
    assert len(np.unique(view_V6[:, :2], axis=0)) > 30


def test_every_position_is_drawn() -> None:
    view_V6 = crops((6, 10), scale=(2.0, 2.0), flip=0)
    tops = np.bincount(np.rint(view_V6[:, 0] * 6).astype(int))
    lefts = np.bincount(np.rint(view_V6[:, 1] * 10).astype(int))
    assert tops.size == 4
    assert lefts.size == 8
    assert tops.min() > 45
    assert lefts.min() > 15
    assert not view_V6[:, 4].any()


def test_an_aspect_is_that_of_the_pixels() -> None:
    view_V6 = crops((400, 800), scale=(2.0, 2.0), aspect=(0.5, 2.0))
    aspects = view_V6[:, 3] * 800 / (view_V6[:, 2] * 400)
    areas = view_V6[:, 3] * 800 * view_V6[:, 2] * 400
    np.testing.assert_allclose(areas, 200 * 200, rtol=0.01)
    assert 0.5 <= aspects.min() < 0.55
    assert 1.9 < aspects.max() <= 2.01
    assert 0.4 < (aspects < 1).mean() < 0.6  # log-uniform: as often high as wide


def test_crops_depend_on_the_image_and_the_seed_alone() -> None:
    pictures = [picture((48, 64), seed) for seed in range(5)]
    config = ViewConfig(number=4)
    together = seen(Witness(), pictures, config, batch=2)
    for i in reversed(range(5)):
        alone = seen(Witness(), [pictures[i]], config, batch=7)
        np.testing.assert_array_equal(alone["views"][0], together["views"][i])
        np.testing.assert_array_equal(alone["cls"][0], together["cls"][i])
    assert len({views.tobytes() for views in together["views"]}) == 5
    more = image_views(pictures[0].image_HW3, ViewConfig(number=9))
    np.testing.assert_array_equal(more[:5], together["views"][0])
    other = image_views(pictures[0].image_HW3, ViewConfig(number=4, seed=1))
    assert not (other[1:, :4] == together["views"][0, 1:, :4]).all(1).any()
    # Other pixels in the same bytes, and other bytes in the same shape.
    turned = pictures[0].image_HW3.reshape(64, 48, 3)
    assert not np.array_equal(image_views(turned, config)[1:, 4:], more[1:5, 4:])


def test_labels_are_not_looked_at() -> None:
    image_HW3 = picture((48, 64)).image_HW3
    noise_HW = np.random.default_rng(1).integers(0, 256, (48, 64)).astype(np.uint8)
    config = ViewConfig(number=4)
    one = seen(Witness(), [Picture(image_HW3, np.zeros((48, 64), np.uint8))], config)
    other = seen(Witness(), [Picture(image_HW3, noise_HW)], config)
    np.testing.assert_array_equal(one["views"], other["views"])


def prints(**views: Any) -> dict[str, str]:
    """The fingerprints of a store of `test_dense_formats`, with settings of the views."""
    spec = DatasetSpec(
        name="two",
        layout="folder",
        classes=("sky", "ball"),
        unseen=("ball",),
        ignore=(255,),
        patterns=FolderPatterns(images="i/{split}", labels="l/{split}"),
    )
    files = TeacherFiles("t", "t", "m", None, 24, Path("w"), config_hash="c", weights_hash="w")
    traits = Traits(24, [32, 32], [8, 12], "clearclip")
    config = PrecomputeConfig(text=TextConfig(templates="single"), views=ViewConfig(**views))
    return fingerprints(store_artifacts(spec, files, config, traits))


def test_a_store_without_crops_is_the_store_of_before_there_were_any() -> None:
    assert prints()["cls"] == "d76564516b74bf78f8310222506c9192"
    assert prints(number=0, scale=(1.0, 3.0), flip=0.1, seed=4) == prints()


def test_everything_that_changes_crops_is_in_their_recipe_and_in_no_other() -> None:
    some = prints(number=2)
    changes: tuple[dict[str, Any], ...] = (
        {"number": 3},
        {"scale": (0.75, 1.9)},
        {"aspect": (0.9, 1.0)},
        {"flip": 0.4},
        {"seed": 1},
    )
    assert {next(iter(change)) for change in changes} == set(ViewConfig.model_fields)
    found = [prints(**({"number": 2} | change)) for change in changes]
    assert len({each["cls"] for each in (prints(), some, *found)}) == 7
    for each in (some, *found):
        assert {name for name, value in each.items() if value != prints()[name]} == {"cls"}


@pytest.mark.parametrize(
    "wrong", [{"scale": (2.0, 1.0)}, {"scale": (0.0, 1.0)}, {"aspect": (1.0, 0.5)}, {"number": -1}]
)
def test_ranges_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        ViewConfig(**wrong)


def test_a_store_keeps_the_same_crops_whatever_its_shards(tmp_path: Path, tiny_clip: str) -> None:
    world = draw_world(tmp_path / "world", images=5)
    bad = world.parent / "images" / "train" / "scene_001.png"
    bad.write_bytes(b"no image")
    stores = []
    for shard_images, batch in ((2, 2), (4, 3)):
        config = PrecomputeConfig(
            text=TextConfig(templates="single"),
            dense=DenseConfig(size=(64, 96)),
            views=ViewConfig(number=3),
            shard_images=shard_images,
            batch=batch,
            device="cpu",
        )
        result = run(world, tiny_clip, tmp_path / str(shard_images), config=config)
        stores.append(Store.open(result.path))
    one, other = stores
    np.testing.assert_array_equal(one.read_all("views"), other.read_all("views"))
    np.testing.assert_allclose(one.read_all("cls"), other.read_all("cls"), atol=2e-3)
    assert one.read_all("views").shape == (5, 4, 6)
    assert not one.read("views", 1).any()
    assert not one.read("cls", 1).any()
    teacher = load_teacher(resolve_teacher(tiny_clip), device="cpu")
    for row in (0, 2, 3, 4):
        with Image.open(world.parent / one.index[row]["image"]) as image:
            image_HW3 = np.array(image)
        view_V6 = one.read("views", row)
        shown = [seen_by_teacher(teacher, image_HW3, view_6, (32, 32)) for view_6 in view_V6]
        np.testing.assert_allclose(one.read("cls", row), teacher.cls(shown), atol=2e-3)
