"""What a training step changes: student, optimiser, loss scaler and the random generators."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from stages.train import checkpoint
from stages.train.config import RunConfig, TrainConfig
from stages.train.schedule import learning_rate
from stages.train.student import Student, build_student, parameter_groups

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """The moving parts of one run; torch's global generators, which dropout uses, belong to it."""

    student: Student
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    """Does nothing unless the precision is fp16."""
    base_rates: tuple[float, ...]
    """Learning rate of each group before the schedule."""
    device: torch.device
    precision: torch.dtype
    """Of the student's layers."""


def new_state(
    config: RunConfig, *, width: int, device: torch.device, precision: torch.dtype, weights: bool
) -> State:
    """The state before step 0, from the seed; `weights` False leaves out the encoder's weights."""
    torch.manual_seed(config.train.seed)
    # Channels last: convolutions run faster so, on CPUs and GPUs alike.
    student = (
        build_student(config.student, width, pretrained=weights)
        .to(memory_format=torch.channels_last)
        .to(device)
    )
    groups = parameter_groups(student, config.train)
    return State(
        student=student,
        optimiser=torch.optim.AdamW(groups),
        scaler=torch.amp.GradScaler(device.type, enabled=precision == torch.float16),
        base_rates=tuple(group["lr"] for group in groups),
        device=device,
        precision=precision,
    )


def save_state(run: Path, step: int, state: State) -> Path:
    """Write the checkpoint after `step` steps and return its folder."""
    random = {"cpu": torch.get_rng_state()}
    if state.device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state(state.device)
    training: dict[str, Any] = {
        "optimiser": state.optimiser.state_dict(),
        "scaler": state.scaler.state_dict(),
        "precision": str(state.precision),
        "random": random,
    }
    return checkpoint.save(run, step, student=state.student, training=training)


def load_state(folder: Path, state: State) -> None:
    """Bring a state to where a checkpoint left it; a GPU's generator only if it was on one.

    Warns when the run went on in another precision until then: `auto` follows the device.
    """
    checkpoint.load_weights(folder, state.student)
    training = checkpoint.load_training(folder)
    state.optimiser.load_state_dict(training["optimiser"])
    if training["precision"] != str(state.precision):
        logger.warning(
            "%s: was trained in %s and goes on in %s; train.precision fixes one",
            folder,
            training["precision"],
            state.precision,
        )
    # Only fp16 has a scale, so a run from another precision brings none.
    if training["scaler"]:
        state.scaler.load_state_dict(training["scaler"])
    torch.set_rng_state(training["random"]["cpu"])
    if state.device.type == "cuda" and "cuda" in training["random"]:
        torch.cuda.set_rng_state(training["random"]["cuda"], state.device)


def backward(state: State, total: Tensor) -> Tensor:
    """Put the gradients of the total loss in place; returns their norm, before any clipping."""
    state.optimiser.zero_grad()
    torch.autograd.backward(state.scaler.scale(total))
    state.scaler.unscale_(state.optimiser)
    parameters = state.student.parameters()
    return get_total_norm([each.grad for each in parameters if each.grad is not None])


def update(state: State, step: int, norm: Tensor, config: TrainConfig) -> None:
    """Move the weights: step number `step` of the schedule, with gradients clipped if asked for."""
    for group, base in zip(state.optimiser.param_groups, state.base_rates, strict=True):
        group["lr"] = learning_rate(step, base, config)
    if config.clip_norm is not None:
        clip_grads_with_norm_(state.student.parameters(), config.clip_norm, norm)
    state.scaler.step(state.optimiser)
    state.scaler.update()


def is_finite(state: State) -> bool:
    """Are all weights and buffers of the student finite?"""
    return all(bool(torch.isfinite(each).all()) for each in state.student.state_dict().values())
