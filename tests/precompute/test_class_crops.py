"""Class crops, worked out by hand on small images."""

import numpy as np
import pytest
from numpy.typing import NDArray

from zsseg.stages.data.geometry import WHOLE, crop_map
from zsseg.stages.precompute.make import class_crops as module

GREY = (1, 2, 3)
Crops = tuple[list[NDArray[np.uint8]], list[int], int]


def class_crops(
    image_HW3: NDArray[np.uint8],
    visible_HW: NDArray[np.uint8],
    region_hw: NDArray[np.uint8],
    *,
    margin: float,
    max_masks: int,
    fill: tuple[int, int, int],
) -> Crops:
    """All crops at once."""
    crops, ids, left_out = module.class_crops(
        image_HW3, visible_HW, region_hw, margin=margin, max_masks=max_masks
    )
    return [crop.masked(fill) for crop in crops], ids, left_out


def numbered_image(rows: int, columns: int) -> NDArray[np.uint8]:
    """Every pixel has its own red value, from 10 on."""
    image_HW3 = np.zeros((rows, columns, 3), np.uint8)
    image_HW3[..., 0] = np.arange(10, 10 + rows * columns).reshape(rows, columns)
    return image_HW3


def test_crop_is_the_box_with_margin_and_fill_outside_the_mask() -> None:
    image_HW3 = numbered_image(6, 8)
    visible_HW = np.full((6, 8), 255, np.uint8)
    visible_HW[2:4, 3:5] = 7
    visible_HW[3, 4] = 255
    nothing_hw = np.zeros((2, 2), np.uint8)
    crops, ids, left_out = class_crops(
        image_HW3, visible_HW, nothing_hw, margin=0.5, max_masks=5, fill=GREY
    )
    assert ids == [7]
    assert left_out == 0
    expected = np.empty((4, 4, 3), np.uint8)
    expected[:] = GREY
    expected[1, 1], expected[1, 2], expected[2, 1] = (29, 0, 0), (30, 0, 0), (37, 0, 0)
    np.testing.assert_array_equal(crops[0], expected)


def test_margin_is_clipped_at_every_border() -> None:
    image_HW3 = numbered_image(5, 5)
    visible_HW = np.full((5, 5), 255, np.uint8)
    visible_HW[:2, :2] = 3
    visible_HW[3:, 3:] = 4
    nothing_hw = np.zeros((1, 1), np.uint8)
    crops, ids, _ = class_crops(
        image_HW3, visible_HW, nothing_hw, margin=0.5, max_masks=2, fill=GREY
    )
    assert ids == [3, 4]
    expected = np.empty((3, 3, 3), np.uint8)
    expected[:] = GREY
    expected[:2, :2] = image_HW3[:2, :2]
    np.testing.assert_array_equal(crops[0], expected)
    expected[:] = GREY
    expected[1:, 1:] = image_HW3[3:, 3:]
    np.testing.assert_array_equal(crops[1], expected)


def test_margin_is_a_share_of_each_side_in_whole_pixels() -> None:
    visible_HW = np.full((20, 20), 255, np.uint8)
    visible_HW[9:10, 5:12] = 0
    nothing_hw = np.zeros((1, 1), np.uint8)
    for margin, shape in ((0.1, (1, 9)), (0.5, (3, 15)), (0.2, (1, 9)), (0.0, (1, 7))):
        crops, _, _ = class_crops(
            numbered_image(20, 20), visible_HW, nothing_hw, margin=margin, max_masks=2, fill=GREY
        )
        assert crops[0].shape[:2] == shape


def test_region_is_enlarged_to_pixels_and_loses_visible_ones() -> None:
    image_HW3 = numbered_image(4, 6)
    visible_HW = np.full((4, 6), 255, np.uint8)
    visible_HW[0, 0:3] = 0
    region_hw = np.array([[2, 0, 0], [1, 1, 0]], np.uint8)
    crops, ids, left_out = class_crops(
        image_HW3, visible_HW, region_hw, margin=0.0, max_masks=9, fill=GREY
    )
    assert ids == [0, 1001, 1002]
    assert left_out == 0
    np.testing.assert_array_equal(crops[0], image_HW3[0:1, 0:3])
    np.testing.assert_array_equal(crops[1], image_HW3[2:4, 0:4])
    np.testing.assert_array_equal(crops[2], image_HW3[1:2, 0:2])


def test_region_under_visible_labels_makes_no_crop() -> None:
    visible_HW = np.zeros((4, 4), np.uint8)
    region_hw = np.array([[1, 0], [0, 0]], np.uint8)
    _, ids, left_out = class_crops(
        numbered_image(4, 4), visible_HW, region_hw, margin=0.1, max_masks=4, fill=GREY
    )
    assert ids == [0]
    assert left_out == 0


def test_largest_masks_are_kept_and_ids_ascend() -> None:
    visible_HW = np.full((6, 6), 255, np.uint8)
    visible_HW[0] = 9
    visible_HW[1, :3] = 4
    visible_HW[1, 3:] = 2
    region_hw = np.array([[0], [0], [5]], np.uint8)
    crops, ids, left_out = class_crops(
        numbered_image(6, 6), visible_HW, region_hw, margin=0.0, max_masks=3, fill=GREY
    )
    # Areas: region 5 has 12 pixels, class 9 six, classes 2 and 4 three each: 2 comes first.
    assert ids == [2, 9, 1005]
    assert left_out == 1
    assert [crop.shape[:2] for crop in crops] == [(1, 3), (1, 6), (2, 6)]


