"""-log p of each pixel's class, without the full-size scores of the batch.

Compared with other ways to the same gradients it takes the least memory and time, though its
backward pass interpolates and exponentiates again (`python -m benchmarks.pixel_losses`): a strip
stays in the processor's cache, a map of the whole image is read from memory by every operation.

Legend: B batch, C classes, h w feature grid, H W pixels, P pixels of a strip.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zsseg.stages.data.spec import VOID
from zsseg.stages.train.losses.strips import Strip, grid_gradient, scores_of, strips


def negative_log_likelihood(logits_BChw: Tensor, label_BHW: Tensor) -> Tensor:
    """(B, H, W) -log p_t, p_t the softmax probability of a pixel's class; 0 where VOID.

    The one pass over all classes that cross-entropy and focal loss share. Scores are interpolated
    to pixels (bilinear; H and W are whole multiples of h and w), in float32 or in float64 if they
    are. `label_BHW` int64 holds class ids, VOID where there is none. A class may be left out of the
    softmax by a low score (`latent.LEFT_OUT`), and where h w are the pixels by -inf, as long as no
    pixel carries its id.
    """
    nll_BHW: Tensor = _Likelihood.apply(logits_BChw, label_BHW)
    return nll_BHW


class _Likelihood(torch.autograd.Function):
    """Softmax by hand: torch's own is several times slower where a pixel has few classes."""

    @staticmethod
    def forward(ctx: Any, logits_BChw: Tensor, label_BHW: Tensor) -> Tensor:
        exact = torch.promote_types(logits_BChw.dtype, torch.float32)
        # Made first: small tensors kept between the strips would break the heap into pieces.
        nll_BHW = logits_BChw.new_empty(label_BHW.shape, dtype=exact)
        highest_BHW, whole_BHW = torch.empty_like(nll_BHW), torch.empty_like(nll_BHW)
        for strip in strips(logits_BChw, label_BHW):
            here = strip.image, strip.rows
            label_HW = label_BHW[here]
            class_P1 = torch.where(label_HW == VOID, 0, label_HW).flatten()[:, None]
            score_PC = scores_of(logits_BChw, strip)
            highest_P1 = score_PC.amax(1, keepdim=True)
            score_PC = score_PC - highest_P1
            score_HW = score_PC.gather(1, class_P1).view(label_HW.shape)
            highest_BHW[here] = highest_P1.view(label_HW.shape)
            whole_BHW[here] = score_PC.exp_().sum(1).view(label_HW.shape)
            nll_BHW[here] = torch.where(label_HW == VOID, 0.0, whole_BHW[here].log() - score_HW)
        ctx.save_for_backward(logits_BChw, label_BHW, highest_BHW, whole_BHW)
        return nll_BHW

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BHW: Tensor) -> tuple[Tensor, None]:
        logits_BChw, label_BHW, *sums = ctx.saved_tensors
        weight_BHW = torch.where(label_BHW == VOID, 0.0, gradient_BHW)
        class_BHW = torch.where(label_BHW == VOID, 0, label_BHW)

        def gradient_of(score_PC: Tensor, strip: Strip) -> Tensor:
            class_P1, weight_P1, highest_P1, whole_P1 = (
                map_BHW[strip.image, strip.rows].flatten()[:, None]
                for map_BHW in (class_BHW, weight_BHW, *sums)
            )
            # weight x (softmax - 1 at the pixel's class); the softmax is exp(...) / whole.
            gradient_PC: Tensor = (score_PC - highest_P1).exp_().mul_(weight_P1 / whole_P1)
            return gradient_PC.scatter_add_(1, class_P1, -weight_P1)

        return grid_gradient(logits_BChw, label_BHW, gradient_of), None
