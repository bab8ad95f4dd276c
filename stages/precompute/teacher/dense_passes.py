"""The passes over an image that its dense tokens are the mean of: their sizes and windows.

Nothing here loads torch. How the tokens are brought together is in `averaged_tokens.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np

from zsseg.stages.errors import UserError
from zsseg.stages.precompute.precompute_config import DenseConfig

SMALLEST, LARGEST = 512**2, 1024**2
"""Pixels of dense.size=auto: as many tokens as the default's at least, and four times as many at
most. [ours]"""

Pair = tuple[int, int]
"""Of rows and columns."""


@dataclass(frozen=True)
class DensePass:
    """One pass over an image, whole or in windows; all numbers in pixels."""

    size: Pair
    """Height and width that the image is resized to."""
    strides: Pair
    """Height and width of what one token stands for."""
    window: Pair
    """Height and width of a window; `size` where the image is seen whole."""
    rows: tuple[int, ...]
    """First row of the windows; there is one at each of these rows and columns."""
    columns: tuple[int, ...]
    """First column of the windows."""

    @property
    def windows(self) -> int:
        """How many windows the image is cut into: forward passes per image."""
        return len(self.rows) * len(self.columns)

    @property
    def grid(self) -> Pair:
        """(h, w) of its tokens."""
        return self.size[0] // self.strides[0], self.size[1] // self.strides[1]

    def at_once(self, images: int, size: Pair) -> int:
        """How many images a pass may take where `images` of `size` are taken: no more pixels."""
        return max(1, images * size[0] * size[1] // (self.size[0] * self.size[1]))


def dense_passes(config: DenseConfig, strides: Pair) -> tuple[DensePass, ...]:
    """The passes of a teacher with a token per `strides`; with `flip` each is made twice.

    Raises UserError for windows that are no multiple of the strides.
    """
    side = config.windows.size
    if side and any(side % stride for stride in strides):
        fitting = max(1, round(side / max(strides))) * max(strides)
        raise UserError(
            f"dense.windows.size={side}: this teacher has one token per {strides[0]} x "
            f"{strides[1]} pixels. Give a multiple of that, like {fitting}"
        )
    return tuple(_pass(config, scale, strides) for scale in config.scales)


def passes_on_grid(config: DenseConfig, grid: Pair) -> tuple[DensePass, ...]:
    """`dense_passes` of the teacher that has a grid (h, w) of tokens at `size`."""
    (height, width), (rows, columns) = config.pixels, grid
    return dense_passes(config, (height // rows, width // columns))


def _pass(config: DenseConfig, scale: float, strides: Pair) -> DensePass:
    height, width = config.pixels
    size = _multiples((height * scale, width * scale), strides)
    side = config.windows.size or max(size)
    window = min(side, size[0]), min(side, size[1])
    rows, columns = (
        window_starts(*each, config.windows.overlap)
        for each in zip(size, window, strides, strict=True)
    )
    return DensePass(size, strides, window, rows, columns)


def window_starts(side: int, window: int, stride: int, overlap: float) -> tuple[int, ...]:
    """First pixels of the windows along a side: multiples of the stride, evenly spread.

    The first begins at 0 and the last ends with the side; as few as overlap by at least the share
    `overlap`, up to rounding to the stride.
    """
    step = max(window * (1 - overlap), stride)
    number = 1 + ceil((side - window) / step)
    places = np.linspace(0, (side - window) // stride, number)
    return tuple(int(place) * stride for place in np.floor(places + 0.5))


def auto_size(shapes: Sequence[Pair], strides: Pair) -> Pair:
    """Height and width that dense.size=auto stands for, of images of these heights and widths.

    The median aspect and the median number of pixels, the latter within SMALLEST and LARGEST, in
    multiples of the strides.
    """
    shape_N2 = np.array(shapes, dtype=np.float64)
    aspect = float(np.median(shape_N2[:, 1] / shape_N2[:, 0]))
    pixels = min(max(float(np.median(shape_N2.prod(1))), SMALLEST), LARGEST)
    return _multiples((sqrt(pixels / aspect), sqrt(pixels * aspect)), strides)


def _multiples(size: tuple[float, float], strides: Pair) -> Pair:
    """The nearest multiples of the strides, at least 1."""
    rows, columns = (
        max(1, int(side / stride + 0.5)) * stride
        for side, stride in zip(size, strides, strict=True)
    )
    return rows, columns
