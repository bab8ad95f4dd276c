"""Upsamples scores to pixels a strip of rows at a time, so that those of a batch never all exist.

16 images of 171 classes at 512 x 512 are 2.9 GB of scores, and as much again for every map that a
loss keeps for its backward pass. A loss over strips keeps the scores on the feature grid, and
interpolates and computes them again in its backward pass.

Legend: B batch, C classes, h w feature grid, H W pixels, P pixels of a strip.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CPU_VALUES = 2**21
"""Scores in a strip: 8 MiB of float32, so that a strip and its gradient stay in the cache."""

GPU_VALUES = 2**25
"""128 MiB: enough that starting kernels costs little beside running them. [not measured]"""


@dataclass(frozen=True)
class Strip:
    """Whole rows of one image's grid: their pixels, and the cells that these are made from."""

    image: int
    rows: slice
    """Of the pixels."""
    cells: slice
    """Rows of the grid: the strip's own and a neighbour on each side, for interpolation."""
    inner: slice
    """The strip's rows among the pixels that its cells cover."""
    size: tuple[int, int]
    """Rows and columns of pixels that its cells cover."""


def strips(logits_BChw: Tensor, label_BHW: Tensor) -> Iterator[Strip]:
    """The strips of all images, top down: every pixel is in one, and every strip has pixels.

    H and W are whole multiples of h and w.
    """
    batch, classes, height, width = logits_BChw.shape
    rows, columns = label_BHW.shape[1:]
    assert rows % height == 0
    assert columns % width == 0
    factor = rows // height
    values = CPU_VALUES if logits_BChw.device.type == "cpu" else GPU_VALUES
    step = max(1, values // (classes * factor * columns))
    for image in range(batch):
        for first in range(0, height, step):
            last = min(first + step, height)
            top, bottom = max(first - 1, 0), min(last + 1, height)
            yield Strip(
                image=image,
                rows=slice(first * factor, last * factor),
                cells=slice(top, bottom),
                inner=slice((first - top) * factor, (last - top) * factor),
                size=((bottom - top) * factor, columns),
            )


def scores_of(logits_BChw: Tensor, strip: Strip) -> Tensor:
    """(P, C) scores of the strip's pixels, row by row, in float32 (float64 if the grid's are)."""
    return _upsampled(_cells_of(logits_BChw, strip), strip)


def grid_gradient(
    logits_BChw: Tensor, label_BHW: Tensor, gradient_of: Callable[[Tensor, Strip], Tensor]
) -> Tensor:
    """(B, C, h, w) gradient of the grid's scores.

    `gradient_of` maps a strip's scores (P, C) to their gradient, and may write over them.
    """
    gradient_BChw = torch.zeros_like(
        logits_BChw, dtype=_exact(logits_BChw), memory_format=torch.channels_last
    )
    for strip in strips(logits_BChw, label_BHW):
        with torch.enable_grad():
            cells_1Chw = _cells_of(logits_BChw, strip).detach().requires_grad_()
            score_PC = _upsampled(cells_1Chw, strip)
        gradient_PC = gradient_of(score_PC.detach(), strip)
        (part_1Chw,) = torch.autograd.grad(score_PC, cells_1Chw, gradient_PC)
        gradient_BChw[strip.image, :, strip.cells] += part_1Chw[0]
    return gradient_BChw.to(logits_BChw.dtype)


def _exact(logits_BChw: Tensor) -> torch.dtype:
    return torch.promote_types(logits_BChw.dtype, torch.float32)


def _cells_of(logits_BChw: Tensor, strip: Strip) -> Tensor:
    """(1, C, h, w) the strip's part of the grid."""
    cells_1Chw = logits_BChw[strip.image, None, :, strip.cells]
    return cells_1Chw.to(_exact(logits_BChw)).contiguous(memory_format=torch.channels_last)


def _upsampled(cells_1Chw: Tensor, strip: Strip) -> Tensor:
    """(P, C) bilinear.

    A pixel's classes stand side by side, as interpolation and softmax over the classes like them.
    """
    # On a grid of pixels nothing is interpolated, and a score of -inf stays one.
    if cells_1Chw.shape[2:] != strip.size:
        cells_1Chw = F.interpolate(cells_1Chw, size=strip.size, mode="bilinear")
    # Rows are cut off with the classes last: the gradient of a cut has its dimensions in order.
    score_1HWC = cells_1Chw.permute(0, 2, 3, 1)[:, strip.inner]
    return score_1HWC.reshape(-1, score_1HWC.shape[3])
