"""Training on recorded views: what a position shows is all of one stored view."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.drawn_world import draw_world
from helpers.random_store import write_store
from numpy.typing import NDArray
from PIL import Image

from zsseg.stages.data.geometry import View, crop_tokens, pool_tokens
from zsseg.stages.data.spec import VOID, load_spec
from zsseg.stages.errors import CacheError
from zsseg.stages.train.batches.batch import cut_to_crops
from zsseg.stages.train.batches.crops import CropDataset
from zsseg.stages.train.batches.loader import make_loader
from zsseg.stages.train.batches.sampling import recorded_view, view_rng
from zsseg.stages.train.batches.store_check import check_store, recorded_views
from zsseg.stages.train.batches.training_data import TrainingData
from zsseg.stages.train.run_config import AugmentationConfig, RunConfig

CROP = (32, 48)
BALL = 3  # the unseen class of the tiny world


def config_of(objectives: dict[str, Any] | None = None, **augmentation: Any) -> RunConfig:
    sections: dict[str, dict[str, Any]] = {
        "objectives": {"sdd": 1.0, "dense": 1.0} | (objectives or {}),
        "self_training": {"method": "rst"},
        "augmentation": {
            "views": "recorded",
            "crop": CROP,
            "photometric": False,
            "largest_class_share": 1.0,
        }
        | augmentation,
        "train": {"steps": 5, "batch": 3, "workers": 0},
    }
    return RunConfig.model_validate(sections)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    folder = tmp_path_factory.mktemp("recorded")
    description = draw_world(folder / "world", images=4)
    store = write_store(folder / "store", description, views=5)
    return TrainingData(store, load_spec(str(description)), description.parent)


def seen_by_hand(
    image_HW3: NDArray[np.uint8], row_6: NDArray[np.float32], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """What Pillow cuts out by the numbers alone."""
    height, width = image_HW3.shape[:2]
    y0, x0, rows, columns, flip, _ = map(float, row_6)
    box = (x0 * width, y0 * height, (x0 + columns) * width, (y0 + rows) * height)
    shown = Image.fromarray(image_HW3).resize(size[::-1], Image.Resampling.BILINEAR, box=box)
    return np.asarray(shown)[:, ::-1] if flip else np.asarray(shown)


def map_by_hand(
    map_HW: NDArray[np.uint8], row_6: NDArray[np.float32], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """The nearest value at the centre of each pixel, one at a time."""
    height, width = map_HW.shape
    y0, x0, rows, columns, flip, _ = map(float, row_6)
    out_RC = np.empty(size, np.uint8)
    for r in range(size[0]):
        for c in range(size[1]):
            shown = size[1] - 1 - c if flip else c
            y = y0 + (r + 0.5) / size[0] * rows
            x = x0 + (shown + 0.5) / size[1] * columns
            out_RC[r, c] = map_HW[int(y * height), int(x * width)]
    return out_RC


def visible(path: Path) -> NDArray[np.uint8]:
    label_HW = np.array(Image.open(path))
    label_HW[label_HW == BALL] = VOID
    return label_HW


def test_a_view_s_pixels_go_with_its_token(world: TrainingData) -> None:
    store, _, root = world
    crops = CropDataset(world, config_of())
    drawn = set()
    for position in range(32):
        item = cut_to_crops(crops[position])
        row = int(item.row_B)
        assert item.token_BD is not None
        assert item.region_BHW is not None
        assert item.dense_BDyx is not None
        # The tokens are random: which view it is, its token alone tells.
        same_V = (store.read("cls", row).astype(np.float32) == item.token_BD[0].numpy()).all(1)
        (number,) = np.flatnonzero(same_V)
        drawn.add((row, int(number)))
        row_6 = store.read("views", row)[number]
        image_HW3 = np.array(Image.open(root / store.index[row]["image"]))
        shown_HW3 = seen_by_hand(image_HW3, row_6, CROP).astype(np.float64) / 255
        expected = (shown_HW3 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        np.testing.assert_allclose(item.image_B3HW[0].permute(1, 2, 0), expected, atol=1e-5)
        visible_HW = visible(root / store.index[row]["label"])
        np.testing.assert_array_equal(item.label_BHW[0], map_by_hand(visible_HW, row_6, CROP))
        region_hw = store.read("regions", row)
        np.testing.assert_array_equal(item.region_BHW[0], map_by_hand(region_hw, row_6, CROP))
        dense_Dhw = store.read("dense", row).astype(np.float32)
        dense_Dhw /= np.linalg.norm(dense_Dhw, axis=0)
        expected_Dyx = crop_tokens(dense_Dhw, View.from_row(row_6), (2, 3))
        np.testing.assert_allclose(item.dense_BDyx[0], expected_Dyx, atol=1e-6)
        assert item.inside_BHW.all()
    assert {number for _, number in drawn} == {1, 2, 3, 4, 5}  # 1, 3, 5 are not mirrored
    assert len(drawn) > 12


def test_the_pooled_token_is_that_of_the_view(world: TrainingData) -> None:
    store = world.store
    image = CropDataset(world, config_of())
    pooled = CropDataset(world, config_of({"token": "pooled"}))
    for position in range(8):
        token_D, pooled_D = image[position].token_BD, pooled[position].token_BD
        assert token_D is not None
        assert pooled_D is not None
        row = int(image[position].row_B)
        same_V = (store.read("cls", row).astype(np.float32) == token_D[0].numpy()).all(1)
        view = View.from_row(store.read("views", row)[int(same_V.argmax())])
        np.testing.assert_array_equal(pooled_D[0], pool_tokens(store.read("dense", row), view))


def test_the_settings_of_random_crops_change_nothing(
    world: TrainingData,
) -> None:
    plain = CropDataset(world, config_of())
    other = config_of(short_side=100, scale=(1.0, 3.0), flip=1.0)
    for position in range(6):
        changed = CropDataset(world, other)[position]
        assert torch.equal(plain[position].image_B3HW, changed.image_B3HW)


def test_views_do_not_depend_on_workers_or_the_start(
    world: TrainingData,
) -> None:
    config = config_of()
    two = config.model_copy(update={"train": config.train.model_copy(update={"workers": 2})})
    whole = list(make_loader(world, config))
    rest = list(make_loader(world, two, start_step=2))
    assert len(rest) == 3
    for left, right in zip(whole[2:], rest, strict=True):
        assert torch.equal(left.image_B3HW, right.image_B3HW)
        assert left.token_BD is not None
        assert right.token_BD is not None
        assert torch.equal(left.token_BD, right.token_BD)


def test_every_crop_is_drawn_equally_often_and_the_whole_image_never() -> None:
    view_V6 = np.tile(np.array([0, 0, 1, 1, 0, 1], np.float32), (5, 1))
    config = AugmentationConfig(views="recorded", crop=CROP)
    void_HW = np.full((48, 64), VOID, np.uint8)
    drawn = [
        recorded_view(view_rng(0, position), view_V6, config, visible_HW=void_HW)
        for position in range(800)
    ]
    count_V = np.bincount(drawn, minlength=5)
    assert count_V[0] == 0
    assert count_V.size == 5
    assert (np.abs(count_V[1:] - 200) < 45).all()
    again = [recorded_view(view_rng(0, p), view_V6, config, visible_HW=void_HW) for p in range(20)]
    assert again == drawn[:20]


def test_a_crop_full_of_one_visible_class_is_drawn_again() -> None:
    label_HW = np.zeros((48, 64), np.uint8)
    label_HW[:, 32:] = 1
    left, middle = [0, 0, 1, 0.5, 0, 1], [0, 0.25, 1, 0.5, 0, 1]
    view_V6 = np.array([[0, 0, 1, 1, 0, 1], left, left, left, middle], np.float32)
    config = AugmentationConfig(views="recorded", crop=CROP)
    free = config.model_copy(update={"largest_class_share": 1.0})

    def mean(config: AugmentationConfig, view_V6: NDArray[np.float32]) -> float:
        drawn = [
            recorded_view(view_rng(0, position), view_V6, config, visible_HW=label_HW)
            for position in range(400)
        ]
        return float(np.mean(np.array(drawn) == 4))

    assert mean(free, view_V6) == pytest.approx(1 / 4, abs=0.06)
    assert mean(config, view_V6) == pytest.approx(1 - (3 / 4) ** 11, abs=0.04)
    # With nothing better, the last draw is taken.
    assert mean(config, np.vstack([view_V6[:4], view_V6[1:2]])) == pytest.approx(1 / 4, abs=0.06)


def test_a_store_without_recorded_views_is_refused(tmp_path: Path) -> None:
    description = draw_world(tmp_path / "world", images=2)
    spec = load_spec(str(description))
    store = write_store(tmp_path / "store", description)
    assert recorded_views(store) == 0
    with pytest.raises(CacheError, match=r"no recorded views.*--update --views 8.*=random"):
        check_store(store, spec, config_of())
    check_store(store, spec, config_of(views="random"))
    kept = write_store(tmp_path / "kept", description, views=2)
    assert recorded_views(kept) == 2
    check_store(kept, spec, config_of())
