"""Maps and scores at another resolution.

Legend: B batch, C classes, H W cells before.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def nearest(map_BHW: Tensor, size: tuple[int, int]) -> Tensor:
    """A map at another resolution: each new cell shows the old one that its centre falls into."""
    row, column = (
        # floor((i + 1/2) * old / new), in whole numbers.
        (2 * torch.arange(new, device=map_BHW.device) + 1) * old // (2 * new)
        for old, new in zip(map_BHW.shape[1:], size, strict=True)
    )
    return map_BHW[:, row[:, None], column]


def bilinear(score_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Scores at another resolution (half-pixel centres); the same tensor where it is theirs."""
    if score_BCHW.shape[2:] == size:
        return score_BCHW
    return F.interpolate(score_BCHW, size=size, mode="bilinear", align_corners=False)
