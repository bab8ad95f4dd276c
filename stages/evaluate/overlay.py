"""Label maps as pictures: an image tinted by class, and a legend.

Legend: C classes, H W pixels.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.data.images import text_mask
from zsseg.stages.data.spec import VOID

_PANEL, _INK, _FRAME = (250, 250, 250), (30, 30, 30), (120, 120, 120)


def overlay(
    image_HW3: NDArray[np.uint8],
    label_HW: NDArray[np.uint8],
    colours: NDArray[np.uint8],
    *,
    alpha: float = 0.5,
) -> NDArray[np.uint8]:
    """(H, W, 3) the image tinted by class, segment borders in full colour; VOID stays untouched.

    `alpha` is the share of the class colour inside a segment.
    """
    colour_HW3 = colours[label_HW].astype(np.float32)
    border_HW = _borders(label_HW, width=max(1, round(min(label_HW.shape) / 400)))
    share_HW = np.where(border_HW, np.float32(1), np.float32(alpha)) * (label_HW != VOID)
    mixed_HW3 = image_HW3 + share_HW[..., None] * (colour_HW3 - image_HW3)
    rounded_HW3: NDArray[np.uint8] = np.rint(mixed_HW3).astype(np.uint8)
    return rounded_HW3


def _borders(label_HW: NDArray[np.uint8], *, width: int) -> NDArray[np.bool_]:
    """True within `width` pixels of another label, counted along rows and columns."""
    border_HW = np.zeros(label_HW.shape, dtype=bool)
    for step in range(1, width + 1):
        across_HW = label_HW[:, step:] != label_HW[:, :-step]
        down_HW = label_HW[step:] != label_HW[:-step]
        border_HW[:, step:] |= across_HW
        border_HW[:, :-step] |= across_HW
        border_HW[step:] |= down_HW
        border_HW[:-step] |= down_HW
    return border_HW


def with_legend(
    picture_HW3: NDArray[np.uint8],
    label_HW: NDArray[np.uint8],
    colours: NDArray[np.uint8],
    names: Sequence[str],
) -> NDArray[np.uint8]:
    """The picture with a light panel below it: colour, name and share of each class present.

    Largest first. The panel never covers the picture; it is wider than the picture where a name
    needs it. `picture_HW3` may be larger than the label map.
    """
    counts_C = np.bincount(label_HW.ravel(), minlength=256)[: len(names)]
    present = [int(i) for i in np.argsort(-counts_C, kind="stable") if counts_C[i]]
    entries = [(i, f"{_short(names[i])} {_percent(counts_C[i] / label_HW.size)}") for i in present]
    height, width = picture_HW3.shape[:2]
    size = float(np.clip(min(height, width) / 26, 12, 60))
    masks = [text_mask(text, size) for _, text in entries]
    line, box, gap = round(1.8 * size), round(1.05 * size), round(0.5 * size)
    item_widths = [box + gap + mask_HW.shape[1] for mask_HW in masks]
    canvas_width = max([width, *(item_width + 2 * gap for item_width in item_widths)])

    columns = _columns(item_widths, canvas_width - 2 * gap, space=2 * gap)
    rows = -(-len(entries) // max(1, len(columns)))
    canvas_HW3 = np.empty((height + rows * line + gap * bool(rows), canvas_width, 3), np.uint8)
    canvas_HW3[:] = _PANEL
    left = (canvas_width - width) // 2
    canvas_HW3[:height, left : left + width] = picture_HW3
    for position, ((class_id, _), mask_HW) in enumerate(zip(entries, masks, strict=True)):
        row, column = divmod(position, len(columns))
        left = gap + columns[column]
        middle = height + gap // 2 + row * line + line // 2
        top = middle - box // 2
        canvas_HW3[top : top + box, left : left + box] = _FRAME
        canvas_HW3[top + 1 : top + box - 1, left + 1 : left + box - 1] = colours[class_id]
        _ink(canvas_HW3, mask_HW, top=middle - mask_HW.shape[0] // 2, left=left + box + gap)
    return canvas_HW3


def _ink(canvas_HW3: NDArray[np.uint8], mask_HW: NDArray[np.uint8], *, top: int, left: int) -> None:
    """Write a mask of text onto the canvas."""
    height, width = mask_HW.shape
    under_HW3 = canvas_HW3[top : top + height, left : left + width]
    cover_HW1 = mask_HW[:, :, None] / 255
    under_HW3[:] = np.rint(under_HW3 * (1 - cover_HW1) + np.array(_INK) * cover_HW1)


def _columns(widths: Sequence[int], available: int, *, space: int) -> list[int]:
    """Left edges of the most columns in which items, filled row by row, fit into the width."""
    for count in range(len(widths), 0, -1):
        column_widths = [max(widths[column::count]) for column in range(count)]
        if sum(column_widths) + space * (count - 1) <= available or count == 1:
            lefts = np.cumsum([0, *(width + space for width in column_widths[:-1])])
            return [int(left) for left in lefts]
    return []


def _short(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:39]}…"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else "<1%"
