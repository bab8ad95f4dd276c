"""Losses of stage two: pure functions of named tensors; no configuration, device or log inside.

Every loss is a scalar in float32 with a gradient graph, also when nothing in the batch is valid:
then it is 0 and its gradients are 0.

Legend: B batch, C classes, D CLIP width, h w feature grid, L = h * w positions, H W pixels,
y x cells of the token grid.
"paper 1" is SDD + RST, "paper 2" CLIP-to-Seg.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.data.spec import VOID


def negative_log_likelihood(logits_BCHW: Tensor, label_BHW: Tensor) -> Tensor:
    """(B, H, W) float32 -log p_t, p_t the softmax probability of a pixel's class; 0 where VOID.

    The one pass over all classes that cross-entropy and focal loss share. `label_BHW` int64 holds
    class ids, VOID where there is none. A class may be left out of the softmax by a logit of -inf
    as long as no pixel carries its id.
    """
    return F.cross_entropy(logits_BCHW.float(), label_BHW, ignore_index=VOID, reduction="none")


def cross_entropy(nll_BHW: Tensor, label_BHW: Tensor) -> Tensor:
    """Softmax cross-entropy, mean over the labelled pixels of the batch (paper 1, L_seg).

    `nll_BHW` is the `negative_log_likelihood` of `label_BHW`.
    """
    return nll_BHW.sum() / (label_BHW != VOID).sum().clamp_min(1)


def focal(nll_BHW: Tensor, label_BHW: Tensor, *, gamma: float) -> Tensor:
    """Softmax focal loss, mean over the labelled pixels of the batch (paper 1, L_seg).

    Lin et al., Eq. 4: (1 - p_t)^gamma (-log p_t), with p_t the softmax probability of the pixel's
    class; gamma = 0 is the cross-entropy. Lin et al. use one sigmoid per class; here logits are a
    scaled cosine without a bias and CLIP's texts are all alike (cosines of .6 to .9), so
    independent sigmoids start and stay saturated. Their alpha weighs positives against negatives,
    of which a softmax has none: it would only be a factor. `nll_BHW` is the
    `negative_log_likelihood` of `label_BHW`.
    """
    # Bounded below, or the gradient of a small power of 0 would be infinite at p_t = 1.
    weight_BHW = (-torch.expm1(-nll_BHW)).clamp_min(1e-6) ** gamma
    return (weight_BHW * nll_BHW).sum() / (label_BHW != VOID).sum().clamp_min(1)


def nel(
    logits_BCHW: Tensor,
    label_BHW: Tensor,
    *,
    focal_weight: float,
    dice_weight: float,
    void: Literal["negative", "masked"],
) -> Tensor:
    """NEL, the loss of ZegCLIP over an independent sigmoid per class (paper 2, Eq. 5).

    focal_weight * focal + dice_weight * dice. Focal: alpha_t (1 - p_t)^2 (-log p_t) with alpha 0.25
    for positives and 0.75 for negatives, mean over pixels, sum over classes and images. Dice: sum
    of 1 - (2 sum p t + 1) / (sum p + sum t + 1) over the (image, class) pairs with a pixel. Both
    are divided by the number of those pairs, at least 1. Pixels that are VOID in `label_BHW`
    (int64) are negatives of every class, as in ZegCLIP, also in a batch without any label, or
    `masked`: left out of all sums and of the mean. A class that an image does not have is left out
    by a low score (`latent.LEFT_OUT`): its sigmoid is 0, and so are its terms and gradients.
    """
    logits_BCHW = logits_BCHW.float()
    classes = logits_BCHW.shape[1]
    class_C11 = torch.arange(classes, device=label_BHW.device)[:, None, None]
    target_BCHW = (label_BHW[:, None] == class_C11).to(logits_BCHW.dtype)
    weight_BHW = torch.ones_like(label_BHW) if void == "negative" else label_BHW != VOID
    weight_BCHW = weight_BHW[:, None].to(logits_BCHW.dtype)
    present_BC = target_BCHW.flatten(2).any(2)
    masks = present_BC.sum().clamp_min(1)

    p_BCHW = logits_BCHW.sigmoid()
    entropy_BCHW = F.binary_cross_entropy_with_logits(logits_BCHW, target_BCHW, reduction="none")
    wrong_BCHW = p_BCHW + target_BCHW - 2 * p_BCHW * target_BCHW  # 1 - p_t
    alpha_BCHW = 0.75 - 0.5 * target_BCHW
    focal_BCHW = alpha_BCHW * wrong_BCHW.square() * entropy_BCHW * weight_BCHW
    pixels_B = weight_BHW.flatten(1).sum(1).clamp_min(1)
    focal_B = focal_BCHW.flatten(1).sum(1) / pixels_B

    p_BCL = (p_BCHW * weight_BCHW).flatten(2)
    target_BCL = target_BCHW.flatten(2)
    both_BC = (p_BCL * target_BCL).sum(2)
    dice_BC = 1 - (2 * both_BC + 1) / (p_BCL.sum(2) + target_BCL.sum(2) + 1)
    dice = torch.where(present_BC, dice_BC, 0.0).sum()
    return (focal_weight * focal_B.sum() + dice_weight * dice) / masks


def dense_distillation(feature_BDhw: Tensor, dense_BDyx: Tensor, weight_Byx: Tensor) -> Tensor:
    """1 - cosine of the feature's mean over each cell and CLIP's dense token there. [ours]

    Mean over the cells of the batch, each with its weight (0 to 1; float32). A cell whose token is
    0 counts nothing. The token is compared with the mean of a cell, not with every position: a
    student that resolves more than the teacher may keep what it sees within a cell.
    """
    grid = (dense_BDyx.shape[2], dense_BDyx.shape[3])
    pooled_BDyx = F.adaptive_avg_pool2d(feature_BDhw, grid)
    cosine_Byx = F.cosine_similarity(pooled_BDyx.float(), dense_BDyx, dim=1, eps=1e-6)
    weight_Byx = weight_Byx * (dense_BDyx != 0).any(1)
    return ((1 - cosine_Byx) * weight_Byx).sum() / weight_Byx.sum().clamp_min(1e-6)


def feature_norm(feature_BDL: Tensor) -> Tensor:
    """(B, L) length of every feature vector in float32, at least 1e-6."""
    # Autocast would make a float32 copy of the whole feature first; `dtype` only accumulates so.
    with torch.autocast(feature_BDL.device.type, enabled=False):
        norm_BL: Tensor = torch.linalg.vector_norm(feature_BDL, dim=1, dtype=torch.float32)
    return norm_BL.clamp_min(1e-6)


def attention_pool(
    feature_BDhw: Tensor, query_BD: Tensor, *, inside_Bhw: Tensor | None = None, normalise: bool
) -> tuple[Tensor, Tensor]:
    """Dense features summed by their attention to one query (paper 1, section III-A).

    W = softmax over positions of (C_g . F) / sqrt(D), F_g = sum over positions of W F. With
    `normalise`, F and C_g are brought to unit length first; F by dividing scores and weights by
    its norm, so that no second (B, D, h, w) tensor is made. Positions outside `inside_Bhw` (bool)
    get weight 0; an image without a position inside gets weights and a pooled vector of 0.

    Returns float32 F_g (B, D) and W (B, L).
    """
    feature_BDL = feature_BDhw.flatten(2)
    query_B1D = (F.normalize(query_BD.float(), dim=1) if normalise else query_BD)[:, None]
    # The autocast type of F, if any: autocast casts a float32 query itself, plain code does not.
    score_BL = torch.bmm(query_B1D.to(feature_BDL.dtype), feature_BDL)[:, 0].float()
    score_BL = score_BL / math.sqrt(feature_BDL.shape[1])
    norm_BL = feature_norm(feature_BDL) if normalise else None
    if norm_BL is not None:
        score_BL = score_BL / norm_BL
    if inside_Bhw is None:
        weight_BL = score_BL.softmax(1)
    else:
        inside_BL = inside_Bhw.flatten(1)
        # The lowest finite number instead of -inf: a row that is all outside must not become NaN.
        lowest = torch.finfo(score_BL.dtype).min
        weight_BL = score_BL.masked_fill(~inside_BL, lowest).softmax(1) * inside_BL
    share_BL = weight_BL if norm_BL is None else weight_BL / norm_BL
    # Shares of 1 / L are lost in half precision: enlarged before the product, reduced after it.
    enlarged = math.sqrt(feature_BDL.shape[2])
    share_BL1 = (share_BL * enlarged)[:, :, None].to(feature_BDL.dtype)
    return torch.bmm(feature_BDL, share_BL1)[:, :, 0].float() / enlarged, weight_BL


def sdd(
    feature_BDhw: Tensor,
    token_BD: Tensor,
    text_CD: Tensor,
    *,
    tau_f: float,
    tau_c: float,
    normalise: bool,
    inside_Bhw: Tensor | None = None,
) -> Tensor:
    """Semantic-driven distillation (paper 1, Eq. 1 and 2), mean over the images of the batch.

    D_c = softmax(cos(C_g, A) / tau_c) of CLIP's token, D_f = softmax(cos(F_g, A) / tau_f) of the
    attention-pooled feature, loss KL(D_f || D_c): the student's distribution stands first, the
    reverse of usual distillation. The paper does not say that the logits are cosines; its
    temperatures make sense for nothing else. `text_CD` is L2-normalised. `normalise` and
    `inside_Bhw` as in `attention_pool`; an image without a position inside does not count.
    """
    pooled_BD, _ = attention_pool(
        feature_BDhw, token_BD, inside_Bhw=inside_Bhw, normalise=normalise
    )
    with torch.autocast(feature_BDhw.device.type, enabled=False):
        text_DC = text_CD.float().T
        student_BC = (F.normalize(pooled_BD, dim=1) @ text_DC / tau_f).log_softmax(1)
        teacher_BC = (F.normalize(token_BD.float(), dim=1) @ text_DC / tau_c).log_softmax(1)
    kl_B = (student_BC.exp() * (student_BC - teacher_BC)).sum(1)
    if inside_Bhw is None:
        return kl_B.mean()
    counts_B = inside_Bhw.flatten(1).any(1)
    return torch.where(counts_B, kl_B, 0.0).sum() / counts_B.sum().clamp_min(1)
