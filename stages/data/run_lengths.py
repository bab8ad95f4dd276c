"""Masks written as run lengths: how many pixels are out, in, out, ... in turn (COCO, PASCAL)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def decoded_runs(counts: str) -> list[int]:
    """The run lengths of COCO's compressed form.

    Each is written as 5-bit digits from the lowest, offset by 48, with 32 set while more follow and
    16 in the last one for a negative number; from the fourth on, a run is written as its difference
    to the last but one. Decoded here because pycocotools writes out of bounds when a file is
    damaged.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        digit = ord(character) - 48
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs


def check_runs(runs: Sequence[int], height: int, width: int) -> None:
    """Raise ValueError where run lengths do not fill a mask; nothing of its size is made."""
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError(f"run lengths do not fill {height} x {width} pixels")


def mask_of_runs(
    runs: Sequence[int], height: int, width: int, *, by_rows: bool = False
) -> NDArray[np.bool_]:
    """(H, W) mask of run lengths that go down the columns or, `by_rows`, along the rows.

    Raises ValueError where they do not fill the mask.
    """
    check_runs(runs, height, width)
    mask_P = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return mask_P.reshape(height, width) if by_rows else mask_P.reshape(width, height).T
