"""Memory is foretold before the first step: measured small, reckoned up, refused with what fits."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_training import (
    EVERYTHING,
    World,
    config_of,
    make_world,
    run,
    train_tiny_students,
    weights_of,
    with_changes,
)
from torch import Tensor

from zsseg.stages.allocations import Allocations
from zsseg.stages.errors import ResourceError
from zsseg.stages.machine_memory import Room
from zsseg.stages.train.batches.known_classes import KnownClasses, make_classes
from zsseg.stages.train.foretell import measure as measuring
from zsseg.stages.train.foretell import memory_check
from zsseg.stages.train.foretell.estimate import CropCost, Measured, Wanted, memory_parts
from zsseg.stages.train.foretell.measure import measure
from zsseg.stages.train.foretell.memory_check import check_memory
from zsseg.stages.train.foretell.offers import offers, smaller_encoders
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.train.state import State, new_state

MB = 10**6
MEASURED = Measured(
    fixed=10 * MB,
    fixed_seconds=0.5,
    costs=(CropCost(128 * 128, 10 * MB, 0.1), CropCost(256 * 256, 40 * MB, 0.4)),
    loaded=2 * MB,
    batch=3 * MB,
    weights=50 * MB,
    optimiser=0,
    fewest=1,
    multiple=32,
)
WANTED = Wanted(crops=8, parts=1, pixels=512 * 512, workers=2, worker_bytes=100 * MB)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("forecast"))


def begun(world: World, config: RunConfig) -> tuple[State, KnownClasses]:
    text_CD = torch.from_numpy(world.store.read_all("text"))
    state = new_state(
        config,
        width=text_CD.shape[1],
        device=torch.device("cpu"),
        precision=torch.float32,
        weights=False,
    )
    return state, make_classes(world.spec, text_CD, state.device, protocol=config.protocol)


def rooms_of(free: int) -> Any:
    return lambda _: (Room(free, "a limit of the test"), None)


def test_allocations_are_counted_while_they_live() -> None:
    with Allocations() as seen:
        first = torch.ones(1000)  # 4,000 bytes
        second = first * 2  # 4,000 more
        del first
        third = second.view(10, 100)  # no memory of its own
        fourth = torch.cat([third, third])  # 8,000
    assert seen.peak() == 12_000
    assert seen.peak(without=[fourth]) == 8_000
    assert seen.peak(without=[fourth, second]) == 4_000


def test_the_backward_pass_is_counted_and_gradients_are_left_out_on_request() -> None:
    weight_DD = torch.ones(500, 500, requires_grad=True)  # 1 MB, before
    with Allocations() as seen:
        (torch.ones(10, 500) @ weight_DD).sum().backward()
    assert weight_DD.grad is not None
    assert seen.peak() >= 1_000_000
    assert seen.peak(without=[weight_DD.grad]) < 200_000


def test_memory_is_what_the_parts_add_up_to() -> None:
    parts = memory_parts(MEASURED, WANTED)
    assert parts == {
        "gradients": 50 * MB,
        "optimiser": 100 * MB,  # AdamW's two moments
        "crops": (10 + 8 * 160) * MB,  # 40 MB at a quarter of the pixels
        "between tensors": round(0.15 * 1290 * MB),
        "batch": 24 * MB,
        "loader processes": (2 * 100 + 2 * 2 * 8 * 2) * MB,  # two batches ahead in each
    }
    halves = memory_parts(MEASURED, Wanted(8, 2, 512 * 512, 0, 0))
    assert halves["crops"] == (10 + 4 * 160) * MB
    assert halves["loader processes"] == 0
    assert MEASURED.step_seconds(WANTED) == pytest.approx(0.5 + 8 * 1.6)
    # A crop so small that the optimiser's own temporaries are more.
    assert memory_parts(MEASURED, Wanted(1, 1, 64 * 64, 0, 0))["crops"] == 100 * MB


@pytest.mark.parametrize(
    ("points", "pixels", "expected"),
    [
        ([(100, 1000)], 400, 4000),  # as the pixels
        ([(100, 1000), (200, 2000)], 400, 4000),
        ([(100, 1100), (200, 2400)], 400, 5600),  # 10 p + p^2 / 100
        ([(100, 1000), (200, 1800)], 400, 3600),  # never less than straight on
        ([(100, 1000), (200, 3000)], 150, 2000),  # between two
        ([(100, 1000), (200, 3000)], 50, 500),
    ],
)
def test_bytes_of_a_crop_follow_its_pixels(
    points: list[tuple[int, int]], pixels: int, expected: int
) -> None:
    costs = tuple(CropCost(each, size, 0.0) for each, size in points)
    measured = Measured(0, 0.0, costs, 0, 0, 0, 0, 1, 32)
    assert measured.crop_bytes(pixels) == pytest.approx(expected)


def test_a_measured_step_grows_with_crops_and_pixels_as_reckoned(world: World) -> None:
    config = with_changes(EVERYTHING, {"augmentation": {"crop": (128, 128)}})
    state, classes = begun(world, config)
    found = measure(state, world, classes, config, free=None, patience=float("inf"))
    assert [each.pixels for each in found.costs] == [32 * 32, 64 * 64, 128 * 128]
    bench = measuring._Bench(state, world, classes, config)
    number = bench.phases[-1]
    for crops, size in ((4, (128, 128)), (3, (64, 64))):
        really = max(bench.step(size, crops, each).bytes for each in (0, number))
        reckoned = found.fixed + crops * found.crop_bytes(size[0] * size[1])
        assert reckoned == pytest.approx(really, rel=0.1)


def test_larger_crops_are_not_tried_where_they_may_not_fit(world: World) -> None:
    config = config_of(augmentation={"short_side": 48, "crop": (128, 128)})
    state, classes = begun(world, config)
    found = measure(state, world, classes, config, free=1, patience=float("inf"))
    assert [each.pixels for each in found.costs] == [32 * 32]
    found = measure(state, world, classes, config, free=None, patience=0.0)
    assert [each.pixels for each in found.costs] == [32 * 32]


def assert_equal(tensors: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    assert tensors.keys() == others.keys()
    assert all(torch.equal(each, others[name]) for name, each in tensors.items())


def test_measuring_changes_nothing(world: World) -> None:
    config = with_changes(
        EVERYTHING, {"student": {"encoder": "resnet18"}}, {"self_training": {"source": "ema"}}
    )
    state, classes = begun(world, config)
    before = copy.deepcopy(state.student.state_dict())  # with batch normalisation's statistics
    average = copy.deepcopy(state.average.state_dict()) if state.average else {}
    bank, random = state.bank, torch.get_rng_state()
    flags = (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic)
    measure(state, world, classes, config, free=None)
    assert_equal(state.student.state_dict(), before)
    assert state.average is not None
    assert_equal(state.average.state_dict(), average)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(each.grad is None for each in state.parameters())
    assert not state.optimiser.state
    assert (state.bank, state.parts) == (bank, config.train.accumulate)
    assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic) == flags


@pytest.fixture
def always_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_check, "_surely_fits", lambda *_: False)


def test_a_run_is_the_same_bit_for_bit_with_and_without_a_forecast(
    world: World, tmp_path: Path, always_measured: None
) -> None:
    config = with_changes(EVERYTHING, {"student": {"encoder": "resnet18"}}, {"train": {"steps": 2}})
    off, on = (with_train(config, memory_forecast=each) for each in ("off", "refuse"))
    run(world, tmp_path / "off", off)
    run(world, tmp_path / "on", on)
    assert_equal(weights_of(tmp_path / "on"), weights_of(tmp_path / "off"))


def test_what_does_not_fit_is_refused_before_anything_is_written(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, always_measured: None
) -> None:
    config = config_of(
        train={"batch": 8, "workers": 0}, augmentation={"short_side": 48, "crop": (64, 64)}
    )
    state, classes = begun(world, config)
    found, _ = memory_check.foretell(state, world, classes, config)
    one_crop = (found.parts["crops"] + found.parts["batch"]) // 8
    free = sum(found.parts.values()) - 2 * one_crop
    monkeypatch.setattr(memory_check, "_rooms", rooms_of(free))
    with pytest.raises(ResourceError) as refusal:
        run(world, tmp_path / "run", config)
    text = str(refusal.value)
    assert "foretold before the first step" in text
    assert "8 crops of 64 x 64" in text
    assert "a limit of the test" in text
    assert "--set train.accumulate=2 (the same result)" in text
    assert "--set train.memory_forecast=warn" in text
    assert not (tmp_path / "run" / "run.json").exists()
    done = run(world, tmp_path / "run", with_train(config, accumulate=2))
    assert done.steps == config.train.steps


def with_train(config: RunConfig, **changes: Any) -> RunConfig:
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


def test_one_may_go_on_anyway(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    always_measured: None,
) -> None:
    train_tiny_students(monkeypatch)
    monkeypatch.setattr(memory_check, "_rooms", rooms_of(10_000))
    run(world, tmp_path / "run", with_train(config_of(), memory_forecast="warn"))
    assert "foretold before the first step" in caplog.text
    monkeypatch.setattr(memory_check, "foretell", lambda *_: pytest.fail("it is measured"))
    run(world, tmp_path / "other", with_train(config_of(), memory_forecast="off"))


def test_what_surely_fits_is_not_measured(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    state, classes = begun(world, config_of())
    monkeypatch.setattr(memory_check, "foretell", lambda *_: pytest.fail("it is measured"))
    monkeypatch.setattr(memory_check, "_rooms", rooms_of(10**10))
    assert check_memory(state, world, classes, config_of()) is None


@pytest.mark.parametrize("free", [700, 500, 400, 320, 250])
def test_every_offer_fits_by_the_same_forecast(free: int) -> None:
    def total(measured: Measured, wanted: Wanted) -> int:
        return sum(memory_parts(measured, wanted).values())

    asked: list[str] = []

    def with_encoder(name: str) -> Measured:
        asked.append(name)
        return Measured(5 * MB, 0.0, (CropCost(128 * 128, 2 * MB, 0.1),), MB, MB, 5 * MB, 0, 1, 32)

    config = RunConfig.model_validate({"train": {"batch": 8, "workers": 2}})
    made = list(
        offers(
            MEASURED,
            WANTED,
            config,
            fits=lambda measured, wanted: total(measured, wanted) <= free * MB,
            with_encoder=with_encoder,
        )
    )
    assert made
    for offer in made:
        measured, wanted = MEASURED, WANTED
        for setting in offer.replace(" (the same result)", "").split("--set ")[1:]:
            name, value = setting.strip().split("=")
            match name:
                case "train.accumulate":
                    wanted = changed(wanted, parts=int(value))
                case "train.batch":
                    wanted = changed(wanted, crops=int(value))
                case "train.workers":
                    wanted = changed(wanted, workers=int(value))
                case "augmentation.crop":
                    height, width = (int(side) for side in value.strip("[]").split(","))
                    wanted = changed(wanted, pixels=height * width)
                case "student.encoder":
                    measured = with_encoder(value)
        assert total(measured, wanted) <= free * MB, offer
    assert bool(asked) == (free < 360)  # other encoders only where parts are not enough


def changed(wanted: Wanted, **values: int) -> Wanted:
    return replace(wanted, **values)


def test_a_gpu_is_asked_for_its_own_part() -> None:
    parts = memory_parts(MEASURED, WANTED)
    loaders = parts["loader processes"]
    own = sum(parts.values()) - loaders
    for gpu, host, fits in (
        (own, loaders, True),
        (own - 1, loaders, False),
        (own, loaders - 1, False),
    ):
        rooms = (Room(host, "machine"), Room(gpu, "GPU"))
        found = memory_check.TrainForecast(MB, parts, True, rooms, 1.0)
        assert found.fits == fits
        assert found.peak == MB + loaders


def test_smaller_encoders_are_of_the_same_kind() -> None:
    assert smaller_encoders("mit_b2") == ("mit_b1", "mit_b0")
    assert smaller_encoders("vit_base_patch16_384") == [
        "vit_small_patch16_384",
        "vit_tiny_patch16_384",
    ]
    assert smaller_encoders("resnet18") == ()
    assert smaller_encoders("tu-mobilenetv3") == []
