"""NEL, ZegCLIP's loss over independent sigmoids, without the full-size scores of the batch.

Legend: B batch, C classes, h w feature grid, H W pixels, P pixels of a strip.
"""

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from zsseg.stages.data.spec import VOID
from zsseg.stages.train.losses.strips import Strip, grid_gradient, scores_of, strips

_POSITIVE, _NEGATIVE = 0.25, 0.75
"""alpha of a pixel that shows the class, and of one that does not."""


def nel(
    logits_BChw: Tensor,
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

    Scores are interpolated to pixels (bilinear; H and W are whole multiples of h and w), in float32
    or in float64 if they are.
    """
    classes = logits_BChw.shape[1]
    labelled_BHW = label_BHW != VOID
    place_BL = torch.where(labelled_BHW, label_BHW, classes).flatten(1)
    count_BC = place_BL.new_zeros(len(place_BL), classes + 1)
    count_BC = count_BC.scatter_add_(1, place_BL, torch.ones_like(place_BL))[:, :-1]
    present_BC = count_BC > 0
    masks = present_BC.sum().clamp_min(1)
    weight_BHW = torch.ones_like(labelled_BHW) if void == "negative" else labelled_BHW

    focal_B, both_BC, p_BC = _PixelSums.apply(logits_BChw, label_BHW, weight_BHW)
    focal_B = focal_B / weight_BHW.flatten(1).sum(1).clamp_min(1)
    dice_BC = 1 - (2 * both_BC + 1) / (p_BC + count_BC + 1)
    dice = torch.where(present_BC, dice_BC, 0.0).sum()
    loss: Tensor = (focal_weight * focal_B.sum() + dice_weight * dice) / masks
    return loss


class _PixelSums(torch.autograd.Function):
    """The sums over the pixels of each image that NEL is made of.

    Focal terms (B,), p over the pixels that show the class (B, C), p over all pixels (B, C).
    """

    @staticmethod
    def forward(
        ctx: Any, logits_BChw: Tensor, label_BHW: Tensor, weight_BHW: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(logits_BChw, label_BHW, weight_BHW)
        batch, classes = logits_BChw.shape[:2]
        exact = torch.promote_types(logits_BChw.dtype, torch.float32)
        focal_B = logits_BChw.new_zeros(batch, dtype=exact)
        both_BC = logits_BChw.new_zeros(batch, classes, dtype=exact)
        p_BC = torch.zeros_like(both_BC)
        for strip in strips(logits_BChw, label_BHW):
            score_PC = scores_of(logits_BChw, strip)
            shown = _shown(score_PC, label_BHW, strip)
            weight_P1 = weight_BHW[strip.image, strip.rows].flatten()[:, None]
            p_PC = score_PC.sigmoid()
            term_PC = _minus_log_q(score_PC).mul_(p_PC).mul_(p_PC).mul_(_NEGATIVE)
            p_P1 = p_PC.gather(1, shown.class_P1)
            q_P1 = (-shown.score_P1).sigmoid()
            term_P1 = _POSITIVE * q_P1.square() * _minus_log_q(-shown.score_P1)
            term_PC = shown.put(term_PC, term_P1)
            focal_B[strip.image] += (term_PC.sum(1, keepdim=True) * weight_P1).sum()
            both_BC[strip.image].scatter_add_(
                0, shown.class_P1[:, 0], (p_P1 * shown.labelled_P1)[:, 0]
            )
            p_BC[strip.image] += (p_PC * weight_P1).sum(0)
        return focal_B, both_BC, p_BC

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, focal_B: Tensor, both_BC: Tensor, p_BC: Tensor
    ) -> tuple[Tensor, None, None]:
        """The arguments are the gradients of the sums."""
        logits_BChw, label_BHW, weight_BHW = ctx.saved_tensors

        def gradient_of(score_PC: Tensor, strip: Strip) -> Tensor:
            shown = _shown(score_PC, label_BHW, strip)
            image = strip.image
            p_PC = score_PC.sigmoid()
            q_PC = 1 - p_PC
            # d/ds of a term of a negative: alpha p^2 (2 q (-log q) + p).
            slope_PC = _minus_log_q(score_PC).mul_(q_PC).mul_(2).add_(p_PC)
            slope_PC.mul_(p_PC).mul_(p_PC).mul_(_NEGATIVE * focal_B[image])
            # Of a positive: -alpha q^2 (2 p (-log p) + q).
            p_P1, q_P1 = shown.score_P1.sigmoid(), (-shown.score_P1).sigmoid()
            slope_P1 = -q_P1.square() * (2 * p_P1 * _minus_log_q(-shown.score_P1) + q_P1)
            slope_P1 = slope_P1 * _POSITIVE * focal_B[image]
            # Of p: p q.
            of_p_C = p_BC[image]
            of_p_P1 = (of_p_C + both_BC[image])[shown.class_P1]
            slope_P1 = slope_P1 + of_p_P1 * p_P1 * q_P1
            slope_PC.add_(p_PC.mul_(q_PC).mul_(of_p_C))
            slope_PC = shown.put(slope_PC, slope_P1)
            return slope_PC.mul_(weight_BHW[image, strip.rows].flatten()[:, None])

        return grid_gradient(logits_BChw, label_BHW, gradient_of), None, None


def _minus_log_q(score: Tensor) -> Tensor:
    """-log(1 - sigmoid(s)) = log(1 + e^s); beyond 40, s to the last digit of float64."""
    return F.softplus(score, threshold=40.0)


class _Shown(NamedTuple):
    """The class that each pixel of a strip shows."""

    class_P1: Tensor
    """Class 0 where there is no label."""
    labelled_P1: Tensor
    score_P1: Tensor

    def put(self, values_PC: Tensor, shown_P1: Tensor) -> Tensor:
        """Another value at the class that a labelled pixel shows; in place."""
        kept_P1 = values_PC.gather(1, self.class_P1)
        return values_PC.scatter_(
            1, self.class_P1, torch.where(self.labelled_P1, shown_P1, kept_P1)
        )


def _shown(score_PC: Tensor, label_BHW: Tensor, strip: Strip) -> _Shown:
    label_P1 = label_BHW[strip.image, strip.rows].flatten()[:, None]
    labelled_P1 = label_P1 != VOID
    class_P1 = torch.where(labelled_P1, label_P1, 0)
    return _Shown(class_P1, labelled_P1, score_PC.gather(1, class_P1))
