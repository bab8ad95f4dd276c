"""What a training keeps on the disk, and in which order it comes there."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_training import (
    EVERYTHING,
    World,
    make_world,
    run,
    train_tiny_students,
    with_changes,
)

from zsseg.stages.errors import NonFiniteError
from zsseg.stages.train.losses.batch_losses import Scalars, batch_losses
from zsseg.stages.train.losses.loss_inputs import LossInputs
from zsseg.stages.train.run import checkpoint
from zsseg.stages.train.run_config import RunConfig


def config_of(**train: Any) -> RunConfig:
    return with_changes(EVERYTHING, {"train": {"batch": 2, "steps": 8} | train})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    train_tiny_students(monkeypatch)


def test_two_intact_checkpoints_are_kept_beside_a_damaged_one(world: World, tmp_path: Path) -> None:
    """The newest is damaged, and the run passes its step without writing one there."""
    out = tmp_path / "run"

    def names() -> list[str]:
        return sorted(path.name for path in (out / "checkpoints").iterdir())

    with pytest.raises(ConnectionError):
        run(world, out, config_of(checkpoint_every=2), stop_at=4)
    assert names() == ["step-000002", "step-000004"]
    (out / "checkpoints" / "step-000004" / "training.pt").write_bytes(b"")
    seen: dict[int, list[str]] = {}

    def look(step: int) -> None:
        seen[step] = names()

    run(world, out, config_of(checkpoint_every=3), resume=True, after_step=look)
    assert seen[3] == ["step-000002", "step-000003", "step-000004"]
    assert seen[6] == ["step-000003", "step-000004", "step-000006"]
    assert seen[8] == names() == ["step-000006", "step-000008"]


def test_the_checkpoint_that_a_run_resumed_from_is_one_of_the_two(
    world: World, tmp_path: Path
) -> None:
    for last in (4, 6):
        with pytest.raises(ConnectionError):
            run(world, tmp_path / "run", config_of(checkpoint_every=2), resume=True, stop_at=last)
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-000004", "step-000006"]


@pytest.mark.parametrize("ends", ["well", "not finite"])
def test_the_log_is_on_the_disk_before_a_checkpoint(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """After a power cut the log reaches as far as the checkpoint, as no step is done again."""
    synced: dict[str, int] = {}
    saved: list[int] = []
    left = iter([1.0] * (8 if ends == "well" else 4))
    fsync, save = os.fsync, checkpoint.save

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        synced[name] = os.fstat(descriptor).st_size

    def saving(out: Path, step: int, **given: Any) -> Path:
        log = out / "metrics.jsonl"
        assert log.read_bytes().count(b"\n") == step
        assert synced["metrics.jsonl"] == log.stat().st_size
        saved.append(step)
        return save(out, step, **given)

    def spoilt(inputs: LossInputs) -> tuple[Scalars, Scalars]:
        losses, diagnostics = batch_losses(inputs)
        losses["sdd"] = losses["sdd"] * next(left, torch.nan)
        return losses, diagnostics

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(checkpoint, "save", saving)
    monkeypatch.setattr("zsseg.stages.train.step.batch_losses", spoilt)
    if ends == "well":
        run(world, tmp_path / "run", config_of(checkpoint_every=3))
        assert saved == [3, 6, 8]
    else:
        with pytest.raises(NonFiniteError):
            run(world, tmp_path / "run", config_of(checkpoint_every=3))
        assert saved == [3, 4]
