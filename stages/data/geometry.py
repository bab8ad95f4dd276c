"""Views: a crop with flip and scale that is applied alike to image, label, regions and tokens.

A view lives in normalised image coordinates: (0, 0) is the top left corner of the image and (1, 1)
the bottom right one, so one view serves an image of 1024 x 768 pixels and a map of 32 x 32 tokens.
It is stored as numbers, never as a seed, and applied by the functions here only: a recorded box
survives a library upgrade, a seed does not.

Legend: H W pixels of the source, h w cells of a token grid, R C rows and columns asked for,
D CLIP width.
"""

from dataclasses import astuple, dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.data.images import resize_image


@dataclass(frozen=True)
class View:
    """A box in normalised coordinates, and whether it is mirrored left to right.

    A box may reach beyond the image (below or right of it): what lies outside is padding.
    `scale` records by how much the image was enlarged before the crop was cut (1 = the base size);
    it follows from the box and the output size and is kept for the reader of the record.
    """

    y0: float
    x0: float
    height: float
    width: float
    flip: bool = False
    scale: float = 1.0

    def as_row(self) -> NDArray[np.float32]:
        """The six numbers that a store keeps."""
        return np.array(astuple(self), dtype=np.float32)

    @classmethod
    def from_row(cls, row: NDArray[np.float32]) -> Self:
        """The view of six stored numbers."""
        y0, x0, height, width, flip, scale = (float(value) for value in row)
        return cls(y0, x0, height, width, bool(flip), scale)


WHOLE = View(0.0, 0.0, 1.0, 1.0)
"""The whole image, unflipped: view 0 of every image."""


