"""Dense tokens of several passes over an image, brought to one grid and added up.

Legend: B batch, H W pixels of a pass, h w token grid, D CLIP width.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from zsseg.stages.precompute.teacher.dense_passes import DensePass

Encode = Callable[[Tensor], Tensor]
"""Tokens (B, D, h, w) of pixels (B, 3, H, W)."""


def pass_tokens(
    encode: Encode, pixel_B3HW: Tensor, seen: DensePass, grid: tuple[int, int], *, flip: bool
) -> Tensor:
    """(B, D, h, w) float32 tokens of one pass on `grid`, each made 1 long before.

    With `flip` their mean with the mirrored tokens of the mirrored image: g(x) = (f(x) + M f(M x))
    / 2 with M for mirroring, so that g(M x) = M g(x) whatever the teacher f is.
    """
    token_BDhw = _unit_tokens(encode, pixel_B3HW, seen)
    if flip:
        mirrored_BDhw = _unit_tokens(encode, pixel_B3HW.flip(3), seen).flip(3)
        token_BDhw = (token_BDhw + mirrored_BDhw) / 2
    return to_grid(token_BDhw, grid)


def to_grid(token_BDhw: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens on another grid of the same image: bilinear between the centres of cells.

    To a coarser grid each token is the weighted mean of all cells around (antialiased), as a
    smaller image would be; otherwise most cells would be left out.
    """
    if tuple(token_BDhw.shape[2:]) == grid:
        return token_BDhw
    return F.interpolate(
        token_BDhw, size=grid, mode="bilinear", antialias=True, align_corners=False
    )


def _unit_tokens(encode: Encode, pixel_B3HW: Tensor, seen: DensePass) -> Tensor:
    """(B, D, h, w) tokens of length 1; where windows overlap, the mean of theirs."""
    if seen.windows == 1:
        return F.normalize(encode(pixel_B3HW).float(), dim=1)
    (down, right), (height, width) = seen.strides, seen.window
    count_hw = torch.zeros(seen.grid, device=pixel_B3HW.device)
    sum_BDhw: Tensor | None = None
    for top in seen.rows:
        for left in seen.columns:
            window_B3HW = pixel_B3HW[:, :, top : top + height, left : left + width]
            token_BDhw = F.normalize(encode(window_B3HW).float(), dim=1)
            if sum_BDhw is None:
                sum_BDhw = token_BDhw.new_zeros(*token_BDhw.shape[:2], *seen.grid)
            rows = slice(top // down, (top + height) // down)
            columns = slice(left // right, (left + width) // right)
            sum_BDhw[:, :, rows, columns] += token_BDhw
            count_hw[rows, columns] += 1
    assert sum_BDhw is not None
    return sum_BDhw / count_hw
