"""A trained student on one whole image: class scores on the student's grid.

Legend: B windows, C classes, H W pixels of the image as the student sees it, h w positions of its
feature.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsseg.stages.data.images import resize_image
from zsseg.stages.evaluate.scorer import Scorer
from zsseg.stages.train.batches.imagenet import normalise
from zsseg.stages.train.run_config import EvaluateConfig
from zsseg.stages.train.students.student import Student

CPU_PIXELS, GPU_PIXELS = 2**18, 2**21
"""Pixels of the windows in one forward pass: one window of 512 x 512 keeps a CPU busy, a GPU takes
eight."""


def prepared(
    image_HW3: NDArray[np.uint8], *, config: EvaluateConfig, stride: int
) -> NDArray[np.float32]:
    """(3, H, W) the image as the student sees it: resized to `short_side` and normalised.

    Its sides are rounded to multiples of the student's `stride`, so that the map of its scores
    covers exactly the image.
    """
    size = working_size(image_HW3.shape[:2], short_side=config.short_side, stride=stride)
    return normalise(resize_image(image_HW3, size))


@torch.inference_mode()
def predict_scores(
    scorer: Scorer, image_3HW: NDArray[np.float32], *, config: EvaluateConfig, stride: int
) -> Tensor:
    """(C, h, w) cosine of feature and text embedding, without gamma (see `calibrated`).

    The `prepared` image is seen whole, or through windows whose scores are averaged. Window and
    step are rounded down to multiples of `stride`, so windows meet on the grid. Cosines, not
    logits: the logit scale changes no argmax. Runs where the scorer lies.
    """
    image_13HW = torch.from_numpy(image_3HW)[None].to(scorer.text_CD.device)
    if config.mode == "whole":
        return scorer(image_13HW)[0]
    return _slide(scorer, image_13HW, config=config, stride=stride)


def images_together(size: tuple[int, int], device: torch.device) -> int:
    """How many images or windows of a size go through the student in one forward pass."""
    limit = CPU_PIXELS if device.type == "cpu" else GPU_PIXELS
    return max(1, limit // (size[0] * size[1]))


@torch.inference_mode()
def student_feature(student: Student, image_3HW: NDArray[np.float32]) -> Tensor:
    """(D, h, w) float32 feature of a `prepared` image that the student sees whole."""
    device = next(student.parameters()).device
    feature_1Dhw: Tensor = student(torch.from_numpy(image_3HW)[None].to(device))
    return feature_1Dhw[0].float()


def calibrated(score_Chw: Tensor, gamma: float, *, seen_ids: Sequence[int]) -> Tensor:
    """(C, h, w) the scores less gamma for the seen classes, in units of cosine; a copy.

    gamma stands apart from the forward pass, so that one pass serves the scores with and without.
    """
    lowered_Chw = score_Chw.clone()
    lowered_Chw[list(seen_ids)] -= gamma
    return lowered_Chw


def working_size(size: tuple[int, ...], *, short_side: int | None, stride: int) -> tuple[int, int]:
    """Rows and columns that an image is resized to: its shape, sides in multiples of `stride`.

    As in mmsegmentation's test scale, the long side ends at four times the short one.
    """
    factor = 1.0
    if short_side is not None:
        factor = min(short_side / min(size), 4 * short_side / max(size))
    rows, columns = (max(1, round(side * factor / stride)) * stride for side in size)
    return rows, columns


def window_starts(length: int, window: int, step: int) -> list[int]:
    """Where windows begin along an axis: every `step`, the last one ending with the axis.

    The placement of mmsegmentation's slide inference; an axis shorter than a window has one.
    """
    last = max(0, length - window)
    return [*range(0, last, step), last]


def _slide(scorer: Scorer, image_13HW: Tensor, *, config: EvaluateConfig, stride: int) -> Tensor:
    height, width = (side // stride for side in image_13HW.shape[2:])
    window, step = max(1, config.window // stride), max(1, config.stride // stride)
    # The windows of an image have one size: on an axis that is shorter there is only one.
    rows, columns = min(window, height), min(window, width)
    corners = [
        (top, left)
        for top in window_starts(height, window, step)
        for left in window_starts(width, window, step)
    ]
    together = images_together((rows * stride, columns * stride), image_13HW.device)
    sum_Chw = torch.zeros(len(scorer.text_CD), height, width, device=image_13HW.device)
    count_hw = torch.zeros(height, width, device=image_13HW.device)
    for first in range(0, len(corners), together):
        some = corners[first : first + together]
        window_B3HW = torch.cat(
            [
                image_13HW[
                    :,
                    :,
                    top * stride : (top + rows) * stride,
                    left * stride : (left + columns) * stride,
                ]
                for top, left in some
            ]
        )
        for (top, left), score_Chw in zip(some, scorer(window_B3HW), strict=True):
            sum_Chw[:, top : top + rows, left : left + columns] += score_Chw
            count_hw[top : top + rows, left : left + columns] += 1
    return sum_Chw / count_hw
