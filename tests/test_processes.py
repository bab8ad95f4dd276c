"""One training by several processes, or in parts, learns what one process learns in one go."""

from pathlib import Path
from typing import Any

import pytest
from several import together
from tiny_run import Sections, World, make_world, metrics_of, run, with_changes
from torch import nn

from stages.train.config import RunConfig
from stages.train.student import Student, build_student

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

# Neither of mit_b0 and fpn has a batch normalisation, which would see other crops.
EVERYTHING: Sections = {
    "student": {"architecture": "fpn", "encoder": "mit_b0", "weights": "none"},
    "objectives": {
        "focal": 0.5,
        "nel": 0.1,
        "sdd": 1.0,
        "global_distillation": 1.0,
        "bank": 10,
        "local_distillation": 1.0,
        "local_negatives": "batch",
        "dense": 1.0,
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


def config_of(**train: Any) -> RunConfig:
    return with_changes(EVERYTHING, {"train": train})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def without_dropout(*given: Any, **options: Any) -> Student:
    """Each process draws its own dropout; without it there is nothing that may differ."""
    student = build_student(*given, **options)
    for each in student.modules():
        assert not isinstance(each, nn.modules.batchnorm._BatchNorm)
        if isinstance(each, nn.modules.dropout._DropoutNd):
            each.p = 0.0
        elif hasattr(each, "drop_prob"):
            setattr(each, "drop_prob", 0.0)  # noqa: B010 (a module's attributes are Tensors to mypy)
    return student


def close(out: Path, whole: Path, *, steps: int) -> None:
    """Has a run the losses of another to 1e-5, in all of its first steps?"""
    found, expected = metrics_of(out), metrics_of(whole)[:steps]
    assert [line["step"] for line in found] == list(range(1, steps + 1))
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            # A norm sums the rounding of millions of gradients.
            rel = 1e-4 if name == "grad_norm" else 1e-5
            assert value == pytest.approx(other[name], rel=rel, abs=1e-6), (name, other["step"])


def test_two_processes_or_three_parts_have_the_losses_of_one(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every objective, first with latent classes and then with pseudo labels."""
    monkeypatch.setattr("stages.train.state.build_student", without_dropout)
    whole, out = tmp_path / "whole", tmp_path / "two"
    run(world, whole, config_of())
    lines = metrics_of(whole)
    assert sum(line["latent_classes"] for line in lines[:10]) > 1
    assert 0 < lines[-1]["pseudo_label_share"] <= 1
    assert len(lines[0]) + len(lines[-1]) > 20

    def work(_: int) -> None:
        run(world, out, config_of())

    assert together(2, work, tmp_path / "said") == [(0, ""), (0, "")]
    close(out, whole, steps=20)
    out = tmp_path / "parts"
    with pytest.raises(ConnectionError):
        run(world, out, config_of(accumulate=3), stop_at=13)
    close(out, whole, steps=13)
