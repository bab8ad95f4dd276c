"""Services that get a run's log: fakes with the signatures that their documents state."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
from helpers.drawn_world import draw_world
from helpers.tiny_training import World, config_of, make_world, train_tiny_students
from helpers.zsseg_command import zsseg
from numpy.typing import NDArray

from zsseg.stages.errors import ResourceError, UserError
from zsseg.stages.evaluate.validator import make_validator
from zsseg.stages.train.loop import TrainExtras, train
from zsseg.stages.train.run.trackers import Service, open_tracker

Calls = list[tuple[Any, ...]]
SERVICES: tuple[Service, ...] = ("wandb", "mlflow", "trackio")


class FakeRun:
    """A run of wandb or trackio."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls

    def finish(self) -> None:
        self.calls.append(("finish",))


class WandBRun(FakeRun):
    def log(
        self,
        data: dict[str, Any],
        step: int | None = None,
        commit: bool | None = None,
    ) -> None:
        self.calls.append(("log", data, step))


class TrackioRun(FakeRun):
    def log(self, metrics: dict[str, Any], step: int | None = None) -> None:
        self.calls.append(("log", metrics, step))


def fake_wandb(calls: Calls) -> ModuleType:
    """https://docs.wandb.ai/ref/python/init"""

    class Image:
        def __init__(
            self,
            data_or_path: NDArray[np.uint8],
            mode: str | None = None,
            caption: str | None = None,
        ) -> None:
            self.shape, self.caption = data_or_path.shape, caption

    def init(
        entity: str | None = None,
        project: str | None = None,
        dir: str | None = None,
        id: str | None = None,
        name: str | None = None,
        notes: str | None = None,
        tags: list[str] | None = None,
        config: dict[str, Any] | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
        resume: bool | Literal["allow", "never", "must", "auto"] | None = None,
    ) -> WandBRun:
        assert id
        assert not set(id) & set("/\\#?%:")
        assert resume == "allow"
        calls.append(("init", project, name, id, config))
        return WandBRun(calls)

    return module("wandb", init=init, Image=Image)


def fake_trackio(calls: Calls) -> ModuleType:
    """https://huggingface.co/docs/trackio; its `init` prints where the run is."""

    class Image:
        def __init__(self, value: NDArray[np.uint8], caption: str | None = None) -> None:
            self.shape, self.caption = value.shape, caption

    def init(
        project: str,
        name: str | None = None,
        group: str | None = None,
        space_id: str | None = None,
        config: dict[str, Any] | None = None,
        resume: str = "never",
        private: bool | None = None,
        embed: bool = True,
    ) -> TrackioRun:
        assert (resume, embed) == ("allow", False)
        sys.stdout.write("* Trackio project initialized")
        calls.append(("init", project, name, name, config))
        return TrackioRun(calls)

    return module("trackio", init=init, Image=Image)


def fake_mlflow(calls: Calls) -> ModuleType:
    """https://mlflow.org/docs/latest/api_reference/python_api/mlflow.html"""
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-. /")
    project: list[str] = []

    def set_experiment(experiment_name: str | None = None) -> None:
        project.append(str(experiment_name))

    def start_run(
        run_id: str | None = None,
        experiment_id: str | None = None,
        run_name: str | None = None,
        nested: bool = False,
    ) -> Any:
        found = run_id or "0123456789abcdef" * 2
        calls.append(("init", project[-1], run_name, found, None))
        return SimpleNamespace(info=SimpleNamespace(run_id=found))

    def log_metrics(metrics: dict[str, float], step: int | None = None) -> None:
        assert all(set(name) <= allowed for name in metrics)
        calls.append(("log", metrics, step))

    def log_image(
        image: NDArray[np.uint8], artifact_file: str | None = None, key: str | None = None
    ) -> None:
        assert artifact_file is not None
        assert set(artifact_file) <= allowed
        calls.append(("log", {artifact_file: SimpleNamespace(shape=image.shape)}, None))

    def log_dict(dictionary: dict[str, Any], artifact_file: str) -> None:
        calls[-1] = (*calls[-1][:-1], dictionary)

    def end_run(status: str = "FINISHED") -> None:
        calls.append(("finish",))

    given = (set_experiment, start_run, log_metrics, log_image, log_dict, end_run)
    return module("mlflow", **{each.__name__: each for each in given})


