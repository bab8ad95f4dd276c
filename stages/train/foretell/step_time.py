"""How long a step takes: steps of a few crops, done and timed. For `train --dry-run` alone."""

import math
import time
from dataclasses import dataclass

import torch

from zsseg.stages.train.batches.crops import CropDataset
from zsseg.stages.train.batches.known_classes import KnownClasses
from zsseg.stages.train.batches.packing import packed, unpacked
from zsseg.stages.train.processes import alone
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.train.state import State
from zsseg.stages.train.step import gradients

_PATIENCE_S = 5.0
"""A larger crop is not tried where its step would take longer."""
_SMALLER = (4, 2, 1)
"""Divisors of the crop's sides, the smallest crop first."""


@dataclass(frozen=True)
class StepTime:
    """How long a step takes, and how that is known."""

    seconds: float
    crops: int
    """That were timed."""
    size: tuple[int, int]
    """Of these crops; time is taken to grow as the pixels do."""


def step_time(
    state: State, dataset: CropDataset, classes: KnownClasses, config: RunConfig, *, crops: int
) -> StepTime:
    """The time of a step, from that of `crops` crops of a size that takes seconds at most.

    `dataset`: the run's crops, of whatever size.

    The state is used up by it.
    """
    state.parts = 1
    multiple = math.lcm(state.student.multiple, config.objectives.dense_stride)
    whole = config.augmentation.crop

    def timed(size: tuple[int, int]) -> float:
        made = dataset.with_size(size)
        batch = unpacked(packed([made[number] for number in range(crops)])).to(state.device)
        augmentation = config.augmentation.model_copy(update={"crop": size})
        sized = config.model_copy(update={"augmentation": augmentation})
        started = time.perf_counter()
        gradients(state, batch, classes, sized, number=config.train.steps - 1, logs=False)
        if state.device.type == "cuda":
            torch.cuda.synchronize(state.device)
        return time.perf_counter() - started

    sizes = [_divided(whole, divisor, multiple) for divisor in _SMALLER]
    seconds, size = 0.0, sizes[0]
    with alone():
        timed(size)  # slower than all after it
        for size in dict.fromkeys(sizes):
            seconds = timed(size)
            if 4 * seconds > _PATIENCE_S:
                break
    share = math.prod(whole) / math.prod(size) * config.train.batch / crops
    return StepTime(seconds * share, crops, size)


def _divided(size: tuple[int, int], divisor: int, multiple: int) -> tuple[int, int]:
    height, width = (min(-(-side // (divisor * multiple)) * multiple, side) for side in size)
    return height, width
