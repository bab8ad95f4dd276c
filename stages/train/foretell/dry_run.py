"""`zsseg train --dry-run`: what a training would take; nothing is written."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from zsseg.stages.device import choose_device
from zsseg.stages.train.batches.crops import CropDataset
from zsseg.stages.train.batches.known_classes import make_classes
from zsseg.stages.train.batches.store_check import check_store
from zsseg.stages.train.batches.training_data import TrainingData
from zsseg.stages.train.foretell.measure import CannotForetellError, shadow_run
from zsseg.stages.train.foretell.memory_check import TrainForecast, foretell
from zsseg.stages.train.foretell.step_time import StepTime, step_time
from zsseg.stages.train.resource_errors import explained
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.train.state import new_state
from zsseg.stages.train.student_precision import autocast_type
from zsseg.stages.train.students.student import check_crop


@dataclass(frozen=True)
class DryRun:
    """What a training would take."""

    memory: TrainForecast | None
    """None: the student has an operation whose memory cannot be foretold."""
    fitting: Sequence[str]
    """Settings that fit, where it does not."""
    time: StepTime | None
    """None where it does not fit."""


def dry_run(config: RunConfig, data: TrainingData) -> DryRun:
    """The forecast of a training.

    Raises as `loop.train` does before its first step.
    """
    check_store(data.store, data.spec, config)
    device = choose_device(config.train.device)
    precision = autocast_type(config.train.precision, device)
    memory: TrainForecast | None = None
    fitting: list[str] = []
    crops = 2
    run = shadow_run(config, data, device, precision)
    if run is not None:
        try:
            memory, fitting = foretell(run, config, data)
            crops = run.fewest
        except CannotForetellError:
            pass
    if memory is not None and not memory.fits:
        return DryRun(memory, fitting, None)
    return DryRun(
        memory, (), measured_step(config, data, run.dataset if run else None, crops=crops)
    )


def measured_step(
    config: RunConfig, data: TrainingData, dataset: CropDataset | None, *, crops: int
) -> StepTime:
    """The time of a step of a training, from that of `crops` crops; its student is built for it.

    `dataset`: the training's crops, of any size, where they are listed already.

    Raises as `loop.train` does before its first step.
    """
    device = choose_device(config.train.device)
    precision = autocast_type(config.train.precision, device)
    text_CD = torch.from_numpy(data.store.read_all("text"))
    with explained(config):
        # Weights are not loaded: a step with random ones takes as long.
        state = new_state(
            config, width=text_CD.shape[-1], device=device, precision=precision, weights=False
        )
        check_crop(state.student, config.augmentation.crop)
        classes = make_classes(data.spec, text_CD, device, protocol=config.protocol)
        found = CropDataset(data, config) if dataset is None else dataset
        return step_time(state, found, classes, config, crops=crops)
