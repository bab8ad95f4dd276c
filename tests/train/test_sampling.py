"""Random views and the stateless order of crops."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from zsseg.stages.data.geometry import crop_map, inside
from zsseg.stages.data.spec import VOID
from zsseg.stages.train.batches.photometric import Jitter
from zsseg.stages.train.batches.sampling import (
    epoch_order,
    jitter_rng,
    largest_class_share,
    random_view,
    view_rng,
)
from zsseg.stages.train.run_config import AugmentationConfig

SIZE = (48, 64)


def test_a_crop_is_whole_pixels_of_the_enlarged_image() -> None:
    config = AugmentationConfig(short_side=96, scale=(0.5, 2.0), crop=(40, 56))
    for position in range(200):
        view = random_view(view_rng(0, position), SIZE, config)
        rows, columns = round(96 * view.scale), round(128 * view.scale)
        assert 0.5 <= view.scale <= 2.0
        assert view.height * rows == pytest.approx(40)
        assert view.width * columns == pytest.approx(56)
        for start, length, crop in ((view.y0, rows, 40), (view.x0, columns, 56)):
            assert start * length == pytest.approx(round(start * length), abs=1e-9)
            assert 0 <= start * length <= max(length - crop, 0) + 1e-9
        assert inside(view, 40, 56).sum() == min(40, rows) * min(56, columns)


def test_every_position_scale_and_flip_is_drawn() -> None:
    config = AugmentationConfig(short_side=None, scale=(1.0, 1.0), crop=(47, 62), flip=0.25)
    views = [random_view(view_rng(0, position), SIZE, config) for position in range(600)]
    tops = np.bincount([round(view.y0 * 48) for view in views])
    lefts = np.bincount([round(view.x0 * 64) for view in views])
    assert tops.size == 2
    assert (tops > 200).all()
    assert lefts.size == 3
    assert (lefts > 120).all()
    assert 90 < sum(view.flip for view in views) < 210
    assert {view.scale for view in views} == {1.0}


def test_a_crop_larger_than_the_image_is_padded_below_and_right() -> None:
    config = AugmentationConfig(short_side=None, scale=(1.0, 1.0), crop=(50, 70), flip=0)
    view = random_view(view_rng(0, 0), SIZE, config)
    expected_HW = np.zeros((50, 70), bool)
    expected_HW[:48, :64] = True
    assert (inside(view, 50, 70) == expected_HW).all()


def small_crops(**fields: Any) -> AugmentationConfig:
    """Crops of 16 pixels, which no student takes: unchecked."""
    return AugmentationConfig.model_construct(short_side=None, crop=(16, 16), **fields)


def _halves() -> NDArray[np.uint8]:
    label_HW = np.zeros(SIZE, np.uint8)
    label_HW[:, 32:] = 1
    return label_HW


def test_a_crop_full_of_one_class_is_drawn_again() -> None:
    config = small_crops(scale=(1.0, 1.0), flip=0)
    free: list[bool] = []
    ruled: list[bool] = []
    for position in range(200):
        for views, visible_HW in ((free, None), (ruled, _halves())):
            view = random_view(view_rng(0, position), SIZE, config, visible_HW=visible_HW)
            views.append(largest_class_share(crop_map(_halves(), view, (16, 16), VOID)) > 0.9)
    # Of 49 left edges 13 give a share of 0.9 or less, 12 one of 3/4 in every fourth column.
    assert np.mean(free) == pytest.approx(36 / 49, abs=0.08)
    assert np.mean(ruled) == pytest.approx((37 / 49) ** 11, abs=0.05)


def test_drawing_again_keeps_scale_and_flip() -> None:
    config = small_crops(scale=(1.0, 2.0))
    one_class = np.zeros(SIZE, np.uint8)
    moved = 0
    for position in range(50):
        free = random_view(view_rng(0, position), SIZE, config)
        ruled = random_view(view_rng(0, position), SIZE, config, visible_HW=one_class)
        assert (ruled.scale, ruled.flip, ruled.height) == (free.scale, free.flip, free.height)
        moved += (ruled.y0, ruled.x0) != (free.y0, free.x0)
    assert moved > 40


@pytest.mark.parametrize("label", [VOID, None])
def test_a_crop_without_labels_or_rule_is_kept(label: int | None) -> None:
    share = 0.75 if label == VOID else 1.0
    config = small_crops(scale=(1, 1), largest_class_share=share)
    visible_HW = np.full(SIZE, label or 0, np.uint8)
    for position in range(20):
        ruled = random_view(view_rng(0, position), SIZE, config, visible_HW=visible_HW)
        assert ruled == random_view(view_rng(0, position), SIZE, config)


def test_largest_class_share_counts_labelled_pixels_only() -> None:
    label_HW = np.array([[0, 0, 0, 1], [VOID, VOID, VOID, VOID]], np.uint8)
    assert largest_class_share(label_HW) == 0.75
    assert largest_class_share(label_HW[1:]) == 0


def test_an_epoch_shows_every_row_once_in_an_order_of_its_own() -> None:
    orders = [tuple(epoch_order(seed, epoch, 50)) for seed in range(2) for epoch in range(3)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len(set(orders)) == 6
    assert tuple(epoch_order(1, 2, 50)) == orders[-1]


def test_streams_of_one_seed_and_number_are_independent() -> None:
    draws = {view_rng(3, 7).random(), jitter_rng(3, 7).random(), view_rng(3, 8).random()}
    assert len(draws) == 3


def test_jitter_follows_its_generator_and_leaves_its_input() -> None:
    image_HW3 = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    before = image_HW3.copy()
    jitter = Jitter()
    first = [jitter(image_HW3, jitter_rng(0, position)) for position in range(8)]
    other = Jitter()
    for position in reversed(range(8)):
        assert (other(image_HW3, jitter_rng(0, position)) == first[position]).all()
    assert first[0].dtype == np.uint8
    assert (image_HW3 == before).all()


def test_each_distortion_is_drawn_on_its_own() -> None:
    """Four distortions of probability 1/2: one image in 16 stays as it is, not one in 2."""
    image_HW3 = np.random.default_rng(0).integers(40, 200, (8, 8, 3)).astype(np.uint8)
    jitter = Jitter()
    same = [(jitter(image_HW3, jitter_rng(0, p)) == image_HW3).all() for p in range(600)]
    assert np.mean(same) == pytest.approx(1 / 16, abs=0.035)
