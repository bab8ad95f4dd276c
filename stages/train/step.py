"""Makes the gradients of a step: of the whole batch, over all its processes and parts.

Legend: B batch, D CLIP width, h w feature grid, K masks per image, M masks of the step.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from zsseg.stages.printable import first_line
from zsseg.stages.train.batches.batch import Batch, cut_to_crops
from zsseg.stages.train.batches.known_classes import KnownClasses
from zsseg.stages.train.losses.batch_losses import (
    Scalars,
    batch_losses,
    counts_of,
    in_whole,
    weighted_sum,
)
from zsseg.stages.train.losses.contrast import Bank, Pool, enqueue, pool_of
from zsseg.stages.train.losses.loss_inputs import LossInputs, StepInputs, loss_inputs
from zsseg.stages.train.losses.pseudo_mask import mask_codes
from zsseg.stages.train.losses.resample import nearest
from zsseg.stages.train.method_config import Source
from zsseg.stages.train.processes import (
    NoMemoryElsewhere,
    Status,
    agree,
    copy_from_first,
    processes,
    sum_in_place,
    summed,
)
from zsseg.stages.train.resource_errors import is_out_of_memory
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.train.state import State

_DROPOUT = 3
"""Purpose of a random seed; `sampling.py` has 0 to 2."""

_TOTAL = "total"
"""Stands for the weighted sum among names of losses."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepResult:
    """The losses of a step whose gradients are in place; scalars over the whole batch."""

    total: Tensor
    losses: Scalars
    """Unweighted."""
    diagnostics: Scalars
    norm: Tensor
    """Of the gradients, before any clipping."""
    bank: Bank
    """With this step's tokens."""
    buffers: Sequence[Tensor]
    """The student's buffers before the step, whose forward pass changes batch normalisation."""

    def numbers(self) -> dict[str, float]:
        """The numbers of the log."""
        scalars = {"loss": self.total, **self.losses, **self.diagnostics, "grad_norm": self.norm}
        return {name: float(value) for name, value in scalars.items()}