def module(name: str, **content: Any) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(content)
    return made


FAKES = {"wandb": fake_wandb, "mlflow": fake_mlflow, "trackio": fake_trackio}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What the services were asked; all three are installed."""
    made: Calls = []
    for name, fake in FAKES.items():
        monkeypatch.setitem(sys.modules, name, fake(made))
    return made


@pytest.fixture(autouse=True)
def tiny_students() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        train_tiny_students(patch)
        yield


def world_of(folder: Path) -> World:
    world = make_world(folder)
    draw_world(world.root, split="val", images=2, seed=1)
    return world


def run(world: World, out: Path, service: Service, *, stop_at: int | None = None) -> None:
    config = config_of(
        train={"checkpoint_every": 2, "log_every": 2},
        validation={"every": 2, "pictures": 1},
        evaluate={"short_side": 48, "mode": "whole"},
    )

    def progress(now: Any) -> None:
        if now.step == stop_at:
            raise ConnectionError("killed")

    train(
        config,
        world,
        out=out,
        resume=out.exists(),
        experiment="tiny",
        progress=progress,
        extras=TrainExtras(validation=make_validator, log_to=service),
    )


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_gets_settings_numbers_and_pictures(
    tmp_path: Path, calls: Calls, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    world, out = world_of(tmp_path), tmp_path / "run"
    run(world, out, service)
    first, *logged, last = calls
    assert first[1] == "zsseg"
    assert first[2].startswith("run")
    settings = str(first[-1])
    assert "'every': 2" in settings
    assert str(tmp_path) not in settings, "no path leaves the machine"
    assert last == ("finish",)
    numbers = [(set(values), step) for _, values, step in logged if step is not None]
    assert any({"loss", "grad_norm"} <= names and step == 2 for names, step in numbers)
    assert any(
        {"validation/seen_mIoU", "iou/sky"} <= names and step == 4 for names, step in numbers
    )
    pictures = [
        value
        for _, values, _ in logged
        for name, value in values.items()
        if "validation/scene_000" in name
    ]
    assert [each.shape for each in pictures] == [(48, 192, 3)] * 2
    assert not capsys.readouterr().out


@pytest.mark.parametrize("service", SERVICES)
def test_a_resumed_run_is_the_same_run_there(
    tmp_path: Path, calls: Calls, service: Service
) -> None:
    world, out = world_of(tmp_path), tmp_path / "run"
    with pytest.raises(ConnectionError):
        run(world, out, service, stop_at=3)
    run(world, out, service)
    begun = [call for call in calls if call[0] == "init"]
    assert len(begun) == 2
    assert begun[0][3] == begun[1][3]
    run(world, tmp_path / "other", service)
    if service != "mlflow":  # which gives the ids itself
        assert calls[-1] == ("finish",)
        others = [call[3] for call in calls if call[0] == "init"]
        assert others[2] != others[0]


def test_a_service_that_fails_later_ends_no_training(
    tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("the server is gone")

    monkeypatch.setattr(WandBRun, "log", fail)
    with caplog.at_level(logging.WARNING):
        run(world_of(tmp_path), tmp_path / "run", "wandb")
    assert caplog.text.count("the server is gone") == 1
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def test_one_that_cannot_be_opened_is_told_before_the_first_step(
    tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> None:
        raise RuntimeError("no API key")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    with pytest.raises(ResourceError, match=r"wandb: cannot be opened .*no API key"):
        run(world_of(tmp_path), tmp_path / "run", "wandb")
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_numbers_that_are_none_are_left_out(tmp_path: Path, calls: Calls) -> None:
    tracker = open_tracker("mlflow", tmp_path, {}, resumed=False)
    tracker.numbers(3, {"iou/car|van (all)": 0.5, "iou/sky": float("nan")})
    assert calls[-1] == ("log", {"iou/car_van _all_": 0.5}, 3)


@pytest.mark.parametrize("service", SERVICES)
def test_a_package_that_is_missing_is_told_with_the_command(
    tmp_path: Path, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=rf"pip install 'zsseg\[{service}\]'"):
        open_tracker(service, tmp_path, {}, resumed=False)
    words = ("train", "--cache", tmp_path, "--log-to", service)
    assert zsseg(*words) == 2
    assert f"pip install 'zsseg[{service}]'" in " ".join(capsys.readouterr().err.split())
