"""A plan fits into the memory there is: from a few images and from a data set like COCO-Stuff."""

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.several_processes import together
from helpers.tiny_training import World, make_world, train_tiny_students

from zsseg.stages.errors import ResourceError
from zsseg.stages.machine_memory import Room
from zsseg.stages.train.foretell import memory_check
from zsseg.stages.train.foretell.measure import ShadowRun, shadow_run
from zsseg.stages.train.foretell.memory_check import foretell
from zsseg.stages.train.plan import fitting
from zsseg.stages.train.plan import make_plan as making
from zsseg.stages.train.plan.facts import StoreFacts, store_facts
from zsseg.stages.train.plan.make_plan import agreed_plan, make_plan
from zsseg.stages.train.plan.planned import Decision, TrainingPlan
from zsseg.stages.train.processes import joined_processes
from zsseg.stages.train.run_config import RunConfig

GB = 10**9
CPU = torch.device("cpu")
STEPS = {"train.steps": 5, "train.device": "cpu"}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Several that wait for each other take many times as long for tensors so small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("plan"), images=12)


@pytest.fixture
def coco_stuff(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store passes for one of COCO-Stuff's shape."""

    def facts(*given: Any) -> StoreFacts:
        return replace(
            store_facts(*given),
            images=118_287,
            labelled=118_287,
            size=(480, 640),
            seen=156,
            unseen=15,
            width=512,
        )

    monkeypatch.setattr(making, "store_facts", facts)


def with_memory(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    rooms = (Room(int(free), "a limit of the test"), None)
    monkeypatch.setattr(memory_check, "_rooms", lambda _: rooms)


_RUNS: dict[str, ShadowRun | None] = {}


@pytest.fixture
def measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a student costs does not depend on the memory there is, and takes seconds to measure."""

    def run(config: RunConfig, data: World, *given: Any) -> ShadowRun | None:
        key = f"{config.model_dump_json()} {data.root}"
        if key not in _RUNS:
            _RUNS[key] = shadow_run(config, data, *given)
        return _RUNS[key]

    monkeypatch.setattr(fitting, "shadow_run", run)


def assert_it_fits(plan: TrainingPlan, world: World) -> None:
    config = plan.config()
    run = shadow_run(config, world, CPU, torch.float32)
    assert run is not None
    assert foretell(run, config, world)[0].fits


@pytest.mark.parametrize("free", [4 * GB, 8 * GB, 24 * GB])
@pytest.mark.parametrize("shape", ["few", "coco_stuff"])
def test_a_plan_is_made_at_4_8_and_24_gigabytes(
    world: World,
    free: float,
    shape: str,
    request: pytest.FixtureRequest,
    measured_once: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if shape == "coco_stuff":
        request.getfixturevalue(shape)
    with_memory(monkeypatch, free)
    started = time.process_time()
    plan = make_plan(world, STEPS, minutes=None)
    assert time.process_time() - started < 20
    side = 32 if shape == "few" else 192
    assert plan.values()["augmentation"]["crop"] == [side, side]
    if free == 4 * GB:
        assert_it_fits(plan, world)


def test_less_memory_is_met_by_parts_then_by_smaller_crops_then_refused(
    world: World, coco_stuff: None, measured_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for free in range(1000, 0, -50):
        with_memory(monkeypatch, free * 10**6)
        try:
            plan = make_plan(world, {**STEPS, "train.workers": 0}, minutes=None)
        except ResourceError as error:
            refusal = str(error)
            break
        config, smallest, least = plan.config(), plan, free
        found.append((config.augmentation.crop[0], config.train.accumulate))
    assert re.search("a limit of the test.*smallest way.*--set student.encoder", refusal)
    crops, parts = zip(*found, strict=True)
    assert list(crops) == sorted(crops, reverse=True)
    assert crops[0] == 192
    assert crops[-1] < 192
    assert parts[0] == 1
    assert parts[crops.count(192) - 1] > 1
    assert "192 x 192 would not fit into memory" in str(smallest.lines)
    with_memory(monkeypatch, least * 10**6)
    assert_it_fits(smallest, world)


def test_nothing_changes_that_the_user_has_set(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_tiny_students(monkeypatch)
    with_memory(monkeypatch, 24 * GB)
    given = {
        "student.encoder": "mit_b0",
        "student.weights": "none",
        "augmentation.crop": [64, 64],
        "train.batch": 6,
        "train.accumulate": 1,
        "train.workers": 0,
        "train.precision": "fp32",
        **STEPS,
    }
    plan = make_plan(world, given, minutes=None)
    assert {line.partition(":")[0] for line in plan.lines} == {"method", "schedule", "validation"}
    with_memory(monkeypatch, 1000)
    with pytest.raises(ResourceError, match="6 crops of 64 x 64"):
        make_plan(world, given, minutes=None)


def test_steps_are_those_that_a_measured_step_leaves_time_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_tiny_students(monkeypatch)
    with_memory(monkeypatch, 24 * GB)
    device = {"train.device": "cpu"}
    short, long = (make_plan(world, device, minutes=each).config() for each in (0.001, 600.0))
    assert short.train.steps == 20
    assert long.train.steps > 1000


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_all_processes_have_the_plan_of_the_first(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan(*_: object, minutes: float | None) -> TrainingPlan:
        assert minutes == 0, "only the first plans"
        return TrainingPlan((Decision("steps", "7", {"train.steps": 7}, "why"),), {"train.seed": 3})

    monkeypatch.setattr(making, "make_plan", plan)

    def work(number: int) -> None:
        with joined_processes():
            (tmp_path / str(number)).write_text(agreed_plan(world, {}, minutes=number).text())

    assert together(2, work, tmp_path / "said") == [(0, ""), (0, "")]
    assert (tmp_path / "0").read_text() == (tmp_path / "1").read_text()
    assert "steps: 7" in (tmp_path / "1").read_text()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_where_the_first_cannot_plan_all_end(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> TrainingPlan:
        raise ResourceError("nothing fits")

    monkeypatch.setattr(making, "make_plan", fails)

    def work(_: int) -> None:
        with joined_processes():
            agreed_plan(world, {}, minutes=None)

    (first, said), (second, silent) = together(2, work, tmp_path)
    assert (first, second) == (9, 1)
    assert "nothing fits" in said
    assert not silent


def test_an_unreadable_image_is_not_among_the_labelled(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one without a label would pass for labelled."""
    store = world.store
    read_all, index = type(store).read_all, [dict(entry) for entry in store.index]
    index[-1]["label"] = None
    failed_N = np.zeros(store.rows, np.uint8)
    failed_N[0] = 1
    monkeypatch.setattr(type(store), "index", property(lambda _: index))
    monkeypatch.setattr(
        type(store),
        "read_all",
        lambda self, name: failed_N if name == "status" else read_all(self, name),
    )
    facts = store_facts(store, world.spec)
    assert (facts.images, facts.labelled) == (11, 10)
