"""Class crops: what the local tokens of paper 2 (section 3.1) are made from.

One crop per mask of an image, a mask being a visible class or a latent region: the mask's bounding
box with a margin, everything outside the mask filled with CLIP's mean colour (paper 2 says neither
box nor fill; both follow zsseg, Xu et al. 2022).
Legend: H W pixels, h w token grid, M masks by code, R runs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from zsseg.stages.cache.format.recipe import fingerprint
from zsseg.stages.data.geometry import WHOLE, crop_map
from zsseg.stages.data.spec import FIRST_REGION, VOID


@dataclass(frozen=True)
class Crop:
    """A mask's bounding box: the image there, and which pixels are not the mask's."""

    box_HW3: NDArray[np.uint8]
    outside_HW: NDArray[np.bool_]

    def masked(self, fill: tuple[int, int, int]) -> NDArray[np.uint8]:
        """(H, W, 3) the box with everything outside the mask of one colour."""
        crop_HW3 = self.box_HW3.copy()
        for channel, value in enumerate(fill):  # ten times as fast as all three at once
            crop_HW3[..., channel][self.outside_HW] = value
        return crop_HW3

    def digest(self, salt: str) -> str:
        """Hash of the mask, its pixels and `salt`; it does not depend on the fill colour."""
        height, width = self.outside_HW.shape
        seen = xxhash.xxh3_128(f"{salt} {height} {width} ".encode())
        seen.update(np.packbits(self.outside_HW).data)
        seen.update(self.masked((0, 0, 0)).data)
        return seen.hexdigest()


@dataclass(frozen=True)
class Measures:
    """Areas in pixels and bounding boxes (the ends are exclusive) of all masks."""

    area_M: NDArray[np.int64]
    top_M: NDArray[np.int64]
    bottom_M: NDArray[np.int64]
    left_M: NDArray[np.int64]
    right_M: NDArray[np.int64]


@dataclass(frozen=True)
class Masks:
    """The masks of an image that are kept."""

    code_HW: NDArray[np.int16]
    """By pixel its mask: a class its id, VOID in none, region r VOID + r."""
    measures: Measures
    codes: list[int]
    """Of the kept masks, ascending."""
    ids: list[int]
    """Their mask ids."""
    left_out: int
    """How many masks had no room."""


def class_crops(
    image_HW3: NDArray[np.uint8],
    visible_HW: NDArray[np.uint8],
    region_hw: NDArray[np.uint8],
    *,
    margin: float,
    max_masks: int,
) -> tuple[Iterator[Crop], list[int], int]:
    """The crops of an image's masks, their mask ids (ascending), and how many masks were left out.

    A region's mask is the region of the token grid enlarged to pixels, less all pixels that carry
    a visible label. Of more than `max_masks` masks the largest are kept (equal areas: smaller id
    first). `margin` is the share of the box's sides added on each side, rounded to whole pixels
    and clipped at the image. The iterator cuts one crop at a time: all together can take many times
    the image's memory.
    """
    assert image_HW3.shape[:2] == visible_HW.shape
    masks = class_masks(visible_HW, region_hw, max_masks=max_masks)
    crops = (_cut(image_HW3, masks, code, margin) for code in masks.codes)
    return crops, masks.ids, masks.left_out


def class_masks(
    visible_HW: NDArray[np.uint8], region_hw: NDArray[np.uint8], *, max_masks: int
) -> Masks:
    """The masks of an image that are kept, as `class_crops` describes them."""
    pixel_region_HW = crop_map(region_hw, WHOLE, visible_HW.shape, fill=0)
    # Codes: a class its id, VOID in no mask, region r VOID + r.
    unlabelled_HW = visible_HW == VOID
    code_HW = visible_HW.astype(np.int16)
    code_HW[unlabelled_HW] += pixel_region_HW[unlabelled_HW]
    measures = _measure(code_HW)
    found = np.flatnonzero(measures.area_M)
    found = found[found != VOID]
    largest_first = np.lexsort((found, -measures.area_M[found]))
    kept = sorted(int(code) for code in found[largest_first[:max_masks]])
    ids = [code if code < VOID else FIRST_REGION + code - VOID for code in kept]
    return Masks(code_HW, measures, kept, ids, len(found) - len(kept))


def crop_salt(recipe: Mapping[str, Any]) -> str:
    """All that decides a crop's token besides its pixels, from the recipe of `local`."""
    # `resize` where it is there alone: tokens of stores made before it existed are found by this.
    given = {key: recipe[key] for key in ("resize",) if key in recipe}
    known = {key: recipe.get(key) for key in ("teacher", "size", "precision")}
    return fingerprint(known | given)


def _measure(code_HW: NDArray[np.int16]) -> Measures:
    """Measures all masks together, from the runs of equal codes along the rows, which are few."""
    height, width = code_HW.shape
    starts_HW = np.ones((height, width), dtype=np.bool_)
    starts_HW[:, 1:] = code_HW[:, 1:] != code_HW[:, :-1]
    start_R = np.flatnonzero(starts_HW)
    length_R = np.diff(start_R, append=height * width)
    code_R = code_HW.ravel()[start_R]
    row_R, column_R = np.divmod(start_R, width)
    codes = 2 * VOID + 1
    area_M = np.zeros(codes, dtype=np.int64)
    top_M, left_M = np.full(codes, height), np.full(codes, width)
    bottom_M, right_M = np.zeros(codes, dtype=np.int64), np.zeros(codes, dtype=np.int64)
    np.add.at(area_M, code_R, length_R)
    np.minimum.at(top_M, code_R, row_R)
    np.maximum.at(bottom_M, code_R, row_R + 1)
    np.minimum.at(left_M, code_R, column_R)
    np.maximum.at(right_M, code_R, column_R + length_R)
    return Measures(area_M, top_M, bottom_M, left_M, right_M)


def _cut(image_HW3: NDArray[np.uint8], masks: Masks, code: int, margin: float) -> Crop:
    found = masks.measures
    rows = _widened(found.top_M[code], found.bottom_M[code], margin)
    columns = _widened(found.left_M[code], found.right_M[code], margin)
    return Crop(image_HW3[rows, columns], masks.code_HW[rows, columns] != code)


def _widened(first: np.int64, end: np.int64, margin: float) -> slice:
    extra = int(margin * int(end - first) + 0.5)
    return slice(max(int(first) - extra, 0), int(end) + extra)
