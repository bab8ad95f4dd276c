"""Paints textured polygons into an image and its label map at the same time.

Legend: H W pixels, h w pixels of a polygon's bounding box, N corners.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

_FINE = 3
"""Sub-pixels per side by which a polygon's edge is smoothed."""

Colour = NDArray[np.float32]
"""(3,) RGB, 0..255."""


class Canvas:
    """An image and its label map; a later polygon covers an earlier one.

    `image_HW3` is float32 RGB 0..255, `label_HW` uint8 class ids.
    """

    def __init__(self, size: tuple[int, int], rng: np.random.Generator) -> None:
        self.image_HW3 = np.zeros((*size, 3), dtype=np.float32)
        self.label_HW = np.zeros(size, dtype=np.uint8)
        self._rng = rng

    def fill(
        self,
        corners_N2: NDArray[np.float64],
        colour: Colour,
        class_id: int,
        *,
        grain: float = 4.0,
        shade: float = 0.0,
        patches: float = 0.0,
    ) -> None:
        """Paint a polygon of (x, y) corners in pixels; it may lie outside in part or in whole.

        `grain` is the strength of the noise per pixel, `patches` of smooth blotches, both in units
        of 0..255; `shade` is how much darker the lower edge is than the upper, as a share.
        """
        height, width = self.label_HW.shape
        low, high = np.floor(corners_N2.min(0)), np.ceil(corners_N2.max(0)) + 1
        x0, y0 = (int(value) for value in np.clip(low, 0, (width, height)))
        x1, y1 = (int(value) for value in np.clip(high, 0, (width, height)))
        if x0 >= x1 or y0 >= y1:
            return
        cover_hw = _coverage(corners_N2 - (x0, y0), (y1 - y0, x1 - x0))
        paint_hw3 = colour + self._rng.normal(0, grain, (y1 - y0, x1 - x0, 1)).astype(np.float32)
        if patches:
            paint_hw3 += patches * self._blotches(y1 - y0, x1 - x0)[..., None]
        if shade:
            # Over the whole polygon, also where only a part of it lies in the image.
            top, bottom = corners_N2[:, 1].min(), corners_N2[:, 1].max()
            depth_h = (np.arange(y0, y1, dtype=np.float32) - top) / max(bottom - top, 1)
            paint_hw3 *= 1 - shade * depth_h[:, None, None]
        under_hw3 = self.image_HW3[y0:y1, x0:x1]
        under_hw3 += cover_hw[..., None] * (paint_hw3 - under_hw3)
        self.label_HW[y0:y1, x0:x1][cover_hw >= 0.5] = class_id

    def _blotches(self, height: int, width: int) -> NDArray[np.float32]:
        """(height, width) smooth noise with standard deviation 1 and blotches of a few pixels."""
        coarse = self._rng.normal(0, 1.5, (height // 5 + 2, width // 5 + 2)).astype(np.float32)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(smooth, dtype=np.float32)


def _coverage(corners_N2: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float32]:
    """(h, w) share of each pixel that a polygon covers."""
    height, width = size
    mask = Image.new("L", (width * _FINE, height * _FINE))
    # Pillow's coordinates are of pixel centres, and it paints every pixel that an edge touches.
    fine_N2 = corners_N2 * _FINE - 0.5
    ImageDraw.Draw(mask).polygon([(x, y) for x, y in fine_N2], fill=255)
    return np.asarray(mask.reduce(_FINE), dtype=np.float32) / np.float32(255)
