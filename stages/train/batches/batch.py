"""A batch of stage two: images and visible labels with what the store knows about them.

Legend: B batch, H W pixels of the crop, h w token grid of the image, y x token grid of the crop, K
masks that the store keeps per image, D CLIP width, q r grid of the cells that are named.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Crops of one step. What no configured loss needs is None, and was never read."""

    row_B: Tensor
    """int64: rows of the store."""
    image_B3HW: Tensor
    """float32: normalised by ImageNet's mean and deviation; 0 outside the image."""
    label_BHW: Tensor
    """uint8: visible class ids; VOID where there is none: void, unseen or outside the image."""
    inside_BHW: Tensor
    """bool: inside the image."""
    region_BHW: Tensor | None
    """uint8: latent regions 1..U of each image; 0: labelled or in no region."""
    token_BD: Tensor | None
    """float32: CLIP's token of the whole image, or of what the crop shows (`objectives.token`,
    `augmentation.views`)."""
    local_BKD: Tensor | None = None
    """float32: CLIP's token of each mask of the image."""
    local_id_BK: Tensor | None = None
    """int64: the masks: class id, FIRST_REGION + r of latent region r, -1: none."""
    dense_BDyx: Tensor | None = None
    """float32: unit dense tokens, one per `dense_stride` pixels each way, 0 outside the image."""
    names_B3qr: Tensor | None = None
    """uint8: the best unseen class of every 4 pixels each way by the store's map of names, and the
    codes of its score and of the second best one's; all 0 outside the image."""

    # As the store gives them, of the whole image, until `cut_to_crops`.
    image_region_Bhw: Tensor | None = None
    row_BH: Tensor | None = None
    column_BW: Tensor | None = None
    """int64: row and column of `image_region_Bhw` that a pixel of the crop shows."""
    image_dense_BDhw: Tensor | None = None
    down_Byh: Tensor | None = None
    across_Bxw: Tensor | None = None
    """float32: weights of the image's rows and columns of tokens in those of the crop."""

    def each(self, change: Callable[[Any], Any]) -> Self:
        """The batch with each of its tensors changed."""
        tensors: list[Any] = [getattr(self, field.name) for field in fields(self)]
        changed: list[Any] = [None if each is None else change(each) for each in tensors]
        return type(self)(*changed)

    def between(self, start: int, stop: int) -> Self:
        """The batch of images `start` to `stop` - 1 of this one."""
        return self.each(lambda each: each[start:stop])

    def to(self, device: torch.device) -> Self:
        """The batch on a device."""
        return self.each(lambda each: each.to(device, non_blocking=True))


def cut_to_crops(batch: Batch) -> Batch:
    """The batch with regions and dense tokens of its crops instead of its whole images.

    Done on the student's device: in a loader process it would take longer than reading both, and
    more would have to be sent: for crops of 512 x 512 and maps of 32 x 32 256 times the bytes of
    the regions, and twice those of tokens that are stored as fp16.
    """
    region_BHW, dense_BDyx = batch.region_BHW, batch.dense_BDyx
    if batch.image_region_Bhw is not None:
        assert batch.row_BH is not None
        assert batch.column_BW is not None
        region_Bhw, (_, height, width) = batch.image_region_Bhw, batch.inside_BHW.shape
        column_BhW = batch.column_BW[:, None].expand(-1, region_Bhw.shape[1], -1)
        row_BHW = batch.row_BH[:, :, None].expand(-1, height, width)
        region_BHW = region_Bhw.gather(2, column_BhW).gather(1, row_BHW)
        region_BHW = region_BHW.masked_fill(~batch.inside_BHW, 0)
    if batch.image_dense_BDhw is not None:
        unit_BDhw = F.normalize(batch.image_dense_BDhw.float(), dim=1)
        # Two operands at a time, each a product per image.
        tokens_BDhx = torch.einsum("bdhw,bxw->bdhx", unit_BDhw, batch.across_Bxw)
        dense_BDyx = torch.einsum("byh,bdhx->bdyx", batch.down_Byh, tokens_BDhx)
    return replace(
        batch,
        region_BHW=region_BHW,
        dense_BDyx=dense_BDyx,
        image_region_Bhw=None,
        row_BH=None,
        column_BW=None,
        image_dense_BDhw=None,
        down_Byh=None,
        across_Bxw=None,
    )
