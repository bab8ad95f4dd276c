"""A trained student on one whole image: class scores on the student's grid, labels at full size.

Legend: C classes, D CLIP width, H W pixels of the image as the student sees it, h w positions of
its feature, Y X pixels of the label map.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stages.data.images import resize_image
from stages.train.config import EvaluateConfig
from stages.train.imagenet import normalise
from stages.train.student import Student, class_logits

_CHUNK_VALUES = 2**24
"""Upsampled scores held at one time: 64 MiB of float32."""


@torch.inference_mode()
def predict_scores(
    student: Student,
    text_CD: Tensor,
    image_HW3: NDArray[np.uint8],
    *,
    config: EvaluateConfig,
    stride: int,
) -> Tensor:
    """(C, h, w) cosine of feature and text embedding, without gamma (see `calibrated`).

    The image is brought to `short_side` and seen whole, or through windows whose scores are
    averaged. Its sides are rounded to multiples of the student's `stride`, so the map covers
    exactly the image; window and step are rounded down to them, so windows meet on the grid.
    Cosines, not logits: the logit scale changes no argmax. Runs where `text_CD` lies.
    """
    size = working_size(image_HW3.shape[:2], short_side=config.short_side, stride=stride)
    image_3HW = normalise(resize_image(image_HW3, size))
    image_13HW = torch.from_numpy(image_3HW)[None].to(text_CD.device)
    if config.mode == "whole":
        return _scores(student, text_CD, image_13HW)
    return _slide(student, text_CD, image_13HW, config=config, stride=stride)


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


def _slide(
    student: Student,
    text_CD: Tensor,
    image_13HW: Tensor,
    *,
    config: EvaluateConfig,
    stride: int,
) -> Tensor:
    height, width = (side // stride for side in image_13HW.shape[2:])
    window, step = max(1, config.window // stride), max(1, config.stride // stride)
    sum_Chw = torch.zeros(len(text_CD), height, width, device=image_13HW.device)
    count_hw = torch.zeros(height, width, device=image_13HW.device)
    for top in window_starts(height, window, step):
        for left in window_starts(width, window, step):
            bottom, right = top + window, left + window
            part_13HW = image_13HW[
                :, :, top * stride : bottom * stride, left * stride : right * stride
            ]
            sum_Chw[:, top:bottom, left:right] += _scores(student, text_CD, part_13HW)
            count_hw[top:bottom, left:right] += 1
    return sum_Chw / count_hw


def _scores(student: Student, text_CD: Tensor, image_13HW: Tensor) -> Tensor:
    return class_logits(student(image_13HW), text_CD, 1.0)[0]


@torch.inference_mode()
def upsampled_argmax(score_Chw: Tensor, size: tuple[int, ...]) -> NDArray[np.uint8]:
    """(Y, X) id of the class whose bilinearly upsampled score is highest; ties: the lowest id.

    Classes are upsampled a few at a time, so memory does not grow with C x Y x X.
    """
    rows, columns = size
    best_YX = torch.full((rows, columns), -torch.inf, device=score_Chw.device)
    label_YX = torch.zeros((rows, columns), dtype=torch.uint8, device=score_Chw.device)
    step = max(1, _CHUNK_VALUES // (rows * columns))
    for first in range(0, len(score_Chw), step):
        part_1Chw = score_Chw[None, first : first + step]
        score_CYX = F.interpolate(part_1Chw, size=(rows, columns), mode="bilinear")[0]
        value_YX, index_YX = score_CYX.max(0)
        higher_YX = value_YX > best_YX
        best_YX = torch.where(higher_YX, value_YX, best_YX)
        label_YX = torch.where(higher_YX, (index_YX + first).to(torch.uint8), label_YX)
    return label_YX.cpu().numpy()
