"""The pseudo mask of a crop: visible classes and latent regions, and the student's mean over each.

Y_p of paper 2 (section 3.1): every visible class and every latent region that the store has a local
token of is a mask. "paper 2" is CLIP-to-Seg.

Legend: B batch, D CLIP width, K masks that the store keeps per image, H W pixels, h w feature
grid, L = h * w positions.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from zsseg.stages.data.spec import FIRST_REGION, VOID

_NONE = -2
"""Code of a pixel in no mask; not -1, the id of a slot without a mask."""


@dataclass(frozen=True)
class CropMasks:
    """The masks of each image as a student's crop shows them; slots as in the store."""

    id_BK: Tensor
    """int64: class id, FIRST_REGION + r of latent region r, -1: no mask."""
    prototype_BKD: Tensor
    """float32: mean feature over the mask (F_l of paper 2, Eq. 3); 0 where it is not visible."""
    visible_BK: Tensor
    """bool: covers at least one position of the feature grid."""

    @property
    def latent_BK(self) -> Tensor:
        """bool: a latent region that is visible."""
        return self.visible_BK & (self.id_BK >= FIRST_REGION)


def mask_codes(label_BHW: Tensor, region_BHW: Tensor) -> Tensor:
    """(B, H, W) int64 mask ids: the class where there is a label, else the latent region."""
    label_BHW, region_BHW = label_BHW.long(), region_BHW.long()
    region_BHW = torch.where(region_BHW > 0, region_BHW + FIRST_REGION, _NONE)
    return torch.where(label_BHW == VOID, region_BHW, label_BHW)


def masks_of(feature_BDhw: Tensor, code_Bhw: Tensor, id_BK: Tensor) -> CropMasks:
    """The masks of a batch with the mean of the feature over each (paper 2, Eq. 3)."""
    feature_BDL = feature_BDhw.flatten(2)
    member_BKL = code_Bhw.flatten(1)[:, None] == id_BK[:, :, None]
    area_BK = member_BKL.sum(2)
    # Shares of 1 / L are lost in half precision: enlarged before the product, reduced after it.
    enlarged = math.sqrt(feature_BDL.shape[2])
    share_BKL = member_BKL * (enlarged / area_BK.clamp_min(1))[:, :, None]
    prototype_BKD = torch.bmm(share_BKL.to(feature_BDL.dtype), feature_BDL.transpose(1, 2))
    return CropMasks(id_BK, prototype_BKD.float() / enlarged, area_BK > 0)
