"""`zsseg train --dry-run`: what a training would take; nothing is written."""

import torch

from zsseg.stages.device import choose_device
from zsseg.stages.train.batches.known_classes import make_classes
from zsseg.stages.train.batches.store_check import check_store
from zsseg.stages.train.batches.training_data import TrainingData
from zsseg.stages.train.foretell.memory_check import TrainForecast, foretell
from zsseg.stages.train.resource_errors import explained
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.train.state import new_state
from zsseg.stages.train.student_precision import autocast_type
from zsseg.stages.train.students.student import check_crop

_PATIENCE_S = 30.0
"""A step of a crop that takes longer is not done, but reckoned from smaller crops."""


def forecast_training(config: RunConfig, data: TrainingData) -> tuple[TrainForecast, list[str]]:
    """The forecast of a training from its first step, and settings that fit where it does not.

    Raises as `loop.train` does before its first step.
    """
    check_store(data.store, data.spec, config)
    device = choose_device(config.train.device)
    precision = autocast_type(config.train.precision, device)
    text_CD = torch.from_numpy(data.store.read_all("text"))
    with explained(config):
        # Weights are not loaded: they take the memory of random ones.
        state = new_state(
            config, width=text_CD.shape[-1], device=device, precision=precision, weights=False
        )
        check_crop(state.student, config.augmentation.crop)
        classes = make_classes(data.spec, text_CD, device, protocol=config.protocol)
        return foretell(state, data, classes, config, patience=_PATIENCE_S)
