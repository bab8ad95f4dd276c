"""Masks of polygons and run lengths, against slow references."""

import numpy as np
import pytest

from zsseg.stages.data.run_lengths import mask_of_runs
from zsseg.stages.importing.shapes import ellipse_mask, points_of, polygon_mask


def inside(points: np.ndarray, x: float, y: float) -> bool:
    """The even-odd rule for one point: crossings of a ray to the left."""
    crossings = 0
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if (y0 <= y) != (y1 <= y) and x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x:
            crossings += 1
    return crossings % 2 == 1


@pytest.mark.parametrize("seed", range(8))
def test_polygons_are_those_of_the_definition(seed: int) -> None:
    """Crossing themselves, and reaching far out of the image, too."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-15, 35, (rng.integers(3, 9), 2))
    mask = polygon_mask(points, 13, 17)
    expected = [[inside(points, x + 0.5, y + 0.5) for x in range(17)] for y in range(13)]
    assert (mask == np.array(expected)).all()


def test_a_box_of_whole_pixels_is_these_pixels() -> None:
    mask = polygon_mask(points_of([2, 1, 5, 1, 5, 4, 2, 4]), 6, 8)
    assert mask.sum() == 9
    assert mask[1:4, 2:5].all()
    assert not polygon_mask(points_of([20, 20, 30, 20, 30, 30]), 6, 8).any()


@pytest.mark.parametrize("numbers", [[1, 2, 3], [1, 2, 3, 4], [0, 0, 1, float("nan"), 2, 2]])
def test_what_is_no_polygon_is_refused(numbers: list[float]) -> None:
    with pytest.raises(ValueError, match="polygon"):
        polygon_mask(points_of(numbers), 6, 8)


def test_run_lengths_down_the_columns_and_along_the_rows() -> None:
    assert (mask_of_runs([1, 2, 3], 2, 3) == [[0, 1, 0], [1, 0, 0]]).all()
    assert (mask_of_runs([1, 2, 3], 2, 3, by_rows=True) == [[0, 1, 1], [0, 0, 0]]).all()
    for runs in ([1, 2], [7, -1], []):
        with pytest.raises(ValueError, match="do not fill 2 x 3"):
            mask_of_runs(runs, 2, 3)


def test_an_ellipse_by_its_area() -> None:
    mask = ellipse_mask((50, 40), (30, 20), 80, 100)
    assert mask.sum() == pytest.approx(np.pi * 600, rel=0.01)
