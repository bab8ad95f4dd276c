"""A step in parts is the step in one go; when memory is short the parts get smaller."""

import logging
import shutil
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_training import (
    EVERYTHING,
    World,
    make_world,
    metrics_of,
    run,
    sure_student,
    tiny_student,
    with_changes,
)
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.utils._python_dispatch import TorchDispatchMode

from zsseg.stages.errors import ResourceError, UserError
from zsseg.stages.train.batches.batch import Batch
from zsseg.stages.train.batches.known_classes import make_classes
from zsseg.stages.train.batches.loader import make_loader
from zsseg.stages.train.losses.batch_losses import Scalars, batch_losses
from zsseg.stages.train.losses.loss_inputs import LossInputs
from zsseg.stages.train.run import checkpoint
from zsseg.stages.train.run_config import RunConfig, StudentConfig
from zsseg.stages.train.state import State, new_state, update
from zsseg.stages.train.step import StepResult, gradients
from zsseg.stages.train.students.student import Student

BUILD = "zsseg.stages.train.state.build_student"
CPU = torch.device("cpu")


def config_of(source: str = "student", **train: Any) -> RunConfig:
    changes: dict[str, Any] = {"train": {"batch": 5} | train, "self_training": {"source": source}}
    return with_changes(EVERYTHING, changes)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def prepared(
    world: World, config: RunConfig, *, precision: torch.dtype = torch.float32
) -> tuple[State, Batch, Any]:
    store, spec, _ = world
    text_CD = torch.from_numpy(store.read_all("text"))
    state = new_state(
        config, width=text_CD.shape[1], device=CPU, precision=precision, weights=False
    )
    batch = next(make_loader(world, config))
    return state, batch, make_classes(spec, text_CD, CPU, protocol=config.protocol)


def one_step(world: World, config: RunConfig, number: int) -> tuple[StepResult, list[Tensor]]:
    state, batch, classes = prepared(world, config)
    outcome = gradients(state, batch, classes, config, number=number, logs=True)
    return outcome, [each.grad for each in state.parameters() if each.grad is not None]


@pytest.mark.parametrize("parts", [2, 3, 5])
@pytest.mark.parametrize(
    ("number", "source"), [(0, "student"), (15, "student"), (15, "ema"), (15, "teacher")]
)
def test_parts_have_losses_and_gradients_of_the_whole(
    world: World, monkeypatch: pytest.MonkeyPatch, number: int, source: str, parts: int
) -> None:
    """Step 0 has latent classes, step 15 pseudo labels, whose number is not known before."""
    monkeypatch.setattr(BUILD, sure_student)
    whole, expected = one_step(world, config_of(source), number)
    outcome, found = one_step(world, config_of(source, accumulate=parts), number)
    assert outcome.numbers() == pytest.approx(whole.numbers(), rel=1e-5)
    assert len(whole.numbers()) >= 10
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


class Watch(TorchDispatchMode):
    """Counts how often a number is asked back from the device."""

    asked = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.asked += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("number", [0, 15])
def test_a_step_asks_no_number_back(
    world: World, monkeypatch: pytest.MonkeyPatch, accumulate: int, number: int
) -> None:
    monkeypatch.setattr(BUILD, tiny_student)
    config = config_of(accumulate=accumulate)
    state, batch, classes = prepared(world, config)
    with Watch() as watch:  # type: ignore[no-untyped-call]
        outcome = gradients(state, batch, classes, config, number=number, logs=False)
    assert watch.asked == 0
    with watch:
        outcome.numbers()
    assert watch.asked > 0


def greedy(images: int, kind: str) -> Any:
    """`batch_losses` for which more than some images are too much."""

    def fake(inputs: LossInputs) -> tuple[Scalars, Scalars]:
        if len(inputs.feature_BDhw) > images and kind == "cpu":
            torch.empty(2**50)
        if len(inputs.feature_BDhw) > images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return batch_losses(inputs)

    return fake


