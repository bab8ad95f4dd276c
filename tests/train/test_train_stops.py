"""What stops a training, and what it leaves: signals, workers, memory, NaN."""

import multiprocessing
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_training import (
    World,
    config_of,
    make_world,
    metrics_of,
    run,
    weights_of,
)

from zsseg.stages.errors import NonFiniteError, ResourceError
from zsseg.stages.train.losses.batch_losses import Scalars, batch_losses
from zsseg.stages.train.losses.loss_inputs import LossInputs
from zsseg.stages.train.run import checkpoint
from zsseg.stages.train.state import update


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("at", ["step.batch_losses", "state.build_student"])
@pytest.mark.parametrize("kind", ["gpu", "cpu"])
def test_out_of_memory_names_what_to_lower(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, kind: str
) -> None:
    def greedy(*_: Any, **__: Any) -> Any:
        if kind == "cpu":
            torch.empty(2**50)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(f"zsseg.stages.train.{at}", greedy)
    # Of a smaller crop alone the batch normalisations would have a single value.
    config = config_of(augmentation={"crop": (64, 64)})
    with pytest.raises(ResourceError, match=r"memory.*--resume --set student\..*\.crop \(now 64"):
        run(world, tmp_path / "run", config)


def test_a_worker_that_dies_at_any_time_is_explained(world: World, tmp_path: Path) -> None:
    """torch raises from a signal handler: here while nothing is waited for."""
    others = set(multiprocessing.active_children())

    def kill(step: int) -> None:
        if step == 2:
            (worker,) = set(multiprocessing.active_children()) - others
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGKILL)
            time.sleep(10)

    with pytest.raises(ResourceError, match=r"killed by signal.*--resume"):
        run(world, tmp_path / "run", config_of(train={"workers": 1, "steps": 20}), after_step=kill)
    assert checkpoint.load_student(tmp_path / "run")[1] == 2


def test_sigterm_to_the_whole_group_saves_and_stops(world: World, tmp_path: Path) -> None:
    others = set(multiprocessing.active_children())

    def terminate(step: int) -> None:
        if step == 2:
            for each in set(multiprocessing.active_children()) - others:
                assert each.pid is not None
                os.kill(each.pid, signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)  # a dead worker would be noticed

    with pytest.raises(SystemExit, match="143"):
        run(
            world,
            tmp_path / "run",
            config_of(train={"workers": 1, "steps": 20, "checkpoint_every": 100}),
            after_step=terminate,
        )
    assert checkpoint.load_student(tmp_path / "run")[1] == 3


def test_nan_stops_before_the_step(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    calls: list[list[int]] = []

    def broken(inputs: LossInputs) -> tuple[Scalars, Scalars]:
        losses, diagnostics = batch_losses(inputs)
        calls.append(inputs.batch.row_B.tolist())
        if len(calls) == 4:
            losses["focal"] = losses["focal"] * float("nan")
        return losses, diagnostics

    monkeypatch.setattr("zsseg.stages.train.step.batch_losses", broken)
    with pytest.raises(NonFiniteError, match=r"step 3: focal nan, gradient norm nan") as caught:
        run(world, out, config_of(train={"checkpoint_every": 3}))
    store = world[0]
    for row in calls[3]:
        assert str(store.index[row]["id"]) in str(caught.value)
    newest = checkpoint.latest(out)
    assert newest is not None
    assert checkpoint.step_of(newest) == 3
    assert all(value.isfinite().all() for value in weights_of(out).values())


def test_a_scale_cannot_be_blamed_for_ever(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fp16 leaves out a step whose gradient is too large for its scale, but not every step."""

    def steep(inputs: LossInputs) -> tuple[Scalars, Scalars]:
        losses, diagnostics = batch_losses(inputs)
        # The slope of a square root at 0.
        zero = (0 * inputs.feature_BDhw.float()).square().sum().sqrt()
        losses["focal"] = losses["focal"] + zero
        return losses, diagnostics

    monkeypatch.setattr("zsseg.stages.train.step.batch_losses", steep)
    scaler = partial(torch.amp.GradScaler, init_scale=4.0)
    monkeypatch.setattr("zsseg.stages.train.state.torch.amp.GradScaler", scaler)
    # The scale is 4, 2 and 1.
    with pytest.raises(NonFiniteError, match="step 2: gradient norm nan"):
        run(world, tmp_path / "run", config_of(train={"precision": "fp16"}))


def test_non_finite_weights_are_not_saved(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(state: Any, step: int, *rest: Any) -> None:
        update(state, step, *rest)
        if step == 2:
            torch.nn.init.constant_(state.student.projection.bias, float("inf"))

    monkeypatch.setattr("zsseg.stages.train.loop.update", poisoned)
    with pytest.raises(NonFiniteError, match="not finite either: use the checkpoint before"):
        run(world, tmp_path / "run", config_of())
    newest = checkpoint.latest(tmp_path / "run")
    assert newest is not None
    assert checkpoint.step_of(newest) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_ctrl_c_saves_and_stops(world: World, tmp_path: Path, workers: int) -> None:
    config = config_of(train={"checkpoint_every": 100, "workers": workers})

    def interrupt(step: int) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(world, tmp_path / "run", config, after_step=interrupt)
    newest = checkpoint.latest(tmp_path / "run")
    assert newest is not None
    assert checkpoint.step_of(newest) == 3
    assert len(metrics_of(tmp_path / "run")) == 3