def cell_centres(
    view: View, rows: int, columns: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Normalised y (rows,) and x (columns,) of the centres of the view's output cells."""
    y_R = view.y0 + (np.arange(rows) + 0.5) / rows * view.height
    x_C = view.x0 + (np.arange(columns) + 0.5) / columns * view.width
    return y_R, x_C[::-1] if view.flip else x_C


def inside(view: View, rows: int, columns: int) -> NDArray[np.bool_]:
    """(rows, columns): True where the centre of an output cell lies within the image."""
    y_R, x_C = cell_centres(view, rows, columns)
    return ((y_R >= 0) & (y_R < 1))[:, None] & ((x_C >= 0) & (x_C < 1))[None, :]


def nearest_cells(
    view: View, size: tuple[int, int], grid: tuple[int, int]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(R,) and (C,): the row and column of a map of `grid` cells that each output cell shows.

    It is the cell that the output cell's centre falls into, or the nearest if that is outside the
    image (where `inside` is False).
    """
    y_R, x_C = cell_centres(view, *size)
    return _nearest(y_R, grid[0]), _nearest(x_C, grid[1])


def _nearest(centre_R: NDArray[np.float64], cells: int) -> NDArray[np.intp]:
    """(R,) the source cell that each position falls into, or the nearest."""
    # np.clip takes four times as long for some hundred numbers.
    cell_R = np.minimum(np.maximum(centre_R * cells, 0), cells - 1)
    return cell_R.astype(np.intp)  # rounds down: none is below 0


def crop_map(
    map_HW: NDArray[np.uint8], view: View, size: tuple[int, int], fill: int
) -> NDArray[np.uint8]:
    """A label or region map seen through a view: nearest neighbour, `fill` outside the image.

    Nearest by pixel centre: output cell i shows the source pixel that its centre falls into, so a
    class id is never mixed and a region of the token grid keeps its exact borders. Several maps
    (..., H, W) are seen alike.
    """
    *_, height, width = map_HW.shape
    y_R, x_C = cell_centres(view, *size)
    row_R, column_C = _nearest(y_R, height), _nearest(x_C, width)
    # Columns first, of the rows shown only, then whole rows: a quarter of the time of both at once.
    shown_HW = map_HW[..., row_R[0] : row_R[-1] + 1, :]
    cropped_RC: NDArray[np.uint8] = shown_HW.take(column_C, axis=-1).take(row_R - row_R[0], axis=-2)
    cropped_RC[..., (y_R < 0) | (y_R >= 1), :] = fill
    # Columns outside are the first and last ones; filling slices is ten times as fast as a mask.
    shown_C = np.flatnonzero((x_C >= 0) & (x_C < 1))
    first, last = (shown_C[0], shown_C[-1] + 1) if shown_C.size else (size[1], size[1])
    cropped_RC[..., :first] = fill
    cropped_RC[..., last:] = fill
    return cropped_RC


def crop_image(
    image_HW3: NDArray[np.uint8],
    view: View,
    size: tuple[int, int],
    fill: tuple[int, int, int],
    *,
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
) -> NDArray[np.uint8]:
    """An RGB image seen through a view: antialiased, `fill` outside the image."""
    rows, columns = size
    height, width = image_HW3.shape[:2]
    # The part of the output that shows the image, in whole output pixels.
    inside_RC = inside(View(view.y0, view.x0, view.height, view.width), rows, columns)
    row_R, column_C = np.flatnonzero(inside_RC.any(1)), np.flatnonzero(inside_RC.any(0))
    out_RC3 = np.empty((rows, columns, 3), dtype=np.uint8)
    out_RC3[:] = fill
    if row_R.size and column_C.size:
        top, bottom = row_R[0], row_R[-1] + 1
        left, right = column_C[0], column_C[-1] + 1
        box = (
            (view.x0 + left / columns * view.width) * width,
            (view.y0 + top / rows * view.height) * height,
            (view.x0 + right / columns * view.width) * width,
            (view.y0 + bottom / rows * view.height) * height,
        )
        out_RC3[top:bottom, left:right] = resize_image(
            image_HW3,
            (int(bottom - top), int(right - left)),
            box=box,
            interpolation=interpolation,
        )
    return np.ascontiguousarray(out_RC3[:, ::-1]) if view.flip else out_RC3


def _linear_weights(centre_R: NDArray[np.float64], cells: int) -> NDArray[np.float32]:
    """(R, cells) bilinear weights of source cells at each position; rows outside [0, 1) are 0."""
    position_R = np.clip(centre_R * cells - 0.5, 0, cells - 1)
    low_R = np.floor(position_R).astype(np.intp)
    high_R = np.minimum(low_R + 1, cells - 1)
    part_R = position_R - low_R
    weight_Rh = np.zeros((centre_R.size, cells))
    index_R = np.arange(centre_R.size)
    np.add.at(weight_Rh, (index_R, low_R), 1 - part_R)
    np.add.at(weight_Rh, (index_R, high_R), part_R)
    weight_Rh[(centre_R < 0) | (centre_R >= 1)] = 0
    return weight_Rh.astype(np.float32)


def token_weights(
    view: View, size: tuple[int, int], grid: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(R, h) and (C, w): weights of a token grid's rows and columns in a view's output.

    A token of the output is the sum over the grid of row weight x column weight x token.
    """
    y_R, x_C = cell_centres(view, *size)
    return _linear_weights(y_R, grid[0]), _linear_weights(x_C, grid[1])


def crop_tokens(
    dense_Dhw: NDArray[np.floating], view: View, size: tuple[int, int]
) -> NDArray[np.float32]:
    """(D, rows, columns) dense tokens seen through a view: bilinear, 0 outside the image."""
    depth, height, width = dense_Dhw.shape
    row_Rh, column_Cw = token_weights(view, size, (height, width))
    # One product for the columns of all channels: a product per channel costs twice the time.
    tokens_RC = np.asarray(dense_Dhw, dtype=np.float32).reshape(-1, width) @ column_Cw.T
    tokens_DRC = row_Rh @ tokens_RC.reshape(depth, height, -1)
    return np.asarray(tokens_DRC, dtype=np.float32)


def pool_tokens(dense_Dhw: NDArray[np.floating], view: View) -> NDArray[np.float32]:
    """(D,) mean of the L2-normalised dense tokens that a view shows, normalised again.

    Equals the mean over `crop_tokens` of the normalised map at its own resolution, without making
    the cropped map: bilinear weights are separable, so the mean only needs their row sums.
    """
    tokens_Dhw = dense_Dhw.astype(np.float32)
    tokens_Dhw /= np.maximum(np.linalg.norm(tokens_Dhw, axis=0, keepdims=True), 1e-12)
    _, rows, columns = tokens_Dhw.shape
    y_R, x_C = cell_centres(view, rows, columns)
    row_h = _linear_weights(y_R, rows).sum(0)
    column_w = _linear_weights(x_C, columns).sum(0)
    pooled_D = np.einsum("dhw,h,w->d", tokens_Dhw, row_h, column_w, optimize=True)
    return np.asarray(pooled_D / max(float(np.linalg.norm(pooled_D)), 1e-12), dtype=np.float32)
