"""How an image enters a student: the normalisation of ImageNet, which its encoder was trained with.

Legend: H W pixels.
"""

import numpy as np
from numpy.typing import NDArray

MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)
"""Of each channel of ImageNet's images in [0, 1]."""


def normalise(image_HW3: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(3, H, W): less the mean, divided by the deviation. One pass, no float copy in between."""
    image_3HW = np.empty((3, *image_HW3.shape[:2]), dtype=np.float32)
    for channel in range(3):
        np.multiply(image_HW3[:, :, channel], 1 / (255 * STD[channel]), out=image_3HW[channel])
        image_3HW[channel] -= MEAN[channel] / STD[channel]
    return image_3HW
