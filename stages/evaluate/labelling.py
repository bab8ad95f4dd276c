"""Labels at full size from scores on a grid; only classes that may win are upsampled.

Plainly, every class is upsampled and the best one taken at each pixel; with 171 classes that costs
as much as a small network. But an upsampled score is a mean of four cells' scores, with weights
from 0 to 1 that are the same for every class. So, between four cells:

- A class that is best at all four is best everywhere: no other class's mean can be above its own.
- A class that is below one other class at all four is nowhere best.

Most squares between cells are of the first kind, and of the classes of the others two or three are
left over. The rest is computed as ever. Rounding cannot turn the order of two scores either, as
products with a weight and sums keep it; it can only make them equal. So the map is that of the
plain way, but for pixels where two classes are equal up to rounding.

Legend: C classes, h w positions of the scores, H W pixels, N squares in which cells disagree,
P pairs of such a square and a class that may win in it, u v pixels of a square.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

CHUNK_VALUES = 2**24
"""Scores that are handled at a time, if no class were left out: 64 MiB of float32."""


class _Axis(NamedTuple):
    """Where the pixels of an axis lie among its cells, one more of which stands on either side.

    Squares are counted from the one before the first cell; that and the last have the same cell on
    both sides.
    """

    square_H: Tensor
    """int64: the square that a pixel lies in."""
    pixel_Su: Tensor
    """int64: the pixels of each square, the last of them repeated where others have more."""
    share_Su: Tensor
    """float32: weight of the square's far side at these pixels."""
    used_S: Tensor
    """bool: has pixels."""


@torch.inference_mode()
def upsampled_argmax(score_Chw: Tensor, size: tuple[int, ...]) -> NDArray[np.uint8]:
    """(H, W) id of the class whose bilinearly upsampled score is highest; ties: the lowest id."""
    _, height, width = score_Chw.shape
    rows, columns = size
    down, right = (
        _axis(cells, pixels, score_Chw.device)
        for cells, pixels in ((height, rows), (width, columns))
    )
    score_hwC = F.pad(score_Chw[None], (1, 1, 1, 1), mode="replicate")[0].permute(1, 2, 0)
    score_hwC = score_hwC.contiguous()
    best_hw = score_hwC.max(2).indices
    near_hw = best_hw[:-1, :-1]
    agree_hw = (near_hw == best_hw[1:, :-1]) & (near_hw == best_hw[:-1, 1:])
    agree_hw &= near_hw == best_hw[1:, 1:]
    label_HW = near_hw.to(torch.uint8)[down.square_H[:, None], right.square_H]

    square_N2 = (~agree_hw & down.used_S[:, None] & right.used_S).nonzero()
    pixels = max(4, down.pixel_Su.shape[1] * right.pixel_Su.shape[1])
    for some_N2 in square_N2.split(max(1, CHUNK_VALUES // (pixels * len(score_Chw)))):
        _label_squares(label_HW, some_N2, score_hwC, best_hw, down, right)
    return label_HW.cpu().numpy()


def _label_squares(
    label_HW: Tensor,
    square_N2: Tensor,
    score_hwC: Tensor,
    best_hw: Tensor,
    down: _Axis,
    right: _Axis,
) -> None:
    """Write the labels of the pixels in some squares."""
    row_N, column_N = square_N2.T
    corners = [(row_N + i, column_N + j) for i in (0, 1) for j in (0, 1)]
    score_4NC = torch.stack([score_hwC[corner] for corner in corners])
    # Below one class's lowest corner with its own highest: a quick look at all classes, after
    # which those that are best at a corner are held against the few that are left.
    bound_N1 = score_4NC.amin(0).amax(1, keepdim=True)
    square_P, class_P = (~(score_4NC.amax(0) < bound_N1)).nonzero(as_tuple=True)
    score_4P = score_4NC[:, square_P, class_P]
    lost_P = torch.zeros_like(square_P, dtype=torch.bool)
    for corner in corners:
        best_4N = score_4NC.gather(2, best_hw[corner][None, :, None].expand(4, -1, 1))[:, :, 0]
        lost_P |= (score_4P < best_4N[:, square_P]).all(0)
    left_P = (~lost_P).nonzero()[:, 0]
    square_P, class_P, score_4P = square_P[left_P], class_P[left_P], score_4P[:, left_P]

    share_Pu1 = down.share_Su[row_N[square_P]][:, :, None]
    share_P1v = right.share_Su[column_N[square_P]][:, None]
    near_near, near_far, far_near, far_far = score_4P[:, :, None, None]
    near_P1v = near_near * (1 - share_P1v) + near_far * share_P1v
    far_P1v = far_near * (1 - share_P1v) + far_far * share_P1v
    score_Puv = near_P1v * (1 - share_Pu1) + far_P1v * share_Pu1

    shape = (len(square_N2), *score_Puv.shape[1:])
    square_Puv = square_P[:, None, None].expand_as(score_Puv)
    highest_Nuv = score_Puv.new_full(shape, -torch.inf)
    highest_Nuv.scatter_reduce_(0, square_Puv, score_Puv, "amax")
    # Of equal scores the lowest id.
    classes = score_4NC.shape[2]
    best_Puv = score_Puv == highest_Nuv[square_P]
    class_Puv = torch.where(best_Puv, class_P.int()[:, None, None], classes)
    label_Nuv = torch.full(shape, classes, dtype=torch.int32, device=class_P.device)
    label_Nuv.scatter_reduce_(0, square_Puv, class_Puv, "amin")
    label_HW[down.pixel_Su[row_N][:, :, None], right.pixel_Su[column_N][:, None]] = label_Nuv.to(
        torch.uint8
    )


def _axis(cells: int, pixels: int, device: torch.device) -> _Axis:
    """Half-pixel centres, as `torch.nn.functional.interpolate` computes them in float32."""
    at_H = torch.tensor(cells / pixels, dtype=torch.float32) * (torch.arange(pixels) + 0.5) - 0.5
    low_H = at_H.floor()
    # Beyond the outermost cells there is one cell only.
    share_H = torch.where((low_H < 0) | (low_H >= cells - 1), 0.0, at_H - low_H)
    square_H = (low_H.long() + 1).clamp(0, cells)
    count_S = torch.bincount(square_H, minlength=cells + 1)
    end_S = count_S.cumsum(0)
    offset_u = torch.arange(int(count_S.max()))
    pixel_Su = (end_S - count_S)[:, None] + offset_u.minimum((count_S[:, None] - 1).clamp_min(0))
    pixel_Su = pixel_Su.clamp_max(pixels - 1)
    axis = _Axis(square_H, pixel_Su, share_H[pixel_Su], count_S > 0)
    return _Axis(*(each.to(device) for each in axis))
