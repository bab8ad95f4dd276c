"""Does single steps of one or two crops, and measures their memory and their time.

Nothing of a run changes by it: weights, statistics of batch normalisation, optimiser, bank and
random numbers are afterwards what they were.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from zsseg.stages.allocations import Allocations
from zsseg.stages.train.batches.batch import Batch, cut_to_crops
from zsseg.stages.train.batches.crops import CropDataset
from zsseg.stages.train.batches.known_classes import KnownClasses
from zsseg.stages.train.batches.loader import less_empty_slots
from zsseg.stages.train.batches.packing import packed, unpacked
from zsseg.stages.train.batches.training_data import TrainingData
from zsseg.stages.train.foretell.estimate import CropCost, Measured
from zsseg.stages.train.processes import alone
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.train.state import State
from zsseg.stages.train.step import gradients, label_source, restore

PATIENCE_S = 3.0
"""A step of a crop that would take longer is not done: it is reckoned from smaller crops."""

_SMALLER = (4, 2, 1)
"""Divisors of the crop's sides: what may be too large is tried small first."""


@dataclass(frozen=True)
class _Trial:
    """One measured step."""

    bytes: int
    seconds: float


def measure(
    state: State,
    data: TrainingData,
    classes: KnownClasses,
    config: RunConfig,
    *,
    free: int | None,
    patience: float = PATIENCE_S,
) -> Measured:
    """What crops of this run cost, from steps of one and two of them.

    It begins with crops of a quarter of the sides; larger ones are tried while they surely fit into
    `free` bytes and a step takes at most `patience` seconds.
    """
    bench = _Bench(state, data, classes, config)
    with _nothing_changed(state), alone():
        small, *larger = _sizes(config.augmentation.crop, bench.multiple)
        first = bench.least()  # by a step that is slower than all after it
        trials = {number: bench.step(small, first, number) for number in bench.phases}
        worst = max(trials, key=lambda number: trials[number].bytes)
        one, two = trials[worst], bench.step(small, first + 1, worst)
        fixed = _Trial(
            max(first * (one.bytes - two.bytes) + one.bytes, 0),
            max(first * (one.seconds - two.seconds) + one.seconds, 0.0),
        )
        costs = [_cost(small, fixed, first, one)]
        for size in larger:
            pixels = math.prod(size)
            growth = pixels / costs[-1].pixels
            # Attention may grow with the square of the pixels.
            most = fixed.bytes + first * costs[-1].bytes * growth**2
            slow = fixed.seconds + growth * costs[-1].seconds * first > patience
            if slow or (free is not None and most > free):
                break
            costs.append(_cost(size, fixed, first, bench.step(size, first, worst)))
        batch = bench.batch(config.augmentation.crop, 1)
    return Measured(
        fixed=fixed.bytes,
        fixed_seconds=fixed.seconds,
        costs=tuple(costs),
        loaded=_bytes_of(batch),
        batch=_bytes_of(batch) + _bytes_of(cut_to_crops(batch)),
        weights=sum(each.nbytes for each in state.parameters()),
        optimiser=_optimiser_bytes(state),
        fewest=first,
        multiple=bench.multiple,
    )


def _cost(size: tuple[int, int], fixed: "_Trial", count: int, trial: "_Trial") -> CropCost:
    crop = max(trial.bytes - fixed.bytes, 0) // count
    return CropCost(math.prod(size), crop, max(trial.seconds - fixed.seconds, 0.0) / count)


class _Bench:
    """Does steps with the student of a run."""

    def __init__(
        self, state: State, data: TrainingData, classes: KnownClasses, config: RunConfig
    ) -> None:
        self._classes, self._config = classes, config
        self._crops = CropDataset(data, config)
        # As many masks as any image has: the step that has most must fit.
        self._slots = self._crops.slots(range(self._crops.images))
        off = torch.amp.GradScaler(state.device.type, enabled=False)
        self._state = replace(state, forward=state.student, scaler=off, parts=1)
        self.multiple = math.lcm(state.student.multiple, config.objectives.dense_stride)

    @property
    def phases(self) -> list[int]:
        """The first step of each phase of the run."""
        steps, trains = self._config.train.steps, self._config.self_training
        starts = {0, math.ceil(trains.start * steps), math.ceil(trains.teacher_until * steps)}
        numbers = sorted(each for each in starts if each < steps)
        sources = {label_source(self._config, each): each for each in numbers}
        return list(sources.values())

    def least(self) -> int:
        """How many crops a step needs: batch normalisation may need two."""
        small = _sizes(self._config.augmentation.crop, self.multiple)[0]
        try:
            self.step(small, 1, 0)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            return 2
        return 1

    def step(self, size: tuple[int, int], crops: int, number: int) -> _Trial:
        """Gradients of step `number` of the first crops of the run, cut in this size."""
        state, batch = self._state, self.batch(size, crops)
        allocations = Allocations()
        started = time.perf_counter()
        with allocations:
            result = gradients(
                state, batch, self._classes, self._sized(size), number=number, logs=True
            )
        if state.device.type == "cuda":
            torch.cuda.synchronize(state.device)
        seconds = time.perf_counter() - started
        found = [each.grad for each in state.parameters() if each.grad is not None]
        peak = allocations.peak(without=found)
        restore(state, result.buffers)
        state.optimiser.zero_grad()
        return _Trial(peak, seconds)

    def batch(self, size: tuple[int, int], crops: int) -> Batch:
        """The first crops of the run, cut in this size."""
        dataset = self._crops.with_size(size)
        made = [less_empty_slots(dataset[position], self._slots) for position in range(crops)]
        return unpacked(packed(made)).to(self._state.device)

    def _sized(self, size: tuple[int, int]) -> RunConfig:
        augmentation = self._config.augmentation.model_copy(update={"crop": size})
        return self._config.model_copy(update={"augmentation": augmentation})


def _sizes(crop: tuple[int, int], multiple: int) -> list[tuple[int, int]]:
    """The sizes to try, the crop's own last; sides are multiples, or the crop's own."""
    found: list[tuple[int, int]] = []
    for divisor in _SMALLER:
        height, width = (min(-(-side // (divisor * multiple)) * multiple, side) for side in crop)
        if (height, width) not in found:
            found.append((height, width))
    return found


@contextmanager
def _nothing_changed(state: State) -> Iterator[None]:
    """Afterwards random numbers, buffers and gradients are what they were."""
    buffers = [each.clone() for each in state.student.buffers()]
    with torch.random.fork_rng(devices=[state.device] if state.device.type == "cuda" else []):
        try:
            yield
        finally:
            restore(state, buffers)
            state.optimiser.zero_grad()


def _bytes_of(batch: Batch) -> int:
    tensors = [getattr(batch, field.name) for field in fields(batch)]
    return sum(each.nbytes for each in tensors if isinstance(each, Tensor))


def _optimiser_bytes(state: State) -> int:
    """What the optimiser has in memory already: nothing before its first step."""
    held = (value for values in state.optimiser.state.values() for value in values.values())
    return sum(each.nbytes for each in held if isinstance(each, Tensor))
