"""Local tokens where crops cannot be had: each mask's token is pooled from the map of its image.

A teacher of stored maps (`Teacher.by_id`) never sees the crop of a mask, since masks are found
after its maps were written. The token of a mask is the mean of the unit dense tokens at its pixels.
Legend: N images, K masks of an image, M masks found, H W pixels, h w token grid, D width.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.cache.format.codec import half
from zsseg.stages.precompute.make.class_crops import Masks, class_masks
from zsseg.stages.precompute.make.pictures import Picture, PictureOnDisk
from zsseg.stages.precompute.precompute_config import DenseConfig
from zsseg.stages.precompute.threads import in_threads, slices

if TYPE_CHECKING:
    from zsseg.stages.precompute.teacher.teacher_protocol import Teacher

POOLED = "dense tokens in the mask"
"""What a recipe says that these tokens are made of."""


def pooled_arrays(
    teacher: "Teacher",
    pictures: Sequence[Picture | PictureOnDisk],
    region_Nhw: NDArray[np.uint8],
    *,
    max_masks: int,
    batch: int,
) -> tuple[dict[str, NDArray[Any]], list[int]]:
    """One token per mask of each picture and the mask ids (-1: none), as `local_arrays` has them;
    and how many masks of each picture had no room.
    """
    local_NKD = np.zeros((len(pictures), max_masks, teacher.width), np.float16)
    id_NK = np.full((len(pictures), max_masks), -1, np.int16)
    left_out: list[int] = []

    def found(i: int) -> Masks:
        with pictures[i].opened_label() as visible_HW:
            return class_masks(visible_HW, region_Nhw[i], max_masks=max_masks)

    for part in slices(len(pictures), batch):
        # Settings of passes mean nothing to maps that are there.
        dense_nDhw = teacher.dense([each.id for each in pictures[part]], DenseConfig())
        images = range(part.start, part.stop)
        for i, masks, dense_Dhw in zip(images, in_threads(found, images), dense_nDhw, strict=True):
            local_NKD[i, : len(masks.ids)] = half(pooled(dense_Dhw, masks))
            id_NK[i, : len(masks.ids)] = masks.ids
            left_out.append(masks.left_out)
    return {"local": local_NKD, "local_ids": id_NK}, left_out


def pooled(dense_Dhw: NDArray[np.float32], masks: Masks) -> NDArray[np.float32]:
    """(M, D) of each mask the mean of the unit tokens at its pixels, each that of its cell."""
    width, rows, columns = dense_Dhw.shape
    token_DT = dense_Dhw.reshape(width, -1)
    token_DT = token_DT / np.maximum(np.linalg.norm(token_DT, axis=0), 1e-12)
    height, across = masks.code_HW.shape
    row_H = (np.arange(height) * rows + rows // 2) // height
    column_W = (np.arange(across) * columns + columns // 2) // across
    cell_HW = np.minimum(row_H, rows - 1)[:, None] * columns + np.minimum(column_W, columns - 1)
    pooled_MD = np.empty((len(masks.codes), width), np.float32)
    for place, code in enumerate(masks.codes):
        count_T = np.bincount(cell_HW[masks.code_HW == code], minlength=rows * columns)
        pooled_MD[place] = token_DT @ count_T / count_T.sum()
    return pooled_MD
