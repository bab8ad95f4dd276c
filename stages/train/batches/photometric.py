"""Photometric distortion of one crop: the only module that imports albumentations."""

import os
import random

import numpy as np
from numpy.typing import NDArray

# albumentations asks a server for its newest version when it is imported, unless this is set.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2


class Jitter:
    """mmsegmentation's PhotoMetricDistortion: each of four distortions with probability 1/2.

    Brightness +-32 of 255, contrast and saturation times 0.5 to 1.5, hue +-18 of OpenCV's 180, in
    this order. It holds albumentations' pipeline, which is costly to build.
    """

    def __init__(self) -> None:
        self._distort = A.Compose(
            [
                A.RandomBrightnessContrast(brightness_limit=32 / 255, contrast_limit=0, p=0.5),
                A.RandomBrightnessContrast(brightness_limit=0, contrast_limit=0.5, p=0.5),
                A.ColorJitter(
                    brightness=(1, 1), contrast=(1, 1), saturation=(0.5, 1.5), hue=(0, 0), p=0.5
                ),
                A.HueSaturationValue(
                    hue_shift_limit=18, sat_shift_limit=0, val_shift_limit=0, p=0.5
                ),
            ]
        )

    def __call__(self, image_HW3: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """The distorted image; the same `rng` state gives the same image."""
        # Not `set_random_seed`: it starts every distortion from the same seed, and then all four
        # are applied or none.
        self._distort.set_random_state(rng, random.Random(int(rng.integers(2**63))))
        distorted_HW3: NDArray[np.uint8] = self._distort(image=image_HW3)["image"]
        return distorted_HW3


def one_opencv_thread() -> None:
    """Keep OpenCV to the calling thread: loader processes already share out the cores."""
    cv2.setNumThreads(0)