@pytest.mark.parametrize(("kind", "images", "parts"), [("cpu", 3, 2), ("gpu", 1, 5)])
def test_out_of_memory_makes_smaller_parts_of_the_same_batch(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    images: int,
    parts: int,
) -> None:
    monkeypatch.setattr(BUILD, sure_student)
    config = config_of(steps=2)
    run(world, tmp_path / "whole", config)
    monkeypatch.setattr("zsseg.stages.train.step.batch_losses", greedy(images, kind))
    with caplog.at_level(logging.WARNING, logger="zsseg.stages.train.step"):
        run(world, tmp_path / "run", config)
    assert f"train.accumulate={parts} starts with as many parts" in caplog.messages[-1]
    assert len(caplog.messages) == {2: 1, 5: 3}[parts]  # each size is tried once
    found, expected = metrics_of(tmp_path / "run"), metrics_of(tmp_path / "whole")
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_memory_that_ends_after_the_last_part_is_no_second_unscaling(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fp16's scaler unscales once in a step; an attempt may fail after that."""
    monkeypatch.setattr(BUILD, tiny_student)
    left = iter([True])

    def greedy(*given: Any) -> Tensor:
        if next(left, False):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return get_total_norm(*given)

    def norms_and_scale(config: RunConfig) -> list[float]:
        state, batch, classes = prepared(world, config, precision=torch.float16)
        state.scaler.load_state_dict(
            state.scaler.state_dict() | {"scale": 2.0, "_growth_tracker": 7}
        )
        found = []
        for number in range(2):
            outcome = gradients(state, batch, classes, config, number=number, logs=False)
            update(state, number, outcome.norm, config)
            found.append(float(outcome.norm))
        assert state.parts == 2
        kept = state.scaler.state_dict()
        return [*found, kept["scale"], kept["_growth_tracker"]]

    expected = norms_and_scale(config_of(accumulate=2))
    assert expected[2:] == [2.0, 9]
    monkeypatch.setattr("zsseg.stages.train.step.get_total_norm", greedy)
    assert norms_and_scale(config_of(accumulate=1)) == expected


class Normalised(nn.Module):
    """A student's network that counts what its batch normalisation sees."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8, momentum=1.0)

    def forward(self, image_B3HW: Tensor) -> Tensor:
        normalised: Tensor = self.norm(self.conv(image_B3HW))
        return normalised


def normalised_student(_: StudentConfig, width: int, *, pretrained: bool = True) -> Student:
    return Student(Normalised(), channels=8, width=width, multiple=32)


@pytest.mark.parametrize("number", [0, 15])
def test_batch_normalisation_counts_each_part_once(
    world: World, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Neither what counts pseudo labels beforehand nor an attempt that failed leaves a trace."""
    monkeypatch.setattr(BUILD, normalised_student)
    monkeypatch.setattr("zsseg.stages.train.step.batch_losses", greedy(3, "gpu"))
    config = config_of()
    state, batch, classes = prepared(world, config)
    gradients(state, batch, classes, config, number=number, logs=False)
    network = state.student.network
    assert isinstance(network, Normalised)
    assert network.norm.num_batches_tracked is not None
    assert int(network.norm.num_batches_tracked) == state.parts == 2
    with torch.no_grad():
        last_D = network.conv(batch.image_B3HW[2:]).mean((0, 2, 3))
    torch.testing.assert_close(network.norm.running_mean, last_D, rtol=1e-4, atol=1e-5)


def test_more_parts_than_crops_are_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.accumulate: 6 parts of 5 crops"):
        run(world, tmp_path / "run", config_of(accumulate=6))


def test_dropout_depends_on_seed_and_step_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BUILD, tiny_student)

    def loss(number: int, seed: int = 0) -> float:
        config = config_of(seed=seed)
        state, batch, classes = prepared(world, config_of())
        torch.rand(number + 3)  # whatever else the process draws
        return gradients(state, batch, classes, config, number=number, logs=False).numbers()["loss"]

    assert loss(3) == loss(3)
    assert len({loss(3), loss(4), loss(3, seed=1)}) == 3


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore")  # what torch.compile says of itself
def test_a_compiled_student_learns_the_same(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.compiler.reset()  # what other tests compiled decides how shapes are taken
    monkeypatch.setattr(BUILD, sure_student)
    for name, compiled in (("plain", False), ("compiled", True)):
        run(world, tmp_path / name, config_of(steps=2, compile=compiled, batch=2))
    found, expected = metrics_of(tmp_path / "compiled"), metrics_of(tmp_path / "plain")
    assert len(found) == 2
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    left, right = (checkpoint.latest(tmp_path / name) for name in ("plain", "compiled"))
    assert left is not None
    assert right is not None
    names = [load_file(each / "student.safetensors").keys() for each in (left, right)]
    assert names[0] == names[1]


def test_a_missing_compiler_is_explained(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiles(student: nn.Module, *, dynamic: bool) -> Any:
        def forward(_: Tensor) -> Tensor:
            raise RuntimeError("No working C++ compiler found in torch._inductor.config.cpp.cxx")

        return forward

    monkeypatch.setattr(BUILD, sure_student)
    monkeypatch.setattr("zsseg.stages.train.state.torch.compile", compiles)
    with pytest.raises(ResourceError, match=r"train\.compile: .*compiler.*train\.compile=false"):
        run(world, tmp_path / "run", config_of(compile=True))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_parts_in_half_precision_are_near_the_whole(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """The scaler of fp16 sees the gradients of all parts together."""
    monkeypatch.setattr(BUILD, sure_student)
    for parts in (1, 2):
        config = config_of(steps=2, precision=precision, accumulate=parts, batch=4)
        run(world, tmp_path / str(parts), config)
    found, expected = metrics_of(tmp_path / "2"), metrics_of(tmp_path / "1")
    for one, other in zip(found, expected, strict=True):
        if precision == "fp16":  # whose first scales are too large: both leave the step out
            assert not isfinite(one.pop("grad_norm") + other.pop("grad_norm"))
        assert one == pytest.approx(other, rel=0.02)


def test_synchronised_batch_normalisation_needs_gpus(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BUILD, normalised_student)
    prepared(world, config_of(sync_batch_norm=True))  # one process has nothing to synchronise
    monkeypatch.setattr("zsseg.stages.train.state.processes", lambda: (0, 2))
    with pytest.raises(UserError, match=r"sync_batch_norm: torch synchronises .* on GPUs only"):
        prepared(world, config_of(sync_batch_norm=True))


def test_weights_may_lie_either_way_in_memory(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BUILD, sure_student)
    found = []
    for channels_last in (False, True):
        config = config_of(channels_last=channels_last)
        state, _, _ = prepared(world, config)
        weight = next(each for each in state.student.parameters() if each.ndim == 4)
        assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last
        found.append(one_step(world, config, 0)[0].numbers())
    assert found[0] == pytest.approx(found[1], rel=1e-4)
