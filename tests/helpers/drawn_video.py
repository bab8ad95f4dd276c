"""A small video of the colours of `colour_run`, for those who have PyAV."""

from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from helpers.colour_run import COLOURS
from zsseg.stages.data.video import video_writer

FRAMES, HEIGHT, WIDTH = 12, 48, 64


def frame(number: int) -> NDArray[np.uint8]:
    """(H, W, 3) sky above ground, the ground higher with every frame, a box in the corner."""
    image_HW3 = np.full((HEIGHT, WIDTH, 3), COLOURS[0], np.uint8)
    image_HW3[HEIGHT - 8 - 2 * number :] = COLOURS[1]
    image_HW3[:16, :16] = COLOURS[2]
    return image_HW3


def draw_video(path: Path, *, frames: int = FRAMES, rate: int = 10) -> Path:
    """Write it as MP4."""
    with video_writer(path, Fraction(rate)) as add:
        for number in range(frames):
            add(frame(number))
    return path
