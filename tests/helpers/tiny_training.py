"""A run of a few steps on the drawn world of conftest, with the store of tiny_store."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from helpers.drawn_world import draw_world
from helpers.random_store import write_store
from zsseg.stages.data.spec import load_spec
from zsseg.stages.train.batches.training_data import TrainingData
from zsseg.stages.train.loop import TrainExtras, TrainProgress, TrainResult, train
from zsseg.stages.train.run import checkpoint
from zsseg.stages.train.run_config import RunConfig, StudentConfig
from zsseg.stages.train.students.student import Student
from zsseg.stages.train.validation import MakeValidator

# Every objective, first with latent classes and then with pseudo labels.
EVERYTHING: dict[str, Any] = {
    "student": {"architecture": "fpn", "encoder": "mit_b0", "weights": "none"},
    "objectives": {
        "cross_entropy_balance": 0.5,
        "focal": 0.5,
        "nel": 0.1,
        "sdd": 1.0,
        "global_distillation": 1.0,
        "bank": 10,
        "local_distillation": 1.0,
        "local_negatives": "batch",
        "dense": 1.0,
        "dense_relation": 1.0,
        "dense_stride": 8,
    },
    "latent": {"enabled": True, "heads": 2, "layers": 1, "tie": 1.0},
    "self_training": {"method": "rst", "start": 0.5},
    "augmentation": {"short_side": 48, "crop": (32, 32)},
    "train": {
        "steps": 20,
        "batch": 4,
        "workers": 0,
        "warmup_steps": 0,
        "log_every": 1,
        "checkpoint_every": 100,
        "device": "cpu",
        "learning_rate": 2e-5,
        "head_multiplier": 1.0,
    },
}

# fpn has dropout: a resumed run must draw on where the first one stopped.
SMALL: dict[str, dict[str, Any]] = {
    "student": {
        "architecture": "fpn",
        "encoder": "tu-mobilenetv3_small_050",
        "weights": "none",
    },
    "objectives": {"focal": 0.5, "sdd": 1.0},
    "self_training": {"method": "rst", "start": 0.5},
    "augmentation": {"short_side": 48, "crop": (32, 32)},
    "train": {
        "steps": 4,
        "batch": 2,
        "workers": 0,
        "warmup_steps": 0,
        "log_every": 1,
        "checkpoint_every": 2,
        "device": "cpu",
        "learning_rate": 1e-3,
    },
}

World = TrainingData
Sections = dict[str, Any]

FROM_THE_CLOCK = {"images_per_second", "data_wait", "cache_mb_per_second"}
"""What a log line says that another run of the same need not."""


def make_world(folder: Path, *, images: int = 6) -> World:
    """A data set and its store in `folder`."""
    description = draw_world(folder / "world", images=images)
    store = write_store(folder / "store", description)
    return TrainingData(store, load_spec(str(description)), description.parent)


def with_changes(base: Sections, *changes: Sections) -> RunConfig:
    """A configuration: `base` with the sections of `changes` laid over it."""
    values = dict(base)
    for change in changes:
        for name, section in change.items():
            old = values.get(name, {})
            values[name] = old | section if isinstance(section, dict) else section
    return RunConfig.model_validate(values)


def config_of(**sections: dict[str, Any]) -> RunConfig:
    """`SMALL` with the sections laid over it."""
    return with_changes(SMALL, sections)


def tiny_student(_: StudentConfig, width: int, *, pretrained: bool = True) -> Student:
    """A student of one layer with dropout, for tests of everything around it."""
    network = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.Dropout2d(0.2))
    return Student(network, channels=8, width=width, multiple=32)


def train_tiny_students(patch: pytest.MonkeyPatch) -> None:
    """Let runs train a tiny student, and their checkpoints be loaded into one."""
    for module in ("state", "run.checkpoint"):
        patch.setattr(f"zsseg.stages.train.{module}.build_student", tiny_student)


def sure_student(config: StudentConfig, width: int, *, pretrained: bool = True) -> Student:
    """The same without dropout, of which every process draws its own."""
    student = tiny_student(config, width, pretrained=pretrained)
    student.network[2] = nn.Identity()  # type: ignore[operator]
    return student


def run(
    world: World,
    out: Path,
    config: RunConfig,
    *,
    resume: bool = False,
    stop_at: int | None = None,
    after_step: Callable[[int], None] = lambda step: None,
    validation: MakeValidator | None = None,
) -> TrainResult:
    """Train into `out`; an error comes in the way after `stop_at` steps."""

    def progress(now: TrainProgress) -> None:
        after_step(now.step)
        if now.step == stop_at:
            raise ConnectionError("killed")

    return train(
        config,
        world,
        out=out,
        resume=resume,
        experiment="tiny",
        progress=progress,
        extras=TrainExtras(validation=validation),
    )


def metrics_of(out: Path) -> list[dict[str, float]]:
    """The log of a run, less what the clock says."""
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if name not in FROM_THE_CLOCK}
        for line in lines
    ]


def weights_of(out: Path) -> dict[str, Tensor]:
    """The student's weights in a run's newest checkpoint."""
    return checkpoint.load_student(out)[0].state_dict()


def what_was_learnt(out: Path) -> dict[str, bytes]:
    """Every byte of the newest checkpoint: weights, decoder, bank, average, optimiser."""
    folder = checkpoint.latest(out)
    assert folder is not None
    return {path.name: path.read_bytes() for path in folder.iterdir()}
