"""Scores refined by the image itself: pixels of like colour get like scores.

PAMR, the pixel-adaptive mask refinement of Araslanov and Roth, "Single-Stage Semantic Segmentation
from Image Labels", CVPR 2020 (section 3.3, Eq. 5-6, with the constants of the authors' code).

Legend: C classes, H W pixels of the grid, P neighbours of a pixel.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

DILATIONS = (1, 2, 4, 8, 12, 24)
"""Distances in pixels of the rings of 8 neighbours, as in the authors' code."""

_SHARPNESS = 0.1
"""Differences are divided by this times the local deviation, as in the authors' code."""

_STEPS = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0))


def pamr(
    score_CHW: Tensor, image_3HW: Tensor, *, iterations: int, dilations: Sequence[int] = DILATIONS
) -> Tensor:
    """(C, H, W) scores after some iterations: each the mean of its neighbours' by `affinities`."""
    affinity_PHW = affinities(image_3HW, dilations)
    for _ in range(iterations):
        neighbours = _neighbours(score_CHW, dilations)
        refined_CHW = torch.zeros_like(score_CHW)
        for affinity_HW, shifted_CHW in zip(affinity_PHW, neighbours, strict=True):
            refined_CHW.addcmul_(shifted_CHW, affinity_HW)
        score_CHW = refined_CHW
    return score_CHW


def affinities(image_3HW: Tensor, dilations: Sequence[int]) -> Tensor:
    """(P, H, W) weights of a pixel's neighbours, by colour; they sum to 1.

    softmax over the P = 8 len(dilations) neighbours of the mean over the channels of
    -|x_i - x_j| / (0.1 sigma_i), with sigma_i the channel's deviation over pixel i (once per
    dilation) and its neighbours. Beyond the border the nearest pixel counts. The range of the
    values of the image does not matter.
    """
    channels = []
    for x_1HW in image_3HW[:, None]:
        around_PHW = torch.cat(list(_neighbours(x_1HW, dilations)))
        own_dHW = x_1HW.expand(len(dilations), -1, -1)
        deviation_HW = torch.cat([around_PHW, own_dHW]).std(0)
        channels.append((around_PHW - x_1HW).abs_().div_(1e-8 + _SHARPNESS * deviation_HW))
    return torch.stack(channels).mean(0).neg_().softmax(0)


def _neighbours(map_CHW: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """The P maps (C, H, W) that hold at each pixel the value of one of its neighbours."""
    height, width = map_CHW.shape[1:]
    for d in dilations:
        padded = F.pad(map_CHW[None], (d, d, d, d), mode="replicate")[0]
        for y, x in _STEPS:
            top, left = d + y * d, d + x * d
            yield padded[:, top : top + height, left : left + width]
