"""The consistency gap: by hand, of a teacher whose tokens are colours, and of stores."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pytest
from helpers.clip_store import run
from helpers.drawn_world import draw_world
from numpy.typing import NDArray
from PIL import Image

from zsseg.pipeline.cli.cache_gap import _meaning
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.geometry import View, crop_tokens
from zsseg.stages.data.spec import load_spec
from zsseg.stages.data.splits import list_samples
from zsseg.stages.errors import DatasetError
from zsseg.stages.precompute.check.consistency_gap import (
    CROPS,
    Gap,
    Likeness,
    StoredImage,
    compare_crops,
    dense_config,
    measure_gap,
)
from zsseg.stages.precompute.make.recorded_views import image_views
from zsseg.stages.precompute.precompute_config import (
    DenseConfig,
    PrecomputeConfig,
    TextConfig,
    ViewConfig,
)
from zsseg.stages.precompute.teacher.clip_teacher import ClipTeacher, load_teacher
from zsseg.stages.precompute.teacher.dense_passes import DensePass, dense_passes
from zsseg.stages.precompute.teacher.teacher_files import resolve_teacher

SIZE = DenseConfig(size=(64, 64))
RED, GREEN = (200, 0, 0), (0, 200, 0)
TEXT_CD = np.array([[1, 0, 0], [0.5**0.5, 0.5**0.5, 0]], np.float32)
"""Two classes: red, and what lies halfway between red and green."""


@dataclass
class ColourTeacher:
    """Its dense token is the mean colour of 8 x 8 pixels, its CLS token that of the image."""

    native_size: tuple[int, int] = (32, 32)
    mean_colour: tuple[int, int, int] = (122, 117, 104)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def dense_passes(self, config: DenseConfig) -> tuple[DensePass, ...]:
        return dense_passes(config, (8, 8))

    def cls(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        assert {image.shape for image in images} == {(32, 32, 3)}
        return np.stack([image.mean((0, 1)) for image in images]).astype(np.float32)

    def dense(self, images: Sequence[NDArray[np.uint8]], _: DenseConfig) -> NDArray[np.float32]:
        assert {image.shape for image in images} == {(64, 64, 3)}
        tiles = [image.reshape(8, 8, 8, 8, 3).mean((1, 3)).transpose(2, 0, 1) for image in images]
        return np.stack(tiles).astype(np.float32)


def gap_of(
    view: View, *, other_D: NDArray[np.float32] | None = None, mirrored: bool = False
) -> dict[str, Any]:
    """Of an image whose left half is red, whose right half is green.

    `mirrored`: what is stored is made from the mirror image.
    """
    image_HW3 = np.empty((64, 64, 3), np.uint8)
    image_HW3[:, :32], image_HW3[:, 32:] = RED, GREEN
    teacher = ColourTeacher()
    stored = StoredImage(
        dense_Dhw=teacher.dense([image_HW3[:, :: -1 if mirrored else 1]], SIZE)[0],
        cls_D=image_HW3.mean((0, 1)),
        other_D=other_D,
    )
    view_V6 = view.as_row()[None]
    (found,) = compare_crops(
        cast(ClipTeacher, teacher), image_HW3, view_V6, stored, TEXT_CD, config=SIZE
    )
    return found


@pytest.mark.parametrize("flip", [False, True])
def test_tokens_that_go_with_the_crop_have_no_gap(flip: bool) -> None:
    """The whole image, and a crop that is red with all that resizing looks at. Recorded views that
    are mirrored are compared upright."""
    for view in (View(0, 0, 1, 1, flip), View(0.125, 0, 0.5, 0.25, flip)):
        cosine_T, same = gap_of(view)["dense"]
        np.testing.assert_allclose(cosine_T, 1, atol=1e-6)
        assert len(cosine_T) == same == 64
    (cosine,), same = gap_of(View(0, 0, 1, 1, flip))["image"]
    assert cosine == pytest.approx(1)
    assert same == 1


def test_a_map_that_does_not_go_with_the_crop_is_a_gap() -> None:
    """The control of the test above: the map is of the mirrored image."""
    for flip in (False, True):
        cosine_T, same = gap_of(View(0, 0, 1, 1, flip), mirrored=True)["dense"]
        np.testing.assert_allclose(cosine_T, 0, atol=1e-6)
        assert same == 0


def test_the_red_half_by_hand() -> None:
    found = gap_of(View(0, 0, 1, 0.5), other_D=np.array(GREEN, np.float32))
    # Dense. Of the stored map's eight columns at the crop the last is 3/4 red and 1/4 green. The
    # crop is enlarged twice, and in its last column of pixels resizing mixes in 1/4 of green, of
    # which the token, eight columns wide, has an eighth.
    cosine_T, same = found["dense"]
    expected_hw = np.ones((8, 8))
    expected_hw[:, 7] = (31 * 3 + 1 * 1) / np.sqrt((31**2 + 1) * (3**2 + 1))
    np.testing.assert_allclose(cosine_T.reshape(8, 8), expected_hw, atol=1e-6)
    assert same == 64
    # CLS: red, against half red and half green, against 31 parts of red and one of green, and
    # against another image's, which is green.
    for field, expected, agree in (
        ("image", np.sqrt(0.5), 0),
        ("pooled", 31 / np.sqrt(31**2 + 1), 1),
        ("others", 0, 0),
    ):
        (cosine,), same = found[field]
        assert cosine == pytest.approx(expected, abs=1e-6)
        assert same == agree


def test_one_image_has_no_other() -> None:
    assert gap_of(View(0, 0, 1, 0.5)).keys() == {"dense", "image", "pooled"}


def config_of(views: int = 0, form: str = "fp16") -> PrecomputeConfig:
    return PrecomputeConfig(
        text=TextConfig(templates="single"),
        views=ViewConfig(number=views),
        dense=DenseConfig(size=(64, 96), path="nacl", nacl_sigma=2.0, format=form),
        shard_images=2,
        device="cpu",
    )


def make(world: Path, clip: str, cache: Path, config: PrecomputeConfig) -> Store:
    return Store.open(run(world, clip, cache, config=config).path)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_world(tmp_path_factory.mktemp("gap") / "world", images=5)


@pytest.fixture(scope="module")
def stores(world: Path, tiny_clip: str, tmp_path_factory: pytest.TempPathFactory) -> list[Store]:
    """Without crops, with two, and without dense tokens."""
    folder = tmp_path_factory.mktemp("stores")
    configs = (config_of(), config_of(views=2), config_of(form="none"))
    return [make(world, tiny_clip, folder / str(i), each) for i, each in enumerate(configs)]


def measured(store: Store, world: Path, clip: str, *, images: int = 32) -> Gap:
    spec, done = load_spec(str(world)), []
    found = measure_gap(
        store,
        spec=spec,
        root=world.parent,
        samples=list_samples(spec, world.parent, "train"),
        teacher=load_teacher(resolve_teacher(clip), device="cpu"),
        images=images,
        progress=lambda now, total: done.append((now, total)),
    )
    assert done[-1] == (found.images, found.images)
    return found


def unit(values: NDArray[np.floating]) -> NDArray[np.float64]:
    exact = values.astype(np.float64)
    return np.asarray(exact / np.linalg.norm(exact, axis=0))


@pytest.mark.parametrize("views", [0, 2])
def test_the_gap_of_a_store_image_by_image(
    stores: list[Store], world: Path, tiny_clip: str, views: int
) -> None:
    store = stores[1 if views else 0]
    teacher = load_teacher(resolve_teacher(tiny_clip), device="cpu")
    text_CD = store.read_all("text")
    dense: list[NDArray[np.float64]] = []
    image: list[float] = []
    mirrored: list[float] = []
    mirrored_image: list[float] = []
    dense_same: list[bool] = []
    image_same: list[bool] = []
    rows = (0, 2, 4)  # three of five, evenly spread
    for row in rows:
        image_HW3 = np.array(Image.open(world.parent / store.index[row]["image"]))
        if views:
            view_V6 = store.read("views", row)[1:]
        else:
            view_V6 = image_views(image_HW3, ViewConfig(number=CROPS))[1:]
        whole_D, dense_Dhw = store.read("cls", row)[0], store.read("dense", row)
        for view_6 in view_V6:
            y0, x0, height, width, *_ = map(float, view_6)
            upright = replace(View.from_row(view_6), flip=False)
            box = (64 * x0, 48 * y0, min(64 * (x0 + width), 64), min(48 * (y0 + height), 48))
            crops = []
            for size in ((32, 32), (96, 64)):
                shown = Image.fromarray(image_HW3).resize(size, Image.Resampling.BICUBIC, box=box)
                crops.append(np.array(shown))
            (cls_D,) = teacher.cls(crops[:1])
            (own_Dhw,) = teacher.dense(crops[1:], config_of().dense)
            cut_Dhw = unit(crop_tokens(unit(dense_Dhw), upright, (8, 12)))
            dense.append((unit(own_Dhw) * cut_Dhw).sum(0))
            names = [
                np.einsum("cd,dhw->chw", text_CD, each).argmax(0) for each in (own_Dhw, cut_Dhw)
            ]
            dense_same += list((names[0] == names[1]).ravel())
            image.append(float(unit(cls_D) @ unit(whole_D)))
            image_same.append(bool((text_CD @ cls_D).argmax() == (text_CD @ whole_D).argmax()))
        mirror_HW3 = np.ascontiguousarray(image_HW3[:, ::-1])
        (cls_D,), (own_Dhw,) = (
            teacher.cls([mirror_HW3]),
            teacher.dense([mirror_HW3], config_of().dense),
        )
        mirrored.append((unit(own_Dhw) * unit(dense_Dhw)[:, :, ::-1]).sum(0).mean())
        mirrored_image.append(float(unit(cls_D) @ unit(whole_D)))
    found = measured(store, world, tiny_clip, images=3)
    crops_each = views or CROPS
    assert (found.images, found.crops, found.recorded) == (3, 3 * crops_each, views)
    assert found.dense.cosine == pytest.approx(np.mean(dense), abs=1e-4)
    assert found.dense.worst == pytest.approx(min(each.mean() for each in dense), abs=1e-4)
    assert found.dense.same_class == pytest.approx(np.mean(dense_same), abs=0.01)
    assert found.image.cosine == pytest.approx(np.mean(image), abs=1e-4)
    assert found.image.worst == pytest.approx(min(image), abs=1e-4)
    assert found.image.same_class == pytest.approx(np.mean(image_same))
    assert found.mirrored_dense.cosine == pytest.approx(np.mean(mirrored), abs=1e-4)
    assert found.mirrored_dense.worst == pytest.approx(min(mirrored), abs=1e-4)
    assert found.mirrored_image.cosine == pytest.approx(np.mean(mirrored_image), abs=1e-4)
    assert found.dense.worst < found.dense.cosine < 0.9999
    assert found.others is not None
    assert found.others.cosine < found.image.cosine


def test_dense_tokens_that_are_not_kept_are_made_again(
    stores: list[Store], world: Path, tiny_clip: str
) -> None:
    kept, none = (measured(each, world, tiny_clip, images=2) for each in (stores[0], stores[2]))
    assert none.dense.cosine == pytest.approx(kept.dense.cosine, abs=1e-3)
    assert none.image == kept.image


def test_dense_tokens_are_made_as_the_store_s_were(stores: list[Store]) -> None:
    for store in stores:
        assert dense_config(store) == config_of().dense


def test_an_image_that_changed_is_named(world: Path, tiny_clip: str, tmp_path: Path) -> None:
    shutil.copytree(world.parent, tmp_path / "world")
    mine = tmp_path / "world" / world.name
    store = make(mine, tiny_clip, tmp_path / "cache", config_of())
    image = mine.parent / "images" / "train" / "scene_004.png"
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(image)
    with pytest.raises(DatasetError, match=r"scene_004\.png: is another image.*--update"):
        measured(store, mine, tiny_clip)
    image.write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"scene_004\.png: .*cannot be read.*--update"):
        measured(store, mine, tiny_clip)


@pytest.mark.parametrize(
    ("same_class", "recorded", "says"),
    [
        (0.95, 0, r"for 5 % of the crops: it serves well enough"),
        (0.4, 0, r"for 60 % of the crops: record views \(add --update --views 8"),
        (0.4, 6, r"augmentation\.views=recorded, for which this store keeps 6 crops"),
    ],
)
def test_the_gap_is_explained(same_class: float, recorded: int, says: str) -> None:
    likeness = Likeness(cosine=0.9, worst=0.8, same_class=same_class)
    every = (likeness, likeness, likeness, likeness, likeness)
    found = Gap(1, 4, recorded, *every, None)
    assert re.search(says, _meaning(found))


def test_a_mirrored_pass_leaves_no_gap_of_mirroring(
    stores: list[Store], world: Path, tiny_clip: str, tmp_path: Path
) -> None:
    once = config_of()
    twice = once.model_copy(update={"dense": once.dense.model_copy(update={"flip": True})})
    mirrored = measured(make(world, tiny_clip, tmp_path, twice), world, tiny_clip, images=2)
    assert mirrored.mirrored_dense.worst > 1 - 1e-5  # of half precision
    assert mirrored.mirrored_dense.same_class == 1
    assert mirrored.mirrored_image.cosine < 1 - 1e-4
    assert measured(stores[0], world, tiny_clip, images=2).mirrored_dense.cosine < 1 - 1e-4
