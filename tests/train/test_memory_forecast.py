"""Memory is foretold before the first step, from a step without numbers; what fits is offered."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_training import (
    EVERYTHING,
    SMALL,
    World,
    config_of,
    make_world,
    run,
    tiny_student,
    train_tiny_students,
    weights_of,
    with_changes,
)
from torch import Tensor, nn

from zsseg.stages.allocations import Allocations
from zsseg.stages.errors import ResourceError
from zsseg.stages.machine_memory import Room
from zsseg.stages.train.batches.crops import CropDataset
from zsseg.stages.train.batches.known_classes import KnownClasses, make_classes
from zsseg.stages.train.batches.loader import less_empty_slots
from zsseg.stages.train.batches.packing import packed, unpacked
from zsseg.stages.train.foretell import memory_check
from zsseg.stages.train.foretell.dry_run import dry_run
from zsseg.stages.train.foretell.estimate import CropCost, Measured, Wanted, memory_parts
from zsseg.stages.train.foretell.measure import ShadowRun
from zsseg.stages.train.foretell.memory_check import check_memory
from zsseg.stages.train.foretell.offers import offers, smaller_encoders
from zsseg.stages.train.run_config import RunConfig, StudentConfig
from zsseg.stages.train.state import State, new_state
from zsseg.stages.train.step import gradients
from zsseg.stages.train.students.student import Student

MB = 10**6
MEASURED = Measured(
    fixed=10 * MB,
    costs=(CropCost(256 * 256, 40 * MB), CropCost(512 * 512, 180 * MB)),
    loaded=2 * MB,
    batch=3 * MB,
    weights=50 * MB,
    average=0,
    fewest=1,
    multiple=32,
)
WANTED = Wanted(crops=8, parts=1, pixels=512 * 512, workers=2, worker_bytes=100 * MB)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Several that wait for each other take twenty times as long for tensors so small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("forecast"))


CPU = torch.device("cpu")


def shadow(world: World, config: RunConfig) -> ShadowRun:
    return ShadowRun(config, world, CPU, torch.float32)


def begun(world: World, config: RunConfig) -> tuple[State, KnownClasses]:
    text_CD = torch.from_numpy(world.store.read_all("text"))
    state = new_state(
        config, width=text_CD.shape[1], device=CPU, precision=torch.float32, weights=False
    )
    return state, make_classes(world.spec, text_CD, CPU, protocol=config.protocol)


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
        "weights": 50 * MB,
        "gradients": 50 * MB,
        "optimiser": 100 * MB,  # AdamW's two moments
        "crops": (10 + 8 * 180) * MB,
        "between tensors": round(0.15 * 1450 * MB),
        "batch": 24 * MB,
        "loader processes": (2 * 100 + 2 * 2 * 8 * 2) * MB,  # two batches ahead in each
    }
    halves = memory_parts(replace(MEASURED, average=50 * MB), Wanted(8, 2, 512 * 512, 0, 0))
    assert halves["crops"] == (10 + 4 * 180) * MB
    assert halves["weights"] == 100 * MB
    assert halves["loader processes"] == 0
    # A crop so small that the optimiser's own temporaries are more.
    assert memory_parts(MEASURED, Wanted(1, 1, 64 * 64, 0, 0))["crops"] == 100 * MB


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [(512 * 512, 180 * MB), (256 * 256, 40 * MB), (128 * 128, 10 * MB), (384 * 384, 98_333_333)],
)
def test_bytes_of_a_crop_follow_its_pixels(pixels: int, expected: int) -> None:
    assert MEASURED.crop_bytes(pixels) == expected


def real_peak(world: World, config: RunConfig, *, number: int) -> int:
    """Bytes of tensors of a real step, but for gradients."""
    state, classes = begun(world, config)
    dataset = CropDataset(world, config)
    slots = dataset.slots(range(dataset.images))
    crops = [less_empty_slots(dataset[each], slots) for each in range(config.train.batch)]
    batch = unpacked(packed(crops))
    with Allocations() as seen:
        gradients(state, batch, classes, config, number=number, logs=True)
        found = [each.grad for each in state.parameters() if each.grad is not None]
        peak: int = seen.peak(without=found)
    return peak


# With batch normalisation and all objectives; with attention and an average student.
@pytest.mark.parametrize(
    ("changes", "crop"),
    [
        ({"student": {"encoder": "tu-resnet10t"}}, (64, 64)),
        (
            {
                "student": {"architecture": "segformer", "encoder": "mit_b0"},
                "self_training": {"source": "ema", "start": 0.0},
                "latent": {"enabled": False},
            },
            (64, 64),
        ),
    ],
)
def test_a_step_without_numbers_has_the_memory_of_a_real_one(
    world: World, changes: dict[str, Any], crop: tuple[int, int]
) -> None:
    changes = {**changes, "student": {"weights": "none"} | changes.get("student", {})}
    batch = {"augmentation": {"crop": crop}, "train": {"batch": 3, "accumulate": 1}}
    config = with_changes(EVERYTHING, changes, batch)
    run_ = shadow(world, config)
    really = max(real_peak(world, config, number=number) for number in run_._phases)
    (cost,) = run_.as_configured().costs
    assert 3 * cost.bytes == pytest.approx(really, rel=0.05)
    others = run_.for_other_settings()
    assert others.fixed + 3 * others.crop_bytes(crop[0] * crop[1]) == pytest.approx(
        really, rel=0.05
    )
    less = run_._peak((32, 32), 3)
    assert others.fixed + 3 * others.crop_bytes(32 * 32) >= 0.9 * less


ODD = [
    ("dpt", "tu-vit_tiny_patch16_224"),
    ("pan", "tu-mobilenetv3_small_100"),
    ("segnext", "mscan_t"),
]


@pytest.mark.parametrize(("architecture", "encoder"), ODD)
def test_students_of_all_kinds_can_be_foretold(
    world: World, architecture: str, encoder: str
) -> None:
    """They are built, and done a step with, without memory; few have no such way."""
    config = with_changes(
        SMALL,
        {"student": {"architecture": architecture, "encoder": encoder}},
        {"self_training": {"method": "none"}, "augmentation": {"crop": (128, 128)}},
    )
    (cost,) = shadow(world, config).as_configured().costs
    assert cost.bytes > MB


def test_what_cannot_be_foretold_is_trained(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    always_measured: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A student whose layers read numbers, while it is built or while it runs."""

    class Reading(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image * (1.0 if float(image.detach().sum()) > 0 else 2.0)

    def student(config: StudentConfig, width: int, *, pretrained: bool = True) -> Student:
        made = tiny_student(config, width, pretrained=pretrained)
        made.network[2] = Reading()  # type: ignore[operator]
        return made

    monkeypatch.setattr("zsseg.stages.train.state.build_student", student)
    monkeypatch.setattr("zsseg.stages.train.run.checkpoint.build_student", student)
    config = config_of()
    assert check_memory(config, world) is None
    assert "memory is not foretold" in caplog.text
    assert "lower train.batch" in caplog.text
    assert run(world, tmp_path / "run", config).steps == config.train.steps
    assert dry_run(config, world).memory is None


def assert_equal(tensors: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    assert tensors.keys() == others.keys()
    assert all(torch.equal(each, others[name]) for name, each in tensors.items())


@pytest.fixture
def always_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_check, "_surely_fits", lambda *_: False)


def test_foretelling_takes_no_random_numbers(
    world: World, monkeypatch: pytest.MonkeyPatch, always_measured: None
) -> None:
    train_tiny_students(monkeypatch)  # with dropout
    random = torch.get_rng_state()
    assert check_memory(config_of(), world) is not None
    assert torch.equal(torch.get_rng_state(), random)


def test_a_run_is_the_same_bit_for_bit_with_and_without_a_forecast(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, always_measured: None
) -> None:
    train_tiny_students(monkeypatch)
    config = with_changes(EVERYTHING, {"train": {"steps": 2}})
    off, on = (with_train(config, memory_forecast=each) for each in ("off", "refuse"))
    run(world, tmp_path / "off", off)
    run(world, tmp_path / "on", on)
    assert_equal(weights_of(tmp_path / "on"), weights_of(tmp_path / "off"))


def test_what_does_not_fit_is_refused_before_anything_is_written(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, always_measured: None
) -> None:
    train_tiny_students(monkeypatch)
    config = config_of(
        train={"batch": 8, "workers": 0}, augmentation={"short_side": 48, "crop": (64, 64)}
    )
    found, _ = memory_check.foretell(shadow(world, config), config, world)
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
    monkeypatch.setattr(memory_check, "foretell", lambda *_: pytest.fail("it is measured"))
    monkeypatch.setattr(memory_check, "_rooms", rooms_of(10**10))
    assert check_memory(config_of(), world) is None


@pytest.mark.parametrize("free", [700, 500, 400, 320, 250])
def test_every_offer_fits_by_the_same_forecast(free: int) -> None:
    def total(measured: Measured, wanted: Wanted) -> int:
        return sum(memory_parts(measured, wanted).values())

    asked: list[str] = []

    def with_encoder(name: str) -> Measured:
        asked.append(name)
        return Measured(5 * MB, (CropCost(512 * 512, 32 * MB),), MB, MB, 5 * MB, 0, 1, 32)

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
    assert bool(asked) == (free < 442)  # other encoders only where parts are not enough


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
        found = memory_check.TrainForecast(MB, parts, True, rooms)
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
