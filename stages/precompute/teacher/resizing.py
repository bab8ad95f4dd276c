"""How images and crops are resized for a teacher: by Pillow, or by torch in a third of the time.

Both antialias alike (a bicubic or bilinear filter as wide as the shrinking, on 8-bit numbers), and
differ by 1 of 255, rarely by 2, where sums are rounded otherwise.
"""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from zsseg.stages.data.images import resize_image
from zsseg.stages.precompute.precompute_config import Resize


def choose_resize(asked: Literal["auto", "pillow", "torch"], device: torch.device) -> Resize:
    """What is asked for; auto: torch for a teacher on a GPU, which waits for it, Pillow elsewhere.

    On a CPU the teacher's own time hides it, and its stores stay as they always were.
    """
    if asked == "auto":
        return "pillow" if device.type == "cpu" else "torch"
    return asked


def resized(
    image_HW3: NDArray[np.uint8],
    size: tuple[int, int],
    *,
    interpolation: Literal["bilinear", "bicubic"],
    resize: Resize,
) -> NDArray[np.uint8]:
    """An image (H, W, 3) resized to `size` (rows, columns); itself where it has that size."""
    if image_HW3.shape[:2] == size:
        return image_HW3
    if resize == "pillow":
        return resize_image(image_HW3, size, interpolation=interpolation)
    # In memory the channels come last, which torch has a kernel of its own for.
    pixel_13HW = torch.from_numpy(np.ascontiguousarray(image_HW3)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        made_13hw = F.interpolate(pixel_13HW, size=size, mode=interpolation, antialias=True)
    made_hw3: NDArray[np.uint8] = made_13hw[0].permute(1, 2, 0).numpy()
    return np.ascontiguousarray(made_hw3)