def gradients(
    state: State, batch: Batch, classes: KnownClasses, config: RunConfig, *, number: int, logs: bool
) -> StepResult:
    """Put the gradients of step `number` in place; `batch` is this process's share of it.

    Every loss is the mean over the batches of all processes, and so is its gradient. A step that
    does not fit into memory is repeated in twice as many parts. `logs`: compute also what only the
    log shows.
    """
    buffers = [each.clone() for each in state.student.buffers()]
    batch = cut_to_crops(batch)
    bank, pool = state.bank, None
    if config.objectives.global_distillation:
        assert batch.token_BD is not None
        bank = enqueue(bank, batch.token_BD, batch.row_B, size=config.objectives.bank)
    if config.objectives.local_distillation and config.objectives.local_negatives == "batch":
        pool = _pool(batch, config, stride=state.stride)
    step = StepInputs(
        number=number,
        config=config,
        classes=classes,
        source=label_source(config, number),
        bank=bank,
        pool=pool,
        logs=logs,
    )
    images = len(batch.row_B)
    while True:
        try:
            return _in_parts(state, batch, step, buffers)
        except NoMemoryElsewhere:
            reason = "another process"
        except RuntimeError as error:
            if not is_out_of_memory(error) or state.parts >= images:
                raise
            agree(Status.NO_MEMORY)
            reason = first_line(error)
        # Outside the handlers: an exception keeps alive what the attempt had allocated.
        before, state.parts = state.parts, min(2 * state.parts, images)
        restore(state, buffers)
        # The old one may have unscaled the gradients already, which it allows once per step.
        scaler = torch.amp.GradScaler(state.device.type, enabled=state.scaler.is_enabled())
        scaler.load_state_dict(state.scaler.state_dict())
        state.scaler = scaler
        state.optimiser.zero_grad()
        torch.cuda.empty_cache()
        logger.warning(
            "step %d: out of memory (%s); from now on in %d parts of %d images at most, not %d: "
            "the batch stays the same. train.accumulate=%d starts with as many parts",
            number,
            reason,
            state.parts,
            -(-images // state.parts),
            before,
            state.parts,
        )


def restore(state: State, buffers: Sequence[Tensor]) -> None:
    """Give the student back the buffers that it had before a step."""
    for each, before in zip(state.student.buffers(), buffers, strict=True):
        each.copy_(before)


def label_source(config: RunConfig, step: int) -> Source | None:
    """Whose scores give unlabelled pixels pseudo labels at this step; None: none are given yet."""
    settings, steps = config.self_training, config.train.steps
    if settings.method == "none" or step < settings.start * steps:
        return None
    return "teacher" if step < settings.teacher_until * steps else settings.source


def _in_parts(
    state: State, batch: Batch, step: StepInputs, buffers: Sequence[Tensor]
) -> StepResult:
    state.optimiser.zero_grad()
    whole: Scalars = {}
    if state.parts > 1:
        whole = _counts_before(state, batch, step)
        restore(state, buffers)
    _seed(step)
    sums: Scalars = {}
    for first, part in _cut(batch, state.parts):
        losses, diagnostics, counts = _losses(state, part, step, first=first)
        if counts:
            whole = whole or _over_processes(counts)
            losses = in_whole(losses, counts, whole)
            diagnostics = in_whole(diagnostics, counts, whole)
        total = weighted_sum(losses, step.config)
        torch.autograd.backward(state.scaler.scale(total))
        _add(sums, {_TOTAL: total, **losses, **diagnostics})
    found = [each.grad for each in state.parameters() if each.grad is not None]
    sum_in_place(found)
    # As in DDP, batch normalisation goes on from the statistics of process 0.
    copy_from_first(list(state.student.buffers()))
    state.scaler.unscale_(state.optimiser)
    # Before the last exchange of the step: after it no process may run out of memory.
    norm = get_total_norm(found)
    sums = _over_processes(sums)
    return StepResult(
        total=sums[_TOTAL],
        losses={name: sums[name] for name in losses},
        diagnostics={name: sums[name] for name in diagnostics},
        norm=norm,
        bank=step.bank,
        buffers=buffers,
    )


def _cut(batch: Batch, parts: int) -> Iterator[tuple[int, Batch]]:
    """The parts of this process's share, each with the index of its first image in the step."""
    images = len(batch.row_B)
    ends = [images * part // parts for part in range(parts + 1)]
    for start, stop in pairwise(ends):
        part = batch if stop - start == images else batch.between(start, stop)
        yield processes()[0] * images + start, part


def _losses(
    state: State, part: Batch, step: StepInputs, *, first: int
) -> tuple[Scalars, Scalars, Scalars]:
    """Losses, diagnostics and, where the part is not the whole step, their counts.

    A function of its own, so that the part's feature and scores are freed by the backward pass.
    """
    with state.autocast():
        feature_BDhw = state.forward(part.image_B3HW)
    inputs = _inputs(feature_BDhw, part, step, state, first=first)
    losses, diagnostics = batch_losses(inputs)
    whole = state.parts == 1 and processes()[1] == 1
    return losses, diagnostics, {} if whole else counts_of(inputs)


def _inputs(
    feature_BDhw: Tensor, part: Batch, step: StepInputs, state: State, *, first: int
) -> LossInputs:
    average_BDhw = None
    if step.source == "ema":
        assert state.average is not None
        with torch.no_grad(), state.autocast():
            average_BDhw = state.average(part.image_B3HW)
    return loss_inputs(
        feature_BDhw, part, step, average_BDhw=average_BDhw, decoder=state.decoder, first=first
    )


@torch.no_grad()
def _counts_before(state: State, batch: Batch, step: StepInputs) -> Scalars:
    """The counts of the whole step, known before the gradients of its first part are made.

    They depend on labels and masks only, so a feature of zeros will do, except where pseudo labels
    come from the student itself: then its feature is computed once more for them.
    """
    _seed(step)
    rows, columns = (side // state.stride for side in batch.label_BHW.shape[1:])
    counts: Scalars = {}
    for first, part in _cut(batch, state.parts):
        if step.source == "student":
            with state.autocast():
                feature_BDhw = state.forward(part.image_B3HW)
        else:
            shape = (len(part.row_B), step.classes.text_CD.shape[-1], rows, columns)
            feature_BDhw = torch.zeros(shape, device=state.device)
        _add(counts, counts_of(_inputs(feature_BDhw, part, step, state, first=first)))
    return _over_processes(counts)


def _pool(batch: Batch, config: RunConfig, *, stride: int) -> Pool:
    """The masks that the crops of the step show on the feature grid."""
    assert batch.region_BHW is not None
    assert batch.local_id_BK is not None
    assert batch.local_BKD is not None
    rows, columns = (side // stride for side in config.augmentation.crop)
    code_BHW = mask_codes(batch.label_BHW, batch.region_BHW)
    code_BL = nearest(code_BHW, (rows, columns)).flatten(1)
    visible_BK = (code_BL[:, None] == batch.local_id_BK[:, :, None]).any(2)
    return pool_of(batch.local_id_BK, visible_BK, batch.local_BKD, batch.row_B)


def _seed(step: StepInputs) -> None:
    """Seed dropout by the run's seed, step and process, so that a checkpoint need not save it."""
    purpose = (step.config.train.seed, _DROPOUT, step.number, processes()[0])
    seed = np.random.SeedSequence(purpose).generate_state(1, np.uint64)
    torch.manual_seed(int(seed[0]))


def _add(sums: Scalars, values: Scalars) -> None:
    for name, value in values.items():
        value = value.detach()
        sums[name] = sums[name] + value if name in sums else value


def _over_processes(values: Scalars) -> Scalars:
    """The sum of each value over all processes."""
    if processes()[1] == 1:
        return values
    total = summed(torch.stack([value.double() for value in values.values()]))
    return dict(zip(values, total, strict=True))
