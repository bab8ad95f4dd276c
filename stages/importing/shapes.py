"""Masks of polygons and of the run lengths of annotation tools.

Legend: H W pixels of the image, h w of a part of it, N points, K crossings of a polygon's edges
with the middle of a row.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.importing.annotated import Mask

_FARTHEST = 1e7  # pixels from the image's corner


def polygon_mask(points_N2: NDArray[np.float64], height: int, width: int) -> Mask:
    """(H, W) the pixels whose centre lies inside a polygon, by the even-odd rule.

    `points_N2`: x, y in pixels from the top left corner of the image; points outside the image are
    allowed. Raises ValueError for fewer than three points, and for numbers that are none.
    """
    if points_N2.ndim != 2 or points_N2.shape[1] != 2 or len(points_N2) < 3:
        raise ValueError("a polygon of fewer than three points")
    if not np.isfinite(points_N2).all():
        raise ValueError("a polygon with a coordinate that is no number")
    x_N, y_N = points_N2.T
    next_x_N, next_y_N = np.roll(points_N2, -1, axis=0).T
    # An edge crosses the middles of these rows; its lower end belongs to the next edge.
    first_N = np.clip(np.ceil(np.minimum(y_N, next_y_N) - 0.5), 0, height).astype(np.intp)
    end_N = np.clip(np.ceil(np.maximum(y_N, next_y_N) - 0.5), 0, height).astype(np.intp)
    count_N = end_N - first_N
    edge_K = np.repeat(np.arange(len(x_N)), count_N)
    start_N = np.cumsum(count_N) - count_N
    row_K = first_N[edge_K] + np.arange(len(edge_K)) - start_N[edge_K]
    share_K = (row_K + 0.5 - y_N[edge_K]) / (next_y_N - y_N)[edge_K]
    x_K = x_N[edge_K] + share_K * (next_x_N - x_N)[edge_K]
    column_K = np.clip(np.ceil(x_K - 0.5), 0, width).astype(np.intp)
    mask_HW: Mask = np.zeros((height, width), dtype=bool)
    if not len(row_K):
        return mask_HW
    # Only where the polygon is; bytes may overflow, since even and odd is all that counts.
    top, bottom, left, right = row_K.min(), row_K.max() + 1, column_K.min(), column_K.max()
    crossings_hw = np.zeros((bottom - top, right - left + 1), dtype=np.uint8)
    np.add.at(crossings_hw, (row_K - top, column_K - left), 1)
    inside_hw = np.cumsum(crossings_hw, axis=1, dtype=np.uint8)[:, : right - left] & 1
    mask_HW[top:bottom, left:right] = inside_hw == 1
    return mask_HW


def polygons_mask(polygons: Sequence[NDArray[np.float64]], height: int, width: int) -> Mask:
    """(H, W) the pixels inside at least one of several polygons."""
    mask_HW = np.zeros((height, width), dtype=bool)
    for points_N2 in polygons:
        mask_HW |= polygon_mask(points_N2, height, width)
    return mask_HW


def scaled_polygon_mask(points_N2: NDArray[np.float64], height: int, width: int) -> Mask:
    """The same of points given as shares of the image's width and height."""
    return polygon_mask(points_N2 * (width, height), height, width)


def ellipse_mask(
    centre: tuple[float, float], radii: tuple[float, float], height: int, width: int
) -> Mask:
    """(H, W) the pixels whose centre lies in an upright ellipse; x before y, in pixels."""
    y_H1, x_1W = np.ogrid[0.5 : height + 0.5, 0.5 : width + 0.5]
    (x, y), (across, down) = centre, radii
    if not min(across, down) > 0:
        raise ValueError("a circle or an ellipse without a radius")
    mask_HW: Mask = ((x_1W - x) / across) ** 2 + ((y_H1 - y) / down) ** 2 <= 1
    return mask_HW


def points_of(numbers: Sequence[float]) -> NDArray[np.float64]:
    """x, y, x, y, ... as (N, 2). Raises ValueError for an odd count, and for what is no place."""
    flat = np.asarray(numbers, dtype=np.float64)
    if flat.ndim != 1 or flat.size % 2:
        raise ValueError("a polygon whose coordinates are no pairs of x and y")
    if not (np.abs(flat) < _FARTHEST).all():
        raise ValueError("a polygon with a coordinate that is no number of pixels")
    return flat.reshape(-1, 2)


def box_points(x0: float, y0: float, x1: float, y1: float) -> NDArray[np.float64]:
    """The corners (4, 2) of a box."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], dtype=np.float64)
