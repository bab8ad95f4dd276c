"""Pseudo labels of unseen classes for pixels without a visible label (paper 1, section III-B).

Everything is computed on the device of the logits and at their resolution: by sorting, without
loops over images and regions, and without copying a number back to the host.

Legend: B batch, C classes, U unseen classes, h w feature grid, L = h * w positions.
"paper 1" is SDD + RST.
"""

from typing import Literal

import torch
from torch import Tensor

from zsseg.stages.cache.format.name_scores import MIDDLE, PER_UNIT
from zsseg.stages.data.spec import VOID
from zsseg.stages.train.method_config import Confidence


def top_share(score_BL: Tensor, group_BL: Tensor, *, share: float) -> Tensor:
    """(B, L) bool: True for the ceil(share * size) highest scores of each group of each image.

    `group_BL` int64 numbers the groups of an image from 1; 0 is in no group and never True. Among
    equal scores the first position wins. 0 < share <= 1.
    """
    # Positions by group, and within a group by falling score: two stable sorts.
    order_BL = score_BL.argsort(dim=1, descending=True, stable=True)
    by_group_BL = group_BL.gather(1, order_BL).argsort(dim=1, stable=True)
    order_BL = order_BL.gather(1, by_group_BL)
    group_BL = group_BL.gather(1, order_BL)
    start_BL = torch.searchsorted(group_BL, group_BL)
    size_BL = torch.searchsorted(group_BL, group_BL, right=True) - start_BL
    rank_BL = torch.arange(group_BL.shape[1], device=group_BL.device) - start_BL
    # 0.07 * 100 is a little more than 7 in floating point, and must not become 8.
    quota_BL = torch.ceil(size_BL.double() * share - 1e-6)
    keep_BL = (rank_BL < quota_BL) & (group_BL > 0)
    return torch.zeros_like(keep_BL).scatter(1, order_BL, keep_BL)


@torch.no_grad()
def pseudo_labels(
    logits_BChw: Tensor,
    *,
    unlabelled_Bhw: Tensor,
    region_Bhw: Tensor,
    unseen_ids: Tensor,
    share: float,
    method: Literal["st", "rst"],
    confidence: Confidence = "score",
) -> Tensor:
    """(B, h, w) int64 class ids of unseen classes, VOID where no pseudo label is given.

    The label is the argmax over the unseen classes only; the most confident share of each group
    gets its label (paper 1, Algorithm 1, step 2). Confidence is the largest score, as in the paper,
    or its `margin` over the second largest (with one unseen class, the score). `rst`: the
    groups are the latent regions of `region_Bhw` (0 = in none); `st`: one group per image, all of
    `unlabelled_Bhw` (bool: no visible label and inside the image). `unseen_ids` (U,) int64.
    """
    if unseen_ids.numel() == 0:
        return torch.full_like(region_Bhw, VOID, dtype=torch.int64)
    unseen_BUhw = logits_BChw.index_select(1, unseen_ids)
    score_Bhw, choice_Bhw = unseen_BUhw.max(1)
    if confidence == "margin" and unseen_ids.numel() > 1:
        score_Bhw = score_Bhw - unseen_BUhw.topk(2, dim=1).values[:, 1]
    return confident_labels(
        unseen_ids[choice_Bhw],
        score_Bhw,
        unlabelled_Bhw=unlabelled_Bhw,
        region_Bhw=region_Bhw,
        share=share,
        method=method,
    )


def score_of_codes(code: Tensor) -> Tensor:
    """float32 scores of a map of names (`cache.format.name_scores`), of any shape."""
    return torch.sigmoid((code.float() - MIDDLE) / PER_UNIT) * (code > 0)


def confident_labels(
    class_Bhw: Tensor,
    confidence_Bhw: Tensor,
    *,
    unlabelled_Bhw: Tensor,
    region_Bhw: Tensor,
    share: float,
    method: Literal["st", "rst"],
) -> Tensor:
    """(B, h, w) int64: of each group the most confident share of its classes, VOID elsewhere.

    Groups as in `pseudo_labels`; `class_Bhw` int64.
    """
    group_Bhw = region_Bhw.long() if method == "rst" else torch.ones_like(class_Bhw)
    group_Bhw = torch.where(unlabelled_Bhw, group_Bhw, 0)
    keep_BL = top_share(confidence_Bhw.flatten(1), group_Bhw.flatten(1), share=share)
    return torch.where(keep_BL.view_as(class_Bhw), class_Bhw, VOID)
