"""What a training step changes: networks, bank, optimiser and loss scaler, also on disk."""

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_

from zsseg.stages.errors import UserError
from zsseg.stages.train.losses.contrast import Bank, empty_bank
from zsseg.stages.train.losses.latent import LatentDecoder
from zsseg.stages.train.processes import processes
from zsseg.stages.train.run import checkpoint
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.train.schedule import learning_rate
from zsseg.stages.train.students.student import (
    Student,
    build_student,
    feature_stride,
    parameter_groups,
)

logger = logging.getLogger(__name__)


@dataclass
class State:
    """All that the steps of a run change. No generator of random numbers: each step has a seed."""

    student: Student
    forward: Callable[[Tensor], Tensor]
    """The student, compiled where `train.compile` is set."""
    decoder: LatentDecoder | None
    """Makes latent embeddings; no part of the student that is exported."""
    average: Student | None
    """Exponential moving average of the student, where it gives pixels pseudo labels."""
    bank: Bank
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    """Does nothing unless the precision is fp16."""
    base_rates: tuple[float, ...]
    """Learning rate of each group before the schedule."""
    device: torch.device
    precision: torch.dtype
    """Of the student's layers."""
    stride: int
    """Pixels between two positions of the student's feature."""
    parts: int
    """Into how many parts a process divides its share of a step; more than configured after memory
    was short."""

    def autocast(self) -> torch.autocast:
        """The context in which a student runs."""
        mixed = self.precision != torch.float32
        return torch.autocast(self.device.type, self.precision, enabled=mixed)

    def parameters(self) -> list[Tensor]:
        """Everything that is learnt."""
        decoder = [] if self.decoder is None else self.decoder.parameters()
        return [*self.student.parameters(), *decoder]


def new_state(
    config: RunConfig, *, width: int, device: torch.device, precision: torch.dtype, weights: bool
) -> State:
    """The state before step 0, from the seed; `weights` False leaves out the encoder's weights."""
    torch.manual_seed(config.train.seed)
    student = build_student(config.student, width, pretrained=weights)
    if config.train.channels_last:
        student = student.to(memory_format=torch.channels_last)
    if config.train.sync_batch_norm and processes()[1] > 1:
        if device.type == "cpu":
            raise UserError(
                "train.sync_batch_norm: torch synchronises batch normalisation on GPUs only. Use "
                "--set train.sync_batch_norm=false, or a student without batch normalisation"
            )
        student = nn.SyncBatchNorm.convert_sync_batchnorm(student)
    student = student.to(device)
    # After the student, whose initial weights must not depend on what else is trained.
    decoder = LatentDecoder(width, config.latent).to(device) if config.latent.enabled else None
    average = None
    if config.uses_average:
        average = copy.deepcopy(student).requires_grad_(False).eval()
    groups = parameter_groups(student, decoder, config.train)
    return State(
        student=student,
        # Batches have few sizes. Code for each is faster than code for any size, which torch 2.14
        # cannot compile for every student.
        forward=torch.compile(student, dynamic=False) if config.train.compile else student,
        decoder=decoder,
        average=average,
        bank=empty_bank(width, device),
        optimiser=torch.optim.AdamW(groups),
        scaler=torch.amp.GradScaler(device.type, enabled=precision == torch.float16),
        base_rates=tuple(group["lr"] for group in groups),
        device=device,
        precision=precision,
        stride=feature_stride(student),
        parts=config.train.accumulate,
    )


def save_state(
    run: Path, step: int, state: State, *, validation: Mapping[str, Any] | None = None
) -> Path:
    """Write the checkpoint after `step` steps, with `validation`, and return its folder."""
    training: dict[str, Any] = {
        "optimiser": state.optimiser.state_dict(),
        "scaler": state.scaler.state_dict(),
        "precision": str(state.precision),
        "bank": {"token": state.bank.token_MD, "row": state.bank.row_M},
    }
    if state.decoder is not None:
        training["decoder"] = state.decoder.state_dict()
    if state.average is not None:
        training["average"] = state.average.state_dict()
    return checkpoint.save(
        run, step, student=state.student, training=training, validation=validation
    )


def load_state(folder: Path, state: State) -> None:
    """Load a checkpoint into a state.

    Warns when it was trained in another precision: `auto` depends on the device.
    """
    checkpoint.load_weights(folder, state.student)
    training = checkpoint.load_training(folder)
    state.optimiser.load_state_dict(training["optimiser"])
    if training["precision"] != str(state.precision):
        logger.warning(
            "%s: was trained in %s and now continues in %s; set train.precision to keep one",
            folder,
            training["precision"],
            state.precision,
        )
    # Only fp16 has a scale, so a run from another precision brings none.
    if training["scaler"]:
        state.scaler.load_state_dict(training["scaler"])
    bank = training["bank"]
    state.bank = Bank(bank["token"].to(state.device), bank["row"].to(state.device))
    for module, name in ((state.decoder, "decoder"), (state.average, "average")):
        if module is not None:
            module.load_state_dict(training[name])


def update(state: State, step: int, norm: Tensor, config: RunConfig) -> None:
    """Take the optimiser's step number `step`, with clipped gradients if so configured."""
    for group, base in zip(state.optimiser.param_groups, state.base_rates, strict=True):
        group["lr"] = learning_rate(step, base, config.train)
    if config.train.clip_norm is not None:
        clip_grads_with_norm_(state.parameters(), config.train.clip_norm, norm)
    state.scaler.step(state.optimiser)
    state.scaler.update()
    if state.average is not None:
        update_average(
            state.average, state.student, decay=config.self_training.ema_decay, step=step
        )


@torch.no_grad()
def update_average(average: nn.Module, student: nn.Module, *, decay: float, step: int) -> None:
    """Move an average towards the student after a step; integers are copied.

    average = d average + (1 - d) student with d = min(decay, (step + 1) / (step + 10)): the student
    changes much in its first steps, which should soon have no weight in the average.
    """
    decay = min(decay, (step + 1) / (step + 10))
    kept, now = average.state_dict().values(), student.state_dict().values()
    pairs = list(zip(kept, now, strict=True))
    numbers = [pair for pair in pairs if pair[0].is_floating_point()]
    counts = [pair for pair in pairs if not pair[0].is_floating_point()]
    # All tensors in a few kernels, as in the optimiser.
    torch._foreach_lerp_([a for a, _ in numbers], [b for _, b in numbers], 1 - decay)
    if counts:
        torch._foreach_copy_([a for a, _ in counts], [b for _, b in counts])


def is_finite(state: State) -> bool:
    """Are all weights and buffers of the student finite?"""
    return all(bool(torch.isfinite(each).all()) for each in state.student.state_dict().values())