def test_image_without_masks_gives_nothing() -> None:
    visible_HW = np.full((4, 4), 255, np.uint8)
    crops, ids, left_out = class_crops(
        numbered_image(4, 4),
        visible_HW,
        np.zeros((2, 2), np.uint8),
        margin=0,
        max_masks=1,
        fill=GREY,
    )
    assert (crops, ids, left_out) == ([], [], 0)


def test_image_itself_is_left_alone() -> None:
    image_HW3 = numbered_image(4, 4)
    before = image_HW3.copy()
    visible_HW = np.full((4, 4), 255, np.uint8)
    visible_HW[0, 0] = visible_HW[3, 3] = 1
    class_crops(image_HW3, visible_HW, np.zeros((1, 1), np.uint8), margin=0, max_masks=1, fill=GREY)
    np.testing.assert_array_equal(image_HW3, before)


def crops_one_mask_at_a_time(
    image_HW3: NDArray[np.uint8],
    visible_HW: NDArray[np.uint8],
    region_hw: NDArray[np.uint8],
    *,
    margin: float,
    max_masks: int,
) -> Crops:
    """Slow: every mask compared with the whole image, its box from its own pixels."""
    enlarged_HW = crop_map(region_hw, WHOLE, visible_HW.shape, fill=0)
    masks = {int(c): visible_HW == c for c in np.unique(visible_HW) if c != 255}
    for region in np.unique(enlarged_HW[(visible_HW == 255) & (enlarged_HW > 0)]):
        masks[1000 + int(region)] = (visible_HW == 255) & (enlarged_HW == region)
    kept = sorted(sorted(masks, key=lambda mask: (-masks[mask].sum(), mask))[:max_masks])
    crops = []
    for mask in kept:
        y, x = np.nonzero(masks[mask])
        high, wide = y.max() + 1 - y.min(), x.max() + 1 - x.min()
        down, across = int(margin * high + 0.5), int(margin * wide + 0.5)
        top, left = max(y.min() - down, 0), max(x.min() - across, 0)
        box = np.s_[top : y.max() + 1 + down, left : x.max() + 1 + across]
        crops.append(np.where(masks[mask][..., None], image_HW3, np.array(GREY, np.uint8))[box])
    return crops, kept, len(masks) - len(kept)


@pytest.mark.parametrize("seed", range(12))
def test_crops_equal_those_made_one_mask_at_a_time(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = (int(side) for side in rng.integers(1, 50, 2))
    image_HW3 = rng.integers(0, 256, (rows, columns, 3), dtype=np.uint8)
    values = np.array([0, 1, 17, 253, 254, 255, 255, 255], np.uint8)
    blocks = rng.choice(values, (-(-rows // 5), -(-columns // 5)))
    visible_HW = np.kron(blocks, np.ones((5, 5), np.uint8))[:rows, :columns]
    regions = np.array([0, 1, 2, 3, 254, 255], np.uint8)
    region_hw = rng.choice(regions, tuple(int(side) for side in rng.integers(1, 9, 2)))
    margin, max_masks = float(rng.choice([0.0, 0.1, 0.7])), int(rng.choice([1, 3, 50]))
    made = class_crops(
        image_HW3, visible_HW, region_hw, margin=margin, max_masks=max_masks, fill=GREY
    )
    expected = crops_one_mask_at_a_time(
        image_HW3, visible_HW, region_hw, margin=margin, max_masks=max_masks
    )
    assert made[1:] == expected[1:]
    assert len(made[0]) == len(expected[0])
    for crop_HW3, expected_HW3 in zip(made[0], expected[0], strict=True):
        np.testing.assert_array_equal(crop_HW3, expected_HW3)


def test_crops_are_cut_when_they_are_asked_for() -> None:
    """All crops of large images, held at once, are many times the images."""
    visible_HW = np.zeros((4, 4), np.uint8)
    visible_HW[2:] = 1
    image_HW3 = numbered_image(4, 4)
    crops, _, _ = module.class_crops(
        image_HW3, visible_HW, np.zeros((1, 1), np.uint8), margin=0, max_masks=2
    )
    first, kept = next(crops), next(crops).masked(GREY)
    image_HW3[:] = 7
    assert (first.masked(GREY) == 7).all()  # a view of the image until it is asked for
    assert not (kept == 7).any()


def test_digest_is_of_what_a_teacher_sees_and_of_the_salt() -> None:
    def digests(
        image_HW3: NDArray[np.uint8], visible_HW: NDArray[np.uint8], salt: str = "a"
    ) -> list[str]:
        crops, _, _ = module.class_crops(
            image_HW3, visible_HW, np.zeros((1, 1), np.uint8), margin=0.2, max_masks=3
        )
        return [crop.digest(salt) for crop in crops]

    image_HW3 = numbered_image(6, 8)
    visible_HW = np.full((6, 8), 255, np.uint8)
    visible_HW[1:5, 1:7] = 1
    visible_HW[2:4, 2:4] = 2
    before = digests(image_HW3, visible_HW)
    assert len(set(before)) == 2
    assert digests(image_HW3, visible_HW) == before
    assert not set(digests(image_HW3, visible_HW, salt="b")) & set(before)
    # A pixel of mask 2: outside mask 1, so nothing of 1 is seen to change.
    image_HW3[2, 2] += 1
    changed = digests(image_HW3, visible_HW)
    assert changed[0] == before[0]
    assert changed[1] != before[1]
    # The mask alone: its pixel turns unlabelled in a corner, the box stays.
    image_HW3[2, 2] -= 1
    visible_HW[1, 1] = 255
    assert digests(image_HW3, visible_HW)[0] != before[0]
    # A black pixel within the mask is not one outside of it.
    image_HW3[1, 1] = 0
    black = digests(image_HW3, visible_HW)[0]
    visible_HW[1, 1] = 1
    assert digests(image_HW3, visible_HW)[0] != black
