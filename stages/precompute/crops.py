"""Class crops: what the local tokens of paper 2 (section 3.1) are made from.

One crop per mask of an image, a mask being a visible class or a latent region: the mask's bounding
box with a margin, everything outside the mask filled with CLIP's mean colour (paper 2 says neither
box nor fill; both follow zsseg, Xu et al. 2022).
Legend: H W pixels, h w token grid.
"""

import numpy as np
from numpy.typing import NDArray

from stages.data.geometry import WHOLE, crop_map
from stages.data.spec import VOID

FIRST_REGION = 1000
"""Mask id of latent region r is this plus r; of a visible class, its class id."""


def class_crops(
    image_HW3: NDArray[np.uint8],
    visible_HW: NDArray[np.uint8],
    region_hw: NDArray[np.uint8],
    *,
    margin: float,
    max_masks: int,
    fill: tuple[int, int, int],
) -> tuple[list[NDArray[np.uint8]], list[int], int]:
    """The crops of an image's masks, their mask ids (ascending), and how many masks were left out.

    A region's mask is the region of the token grid enlarged to pixels, less all pixels that carry
    a visible label. Of more than `max_masks` masks the largest are kept (equal areas: smaller id
    first). `margin` is the share of the box's sides added on each side, rounded to whole pixels
    and clipped at the image.
    """
    assert image_HW3.shape[:2] == visible_HW.shape
    pixel_region_HW = crop_map(region_hw, WHOLE, visible_HW.shape, fill=0).astype(np.int16)
    unlabelled_HW = np.where(pixel_region_HW > 0, FIRST_REGION + pixel_region_HW, -1)
    mask_HW = np.where(visible_HW != VOID, visible_HW, unlabelled_HW).astype(np.int16)

    found, areas = np.unique(mask_HW[mask_HW >= 0], return_counts=True)
    largest_first = np.lexsort((found, -areas))
    kept = sorted(int(mask) for mask in found[largest_first[:max_masks]])
    crops = [_masked_box(image_HW3, mask_HW == mask, margin, fill) for mask in kept]
    return crops, kept, len(found) - len(kept)


def _masked_box(
    image_HW3: NDArray[np.uint8],
    inside_HW: NDArray[np.bool_],
    margin: float,
    fill: tuple[int, int, int],
) -> NDArray[np.uint8]:
    sides = []
    for axis in (1, 0):
        occupied = np.flatnonzero(inside_HW.any(axis=axis))
        first, last = int(occupied[0]), int(occupied[-1])
        extra = int(margin * (last + 1 - first) + 0.5)
        sides.append(slice(max(first - extra, 0), last + 1 + extra))
    rows, columns = sides
    crop_HW3 = image_HW3[rows, columns].copy()
    crop_HW3[~inside_HW[rows, columns]] = fill
    return crop_HW3
