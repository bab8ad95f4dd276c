"""Images, labels, regions and tokens that go through one view land in one place."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from zsseg.stages.data.geometry import (
    WHOLE,
    View,
    cell_centres,
    crop_image,
    crop_map,
    crop_tokens,
    inside,
    pool_tokens,
)

FILL = (124, 116, 104)
VIEWS = [
    View(*box, flip=flip)
    for box, flip in itertools.product(
        [
            (0.0, 0.0, 1.0, 1.0),  # whole
            (0.25, 0.125, 0.5, 0.625),  # a part
            (0.31, 0.17, 0.23, 0.29),  # a small part, off every grid
            (0.1, 0.3, 1.2, 1.1),  # reaches beyond the bottom and the right
            (0.0, 0.0, 1.5, 2.0),  # the whole image and padding
        ],
        [False, True],
    )
]


def _centres_by_hand(view: View, rows: int, columns: int) -> NDArray[np.float64]:
    """(rows, columns, 2) normalised y, x of each output cell, one at a time."""
    centre_RC2 = np.empty((rows, columns, 2))
    for row, column in itertools.product(range(rows), range(columns)):
        shown = columns - 1 - column if view.flip else column
        centre_RC2[row, column] = (
            view.y0 + view.height * (row + 0.5) / rows,
            view.x0 + view.width * (shown + 0.5) / columns,
        )
    return centre_RC2


def _is_inside(centre_RC2: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray(((centre_RC2 >= 0) & (centre_RC2 < 1)).all(2))


@pytest.mark.parametrize("view", VIEWS)
def test_cell_centres_and_inside(view: View) -> None:
    centre_RC2 = _centres_by_hand(view, 7, 9)
    y_R, x_C = cell_centres(view, 7, 9)
    np.testing.assert_allclose(np.stack(np.meshgrid(y_R, x_C, indexing="ij"), 2), centre_RC2)
    np.testing.assert_array_equal(inside(view, 7, 9), _is_inside(centre_RC2))


@pytest.mark.parametrize("view", VIEWS)
def test_map_shows_the_pixel_under_each_centre(view: View) -> None:
    label_HW = np.random.default_rng(0).integers(0, 200, (30, 41), dtype=np.uint8)
    centre_RC2 = _centres_by_hand(view, 13, 17)
    expected_RC = np.full((13, 17), 255)
    for row, column in zip(*np.nonzero(_is_inside(centre_RC2)), strict=True):
        y, x = centre_RC2[row, column]
        expected_RC[row, column] = label_HW[int(y * 30), int(x * 41)]
    np.testing.assert_array_equal(crop_map(label_HW, view, (13, 17), 255), expected_RC)


def test_whole_view_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    image_HW3 = rng.integers(0, 256, (12, 20, 3), dtype=np.uint8)
    label_HW = rng.integers(0, 9, (12, 20), dtype=np.uint8)
    dense_Dhw = rng.normal(size=(5, 6, 10)).astype(np.float16)
    np.testing.assert_array_equal(crop_image(image_HW3, WHOLE, (12, 20), FILL), image_HW3)
    np.testing.assert_array_equal(crop_map(label_HW, WHOLE, (12, 20), 255), label_HW)
    np.testing.assert_allclose(crop_tokens(dense_Dhw, WHOLE, (6, 10)), dense_Dhw, atol=1e-6)


def _ramp(rows: int, columns: int) -> NDArray[np.float64]:
    """(rows, columns, 2): the normalised y and x of each cell's own centre."""
    return np.stack(
        np.meshgrid(
            (np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij"
        ),
        2,
    )


@pytest.mark.parametrize("size", [(16, 24), (60, 90), (200, 300)])
@pytest.mark.parametrize("view", VIEWS)
def test_image_ramp_lands_at_the_centres(view: View, size: tuple[int, int]) -> None:
    """An image whose colour is its position must show, in each cell, the position of the centre.

    Away from the image's borders an antialiased bilinear filter keeps a linear ramp. A view that
    reaches beyond the image is stretched by less than one output cell at the border.
    """
    image_HW3 = np.zeros((240, 320, 3), dtype=np.uint8)
    image_HW3[:, :, :2] = np.rint(_ramp(240, 320) * 255)
    shown_RC3 = crop_image(image_HW3, view, size, FILL)
    centre_RC2 = _centres_by_hand(view, *size)
    inside_RC = _is_inside(centre_RC2)
    assert (shown_RC3[~inside_RC] == FILL).all()
    cell = np.array([view.height, view.width]) / size
    margin = np.maximum(cell, 1 / 240)
    inner_RC = ((centre_RC2 > margin) & (centre_RC2 < 1 - margin)).all(2)
    assert inner_RC.any()
    away_RC2 = np.abs(shown_RC3[:, :, :2] / 255 - centre_RC2)[inner_RC]
    reaches_beyond = view.y0 + view.height > 1 or view.x0 + view.width > 1
    allowed = 1.2 / 255 + (0.5 * cell if reaches_beyond else 0)
    assert (away_RC2 <= allowed).all()


@pytest.mark.parametrize("view", VIEWS)
def test_token_ramp_lands_at_the_centres(view: View) -> None:
    dense_Dhw = np.moveaxis(_ramp(20, 30), 2, 0)
    shown_DRC = crop_tokens(dense_Dhw, view, (17, 23))
    centre_RC2 = _centres_by_hand(view, 17, 23)
    assert (shown_DRC[:, ~_is_inside(centre_RC2)] == 0).all()
    half = np.array([0.5 / 20, 0.5 / 30])
    expected_RC2 = np.clip(centre_RC2, half, 1 - half)  # beyond the last centre: the last token
    inside_RC = _is_inside(centre_RC2)
    np.testing.assert_allclose(
        np.moveaxis(shown_DRC, 0, 2)[inside_RC], expected_RC2[inside_RC], atol=1e-6
    )


@pytest.mark.parametrize("view", VIEWS)
def test_all_four_land_in_the_same_place(view: View) -> None:
    """A world of 8 x 8 blocks: colour, label, region and token name the block they belong to."""
    block_88 = np.arange(64).reshape(8, 8)
    label_HW = block_88.repeat(30, 0).repeat(40, 1).astype(np.uint8)
    image_HW3 = (label_HW * 3)[:, :, None].repeat(3, 2)
    region_hw = block_88.repeat(4, 0).repeat(4, 1).astype(np.uint8)
    dense_Dhw = (np.arange(64)[:, None, None] == region_hw).astype(np.float32)
    size = (128, 128)

    centre_RC2 = _centres_by_hand(view, *size)
    in_block_RC2 = centre_RC2 * 8 % 1
    # Half a token and an output cell away from every border between blocks.
    margin = 8 * (0.5 / 32 + np.array([view.height, view.width]) / 128)
    clear_RC = ((in_block_RC2 > margin) & (in_block_RC2 < 1 - margin)).all(2)
    clear_RC &= _is_inside(centre_RC2)
    assert clear_RC.sum() > 100
    y_RC, x_RC = (centre_RC2[clear_RC] * 8).astype(int).T
    block = block_88[y_RC, x_RC]

    np.testing.assert_array_equal(crop_map(label_HW, view, size, 255)[clear_RC], block)
    np.testing.assert_array_equal(crop_map(region_hw, view, size, 0)[clear_RC], block)
    np.testing.assert_array_equal(crop_image(image_HW3, view, size, FILL)[clear_RC, 0], block * 3)
    tokens_DRC = crop_tokens(dense_Dhw, view, size)
    np.testing.assert_array_equal(tokens_DRC[:, clear_RC].argmax(0), block)
    np.testing.assert_allclose(tokens_DRC[:, clear_RC].max(0), 1, atol=1e-6)


def test_flip_mirrors_the_output() -> None:
    rng = np.random.default_rng(3)
    image_HW3 = rng.integers(0, 256, (33, 47, 3), dtype=np.uint8)
    label_HW, dense_Dhw = image_HW3[:, :, 0], rng.normal(size=(4, 9, 11))
    plain, mirrored = View(0.2, 0.4, 0.5, 0.9), View(0.2, 0.4, 0.5, 0.9, flip=True)
    size = (10, 12)
    np.testing.assert_array_equal(
        crop_image(image_HW3, mirrored, size, FILL),
        crop_image(image_HW3, plain, size, FILL)[:, ::-1],
    )
    np.testing.assert_array_equal(
        crop_map(label_HW, mirrored, size, 255), crop_map(label_HW, plain, size, 255)[:, ::-1]
    )
    np.testing.assert_allclose(
        crop_tokens(dense_Dhw, mirrored, size),
        crop_tokens(dense_Dhw, plain, size)[:, :, ::-1],
        atol=1e-6,
    )


def test_view_outside_the_image_is_all_padding() -> None:
    away = View(1.2, 1.2, 0.5, 0.5)
    image_HW3 = np.zeros((8, 8, 3), dtype=np.uint8)
    assert (crop_image(image_HW3, away, (4, 4), FILL) == FILL).all()
    assert (crop_map(image_HW3[:, :, 0], away, (4, 4), 255) == 255).all()
    assert not inside(away, 4, 4).any()


def test_view_survives_its_row() -> None:
    view = View(0.25, 0.125, 0.5, 0.625, flip=True, scale=1.5)
    assert View.from_row(view.as_row()) == view


@pytest.mark.parametrize("view", VIEWS)
def test_pooled_token_is_the_mean_of_the_cropped_tokens(view: View) -> None:
    dense_Dhw = np.random.default_rng(1).normal(size=(6, 12, 15)).astype(np.float16)
    unit_Dhw = dense_Dhw.astype(np.float64)
    unit_Dhw /= np.sqrt((unit_Dhw**2).sum(0))
    mean_D = crop_tokens(unit_Dhw, view, (12, 15)).reshape(6, -1).sum(1)
    expected_D = mean_D / np.sqrt((mean_D**2).sum())
    np.testing.assert_allclose(pool_tokens(dense_Dhw, view), expected_D, atol=1e-5)
