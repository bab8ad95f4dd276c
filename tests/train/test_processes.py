"""One training by several processes learns what one process learns, and they end together."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.several_processes import together
from helpers.tiny_training import (
    EVERYTHING,
    World,
    make_world,
    metrics_of,
    run,
    sure_student,
    what_was_learnt,
    with_changes,
)
from torch import nn

from zsseg.stages.data.images import read_image
from zsseg.stages.errors import DatasetError
from zsseg.stages.train import step
from zsseg.stages.train.capture import replay
from zsseg.stages.train.losses.batch_losses import Scalars, batch_losses
from zsseg.stages.train.losses.loss_inputs import LossInputs
from zsseg.stages.train.processes import joined_processes, processes
from zsseg.stages.train.run import checkpoint
from zsseg.stages.train.run.run_folder import read_record
from zsseg.stages.train.run_config import RunConfig, StudentConfig
from zsseg.stages.train.state import State, update
from zsseg.stages.train.students.student import Student, build_student

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

BUILD = "zsseg.stages.train.state.build_student"


def config_of(**train: Any) -> RunConfig:
    return with_changes(EVERYTHING, {"train": train})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def without_dropout(*given: Any, **options: Any) -> Student:
    """mit_b0 with fpn: neither has a batch normalisation, which would see other crops."""
    student = build_student(*given, **options)
    for each in student.modules():
        assert not isinstance(each, nn.modules.batchnorm._BatchNorm)
        if isinstance(each, nn.modules.dropout._DropoutNd):
            each.p = 0.0
        elif hasattr(each, "drop_prob"):
            setattr(each, "drop_prob", 0.0)  # noqa: B010 (a module's attributes are Tensors to mypy)
    return student


def close(out: Path, whole: Path) -> None:
    """Has a run the losses of another to 1e-5, in all of its steps?"""
    found, expected = metrics_of(out), metrics_of(whole)
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            # A norm sums the rounding of millions of gradients.
            rel = 1e-4 if name == "grad_norm" else 1e-5
            assert value == pytest.approx(other[name], rel=rel, abs=1e-6), (name, other["step"])


def test_two_processes_have_the_losses_of_one(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every objective, twenty steps: latent classes in the first ten, then pseudo labels."""
    monkeypatch.setattr(BUILD, without_dropout)
    whole, out = tmp_path / "whole", tmp_path / "two"
    run(world, whole, config_of())
    lines = metrics_of(whole)
    assert sum(line["latent_classes"] for line in lines[:10]) > 1
    assert 0 < lines[-1]["pseudo_label_share"] <= 1
    assert {"tie", "nel", "dense", "sdd", "global_distillation", "local_distillation"} < set(
        lines[0]
    )

    def work(_: int) -> None:
        run(world, out, config_of())

    assert together(2, work, tmp_path / "message") == [(0, ""), (0, "")]
    close(out, whole)


class Normalised(nn.Module):
    """A student's network with batch normalisation and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.2)
        )

    def forward(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        decoded: torch.Tensor = self.layers(image_B3HW)
        return decoded


def normalised_student(_: StudentConfig, width: int, *, pretrained: bool = True) -> Student:
    """Its first weights are other ones in every process, as on other machines."""
    if processes()[0]:
        torch.manual_seed(processes()[0])
    return Student(Normalised(), channels=8, width=width, multiple=32)


def test_two_processes_in_parts_resume_as_they_were(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, batch normalisation, an average, and three crops each in two parts.

    Bit for bit, in both processes: what the second one has at the end is what the first one saved.
    """
    monkeypatch.setattr(BUILD, normalised_student)
    changes = {"batch": 6, "accumulate": 2, "checkpoint_every": 4, "steps": 12}
    config = with_changes(
        EVERYTHING, {"train": changes, "self_training": {"source": "ema", "start": 0.3}}
    )
    whole, broken = tmp_path / "whole", tmp_path / "broken"

    def noted(state: State, *given: Any) -> None:
        update(state, *given)
        tensors = {f"student.{name}": each for name, each in state.student.state_dict().items()}
        assert state.average is not None
        tensors |= {f"average.{name}": each for name, each in state.average.state_dict().items()}
        torch.save(tensors, tmp_path / f"after-{processes()[0]}.pt")

    monkeypatch.setattr("zsseg.stages.train.loop.update", noted)

    def both(out: Path, **how: Any) -> list[tuple[int, str]]:
        return together(2, lambda _: void(run(world, out, config, **how)), tmp_path / "message")

    assert both(whole) == [(0, ""), (0, "")]
    first, second = (torch.load(tmp_path / f"after-{number}.pt") for number in range(2))
    assert first.keys() == second.keys()
    for name, each in first.items():
        assert torch.equal(each, second[name]), name
    assert both(broken, stop_at=9) == [(9, "ConnectionError: killed\n"), (1, "")]
    assert both(broken, resume=True) == [(0, ""), (0, "")]
    assert metrics_of(broken) == metrics_of(whole)
    (line,) = (broken / "resumed.jsonl").read_text().splitlines()
    assert json.loads(line)["processes"] == read_record(whole).processes == 2
    assert what_was_learnt(broken) == what_was_learnt(whole)


