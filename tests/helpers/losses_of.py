"""The losses of a batch that is the whole step, for tests of what they come to."""

import torch
from torch import Tensor, nn

from zsseg.stages.train.batches.batch import Batch
from zsseg.stages.train.batches.known_classes import KnownClasses
from zsseg.stages.train.losses.batch_losses import Scalars, batch_losses
from zsseg.stages.train.losses.contrast import Bank, empty_bank
from zsseg.stages.train.losses.loss_inputs import StepInputs, loss_inputs
from zsseg.stages.train.method_config import Source
from zsseg.stages.train.run_config import RunConfig


def losses_of(
    feature_BDhw: Tensor,
    batch: Batch,
    classes: KnownClasses,
    config: RunConfig,
    *,
    source: Source | None = None,
    average_BDhw: Tensor | None = None,
    decoder: nn.Module | None = None,
    bank: Bank | None = None,
) -> tuple[Scalars, Scalars]:
    """Losses and diagnostics of a batch, by name; `source` names unlabelled pixels."""
    step = StepInputs(
        number=0,
        config=config,
        classes=classes,
        source=source,
        bank=bank or empty_bank(feature_BDhw.shape[1], torch.device("cpu")),
        pool=None,
        logs=False,
    )
    inputs = loss_inputs(feature_BDhw, batch, step, average_BDhw=average_BDhw, decoder=decoder)
    return batch_losses(inputs)
