"""The memory of a run's steps, from steps of tensors without numbers (`shadow`)."""

import logging
import math
from dataclasses import fields, replace
from functools import cached_property

import torch
from torch import Tensor

from zsseg.stages.allocations import Allocations
from zsseg.stages.errors import UserError
from zsseg.stages.printable import first_line
from zsseg.stages.train.batches.batch import Batch, cut_to_crops
from zsseg.stages.train.batches.crops import CropDataset
from zsseg.stages.train.batches.known_classes import make_classes
from zsseg.stages.train.batches.loader import less_empty_slots
from zsseg.stages.train.batches.packing import packed, unpacked
from zsseg.stages.train.batches.training_data import TrainingData
from zsseg.stages.train.foretell.estimate import CropCost, Measured
from zsseg.stages.train.foretell.shadow import Shadow
from zsseg.stages.train.processes import alone, processes
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.train.step import gradients, label_source

logger = logging.getLogger(__name__)


class CannotForetellError(Exception):
    """A student has an operation that cannot be done without numbers."""


class ShadowRun:
    """Does steps of a run without its memory and its work.

    Raises CannotForetellError, and UserError as `new_state` does.
    """

    def __init__(
        self, config: RunConfig, data: TrainingData, device: torch.device, precision: torch.dtype
    ) -> None:
        self._config, self._data, self._device = config, data, device
        text_CD = torch.from_numpy(data.store.read_all("text"))
        self._shadow = Shadow()
        self._done: dict[tuple[tuple[int, int], int, int], int] = {}
        self._state = self._shadow.state(
            config, width=text_CD.shape[-1], device=device, precision=precision
        )
        self._classes = self._shadow.of(
            make_classes(data.spec, text_CD, device, protocol=config.protocol)
        )
        self.weights = sum(each.nbytes for each in self._state.parameters())
        average = self._state.average
        self._average = 0 if average is None else sum(each.nbytes for each in average.parameters())

    @cached_property
    def dataset(self) -> CropDataset:
        """The run's crops; listing the images of a large data set takes seconds."""
        return CropDataset(self._data, self._config)

    def as_configured(self) -> Measured:
        """What a part of the run's steps costs."""
        crop = self._config.augmentation.crop
        peak = self._peak(crop, self._most)
        return self._measured(0, [CropCost(math.prod(crop), -(-peak // self._most))], fewest=1)

    def for_other_settings(self) -> Measured:
        """What is the same in every part, and what crops cost, of the run's size and of half."""
        crop = self._config.augmentation.crop
        few, many = self.fewest, max(self._most, self.fewest + 1)
        peak = self._peak(crop, many)
        each = max(peak - self._peak(crop, few), 0) // (many - few)
        fixed = max(peak - many * each, 0)
        costs = [CropCost(math.prod(crop), each)]
        half = self._half(crop)
        if half != crop:
            cost = max(self._peak(half, few) - fixed, 0) // few
            costs.insert(0, CropCost(math.prod(half), cost))
        return self._measured(fixed, costs, fewest=few)

    def _measured(self, fixed: int, costs: list[CropCost], *, fewest: int) -> Measured:
        batch = self._batch(self._config.augmentation.crop, 1)
        with self._shadow.within():
            cut = cut_to_crops(batch)
        return Measured(
            fixed=fixed,
            costs=tuple(costs),
            loaded=_bytes_of(batch),
            batch=_bytes_of(batch) + _bytes_of(cut),
            weights=self.weights,
            average=self._average,
            fewest=fewest,
            multiple=self._multiple,
        )

    @property
    def _most(self) -> int:
        """Crops of a part."""
        settings = self._config.train
        return -(-settings.batch // processes()[1] // settings.accumulate)

    @cached_property
    def fewest(self) -> int:
        """Crops that a part needs: 2 where batch normalisation needs as many."""
        try:
            self._step(self._half(self._config.augmentation.crop), 1, self._worst)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            return 2
        return 1

    @property
    def _multiple(self) -> int:
        return math.lcm(self._state.student.multiple, self._config.objectives.dense_stride)

    def _half(self, crop: tuple[int, int]) -> tuple[int, int]:
        """About half of the sides: multiples of what sides must divide by."""
        height, width = (
            min(-(-side // (2 * self._multiple)) * self._multiple, side) for side in crop
        )
        return height, width

    def _peak(self, size: tuple[int, int], crops: int) -> int:
        """The most bytes that a part takes, in the phase of the run that takes most."""
        return self._step(size, crops, self._worst)

    @cached_property
    def _worst(self) -> int:
        """A step of the phase that takes most memory."""
        crop = self._config.augmentation.crop
        return max(self._phases, key=lambda number: self._step(crop, self._most, number))

    @property
    def _phases(self) -> list[int]:
        """The first step of each phase of the run."""
        steps, trains = self._config.train.steps, self._config.self_training
        starts = {0, math.ceil(trains.start * steps), math.ceil(trains.teacher_until * steps)}
        numbers = sorted(each for each in starts if each < steps)
        sources = {label_source(self._config, each): each for each in numbers}
        return list(sources.values())

    def _step(self, size: tuple[int, int], crops: int, number: int) -> int:
        """The most bytes in step `number` with so many crops of this size.

        Without those of the weights' gradients.
        """
        if (size, crops, number) in self._done:
            return self._done[size, crops, number]
        augmentation = self._config.augmentation.model_copy(update={"crop": size})
        config = self._config.model_copy(update={"augmentation": augmentation})
        batch, state = self._batch(size, crops), replace(self._state)
        try:
            with self._shadow.within(), alone(), Allocations() as seen:
                gradients(state, batch, self._classes, config, number=number, logs=True)
                found = [each.grad for each in state.parameters() if each.grad is not None]
                peak: int = seen.peak(without=found)
        except (RuntimeError, NotImplementedError) as error:
            raise CannotForetellError(first_line(error)) from error
        finally:
            state.optimiser.zero_grad()
        self._done[size, crops, number] = peak
        return peak

    def _batch(self, size: tuple[int, int], crops: int) -> Batch:
        """As many times the first crop of the run, cut in this size."""
        # As many masks as any image has: the step that has most must fit.
        slots = self.dataset.slots(range(self.dataset.images))
        one = less_empty_slots(self.dataset.with_size(size)[0], slots)
        batch = self._shadow.of(unpacked(packed([one])).to(self._device))
        return batch.each(lambda tensor: self._shadow.repeated(tensor, crops))


def shadow_run(
    config: RunConfig, data: TrainingData, device: torch.device, precision: torch.dtype
) -> ShadowRun | None:
    """The run in shadow; None where its student cannot be built without memory, or not at all."""
    try:
        return ShadowRun(config, data, device, precision)
    except UserError as error:  # told by the training itself, when it builds the student
        logger.info("memory is not foretold: %s", error)
    except (RuntimeError, NotImplementedError) as error:
        not_foretold(error)
    return None


def not_foretold(error: Exception) -> None:
    """Say that this run begins without a forecast of its memory."""
    logger.warning(
        "memory is not foretold, as this student cannot be tried without computing (%s). The run "
        "goes on; should it run out of memory, lower train.batch, or raise train.accumulate",
        first_line(error),
    )


def _bytes_of(batch: Batch) -> int:
    tensors = [getattr(batch, field.name) for field in fields(batch)]
    return sum(each.nbytes for each in tensors if isinstance(each, Tensor))