def void(_: object) -> None:
    """Nothing."""


def ended(
    world: World,
    tmp_path: Path,
    *,
    prepare: Callable[[int], None] = void,
    after_step: Callable[[int, int], None] = lambda number, step: None,
    **train: Any,
) -> list[tuple[int, str]]:
    """How two processes end, of which each prepares, and does something after each step."""

    def work(number: int) -> None:
        prepare(number)
        with joined_processes():  # as the command does before the training does
            run(
                world,
                tmp_path / "run",
                config_of(**train),
                after_step=lambda step: after_step(number, step),
            )

    return together(2, work, tmp_path / "message")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BUILD, sure_student)


@pytest.mark.usefixtures("tiny")
def test_a_file_that_one_cannot_read_ends_both_with_one_message(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(number: int) -> None:
        calls = []

        def failing(path: Path) -> Any:
            calls.append(path)
            if number == 1 and len(calls) == 6:
                raise DatasetError(f"{path}: gone")
            return read_image(path)

        monkeypatch.setattr("zsseg.stages.train.batches.crops.read_image", failing)

    (first, message), (second, why) = ended(world, tmp_path, prepare=prepare)
    assert (first, message, second) == (1, "", 9)
    assert why.startswith("DatasetError")
    assert why.count("\n") == 1


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("number", [0, 1])
def test_a_signal_to_one_stops_both_after_the_same_step(
    world: World, tmp_path: Path, number: int
) -> None:
    def after_step(own: int, step: int) -> None:
        if step == 3 and own == number:
            os.kill(os.getpid(), signal.SIGTERM)

    codes = [code for code, _ in ended(world, tmp_path, after_step=after_step)]
    assert all(codes)
    newest = checkpoint.latest(tmp_path / "run")
    assert newest is not None
    assert checkpoint.step_of(newest) == 4
    assert len(metrics_of(tmp_path / "run")) == 4


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("number", [0, 1])
def test_a_killed_process_is_missed(world: World, tmp_path: Path, number: int) -> None:
    def after_step(own: int, step: int) -> None:
        if step == 3 and own == number:
            os.kill(os.getpid(), signal.SIGKILL)

    found = ended(world, tmp_path, after_step=after_step)
    assert found[number] == (-signal.SIGKILL, "")
    code, message = found[1 - number]
    assert code != 0
    if number == 1:  # else the first process, which speaks for all, is the one that is gone
        assert message.startswith("ResourceError: another of the 2 processes is gone")


@pytest.mark.usefixtures("tiny")
def test_a_batch_that_does_not_divide_is_reported_once(world: World, tmp_path: Path) -> None:
    (first, message), second = ended(world, tmp_path, batch=5)
    assert first == 9
    assert message == (
        "UserError: train.batch: 5 crops do not divide among 2 processes. Use a multiple of 2, "
        "such as 6, or another number of processes\n"
    )
    assert second == (1, "")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("at", ["batch_losses", "get_total_norm"])
def test_too_little_memory_in_one_makes_smaller_parts_of_both(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    run(world, tmp_path / "whole", config_of(steps=4))

    def prepare(number: int) -> None:
        original, fails = getattr(step, at), iter([number == 1])

        def greedy(*given: Any, **options: Any) -> Any:
            if next(fails, False):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return original(*given, **options)

        monkeypatch.setattr(step, at, greedy)

    (first, message), (second, why) = ended(world, tmp_path, prepare=prepare, steps=4)
    assert (first, second) == (0, 0), message + why
    close(tmp_path / "run", tmp_path / "whole")


@pytest.mark.usefixtures("tiny")
def test_nan_in_one_is_caught_by_all_and_replayed_by_one(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(number: int) -> None:
        calls = []

        def broken(inputs: LossInputs) -> tuple[Scalars, Scalars]:
            losses, diagnostics = batch_losses(inputs)
            calls.append(number)
            if number == 1 and len(calls) == 3:
                losses["sdd"] = losses["sdd"] * float("nan")
            return losses, diagnostics

        monkeypatch.setattr("zsseg.stages.train.step.batch_losses", broken)

    (first, message), second = ended(world, tmp_path, prepare=prepare)
    assert first == 9
    assert message.startswith("NonFiniteError: step 2: sdd nan, gradient norm nan, with the images")
    assert second == (1, "")
    config = config_of()
    done = replay(tmp_path / "run" / "non_finite" / "step-000002.json", config)
    assert len(done.images) == config.train.batch
    assert done.bad == []  # the loss was spoilt by hand
    run(world, tmp_path / "whole", config_of(steps=20), stop_at=None)
    expected = metrics_of(tmp_path / "whole")[2]
    for name, value in done.losses.items():
        name = {"total": "loss", "gradient norm": "grad_norm"}.get(name, name)
        assert value == pytest.approx(expected[name], rel=1e-4), name
