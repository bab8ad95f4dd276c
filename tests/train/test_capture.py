"""A step that is not finite is kept on disk, and done again by `zsseg train --replay`."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny_training import (
    EVERYTHING,
    World,
    make_world,
    metrics_of,
    run,
    train_tiny_students,
    weights_of,
    with_changes,
)
from helpers.zsseg_command import zsseg
from safetensors.torch import save

from zsseg.stages.errors import NonFiniteError, ResourceError, UserError
from zsseg.stages.train.batches.batch import cut_to_crops
from zsseg.stages.train.capture import read_capture, replay
from zsseg.stages.train.losses.batch_losses import Scalars, batch_losses
from zsseg.stages.train.losses.loss_inputs import LossInputs
from zsseg.stages.train.run import checkpoint
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.train.state import State
from zsseg.stages.train.step import StepResult, gradients

BAD_ROW = 4


def config_of(**train: Any) -> RunConfig:
    return with_changes(EVERYTHING, {"train": {"batch": 2, "steps": 8} | train})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    train_tiny_students(monkeypatch)


def poisoned(inputs: LossInputs) -> tuple[Scalars, Scalars]:
    """`batch_losses` for which one image is too much."""
    losses, diagnostics = batch_losses(inputs)
    if BAD_ROW in inputs.batch.row_B.tolist():
        losses["dense"] = losses["dense"] / 0
    return losses, diagnostics


@pytest.fixture
def captured(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The capture of a run that met the image."""
    monkeypatch.setattr("zsseg.stages.train.step.batch_losses", poisoned)
    with pytest.raises(NonFiniteError, match=r"dense inf.*zsseg train --replay") as caught:
        run(world, tmp_path / "run", config_of())
    (file,) = (tmp_path / "run" / "non_finite").glob("*.json")
    assert str(file) in str(caught.value)
    return file


def test_a_replay_gives_the_numbers_of_the_step(
    world: World, captured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The poisoned loss too; with the loss as it should be, those of a run without the poison."""
    written, batch = read_capture(captured)
    done = replay(captured, written.config)
    assert {name: str(value) for name, value in done.losses.items()} == written.losses
    assert [each.split()[0] for each in done.bad] == ["dense", "gradient"]
    assert len(done.images) == 2
    assert world[0].index[BAD_ROW]["id"] in done.images
    assert BAD_ROW in batch.row_B.tolist()
    monkeypatch.setattr("zsseg.stages.train.step.batch_losses", batch_losses)
    done = replay(captured, written.config)
    assert done.bad == []
    run(world, tmp_path / "well", config_of())
    line = metrics_of(tmp_path / "well")[written.step]
    assert done.losses["total"] == line["loss"]
    assert done.losses["dense"] == line["dense"]
    assert done.losses["gradient norm"] == line["grad_norm"]


def test_the_checkpoint_is_from_before_the_step(
    world: World, captured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run can go on from it, once what was wrong is mended, as if nothing had been."""
    written, _ = read_capture(captured)
    newest = checkpoint.latest(tmp_path / "run")
    assert newest is not None
    assert newest.name == written.checkpoint
    assert checkpoint.step_of(newest) == written.step
    monkeypatch.setattr("zsseg.stages.train.step.batch_losses", batch_losses)
    run(world, tmp_path / "run", config_of(), resume=True)
    run(world, tmp_path / "well", config_of())
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "well")
    left, right = weights_of(tmp_path / "run"), weights_of(tmp_path / "well")
    assert all(bool((left[name] == right[name]).all()) for name in right)


def test_the_command_says_what_is_wrong_again(
    captured: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert zsseg("train", "--replay", captured) == NonFiniteError.exit_code
    message = capsys.readouterr()
    for name in ("cross_entropy", "nel", "sdd", "total", "gradient norm"):
        assert f"\n{name} " in message.out
    assert "dense inf" in message.err
    assert "scene_00" in message.err
    monkeypatch.setattr("zsseg.stages.train.step.batch_losses", batch_losses)
    assert zsseg("train", "--replay", captured, "--set", "objectives.dense=1e-6") == 0
    assert "can be made" in capsys.readouterr().out


def test_what_cannot_be_replayed_is_reported(captured: Path, tmp_path: Path) -> None:
    written, _ = read_capture(captured)
    other = with_changes(EVERYTHING, {"student": {"encoder": "mit_b1"}})
    with pytest.raises(UserError, match="another student"):
        replay(captured, other)
    with pytest.raises(UserError, match=r"nowhere\.json: not a saved step"):
        read_capture(tmp_path / "nowhere.json")
    moved = tmp_path / "elsewhere" / captured.name
    moved.parent.mkdir()
    for file in captured.parent.iterdir():
        (moved.parent / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="needs its run's record"):
        replay(moved, written.config)
    captured.write_text(json.dumps({"step": 3}))
    with pytest.raises(UserError, match="damaged"):
        read_capture(captured)


def test_what_the_run_did_not_read_cannot_be_added(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other settings of the step's own are taken, also more parts than it has crops."""
    less = {name: EVERYTHING[name] for name in ("student", "augmentation", "train")}
    bare = with_changes(less, {"train": {"batch": 2, "steps": 8}})

    def endless(inputs: LossInputs) -> tuple[Scalars, Scalars]:
        losses, diagnostics = batch_losses(inputs)
        return {name: loss / 0 for name, loss in losses.items()}, diagnostics

    with monkeypatch.context() as patched:
        patched.setattr("zsseg.stages.train.step.batch_losses", endless)
        with pytest.raises(NonFiniteError):
            run(world, tmp_path / "run", bare)
    (file,) = (tmp_path / "run" / "non_finite").glob("*.json")
    for change, what in (
        ({"objectives": {"sdd": 1.0}}, "CLIP's tokens of the images"),
        ({"objectives": {"local_distillation": 1.0}}, "latent regions, local tokens"),
        ({"objectives": {"dense": 1.0, "dense_stride": 8}}, "dense tokens"),
        ({"self_training": {"method": "st", "source": "ema"}}, "an averaged student"),
    ):
        with pytest.raises(UserError, match=f"made without {what}, so"):
            replay(file, with_changes(bare.model_dump(), change))
    more_parts = with_changes(bare.model_dump(), {"train": {"accumulate": 100}})
    assert replay(file, more_parts).bad == []


def test_a_capture_with_regions_and_tokens_of_the_crops_is_as_good(captured: Path) -> None:
    """Those of before the loader sent whole images' are."""
    expected = str(replay(captured, read_capture(captured)[0].config))  # NaN is not NaN
    _, batch = read_capture(captured)
    assert batch.image_region_Bhw is not None
    kept = {name: each for name, each in vars(cut_to_crops(batch)).items() if each is not None}
    assert {"region_BHW", "dense_BDyx"} <= kept.keys()
    tensors = {name: each.contiguous() for name, each in kept.items()}
    captured.with_suffix(".safetensors").write_bytes(save(tensors))
    assert str(replay(captured, read_capture(captured)[0].config)) == expected


def test_parts_are_those_of_the_step_unless_others_are_asked_for(
    captured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = json.loads(captured.read_text())
    captured.write_text(json.dumps(data | {"parts": 2}))
    seen: list[int] = []

    def noted(state: State, *given: Any, **options: Any) -> StepResult:
        seen.append(state.parts)
        return gradients(state, *given, **options)

    monkeypatch.setattr("zsseg.stages.train.capture.gradients", noted)
    written, _ = read_capture(captured)
    whole = with_changes(written.config.model_dump(), {"train": {"accumulate": 2}})
    captured.write_text(json.dumps(data | {"parts": 2, "config": whole.model_dump(mode="json")}))
    replay(captured, whole)
    replay(captured, written.config)
    assert seen == [2, 1]


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("augmentation", "crop", (64, 64)),
        ("augmentation", "photometric", False),
        ("student", "weights", "hub"),
        ("train", "workers", 2),
        ("train", "batch", 4),
        ("train", "learning_rate", 1e-6),
        ("objectives", "token", "pooled"),
        ("objectives", "dense_stride", 16),
        ("self_training", "ema_decay", 0.5),
    ],
)
def test_what_changes_nothing_is_refused(
    captured: Path, section: str, name: str, value: Any
) -> None:
    """The crops are cut already, and no weight is moved."""
    written, _ = read_capture(captured)
    other = with_changes(written.config.model_dump(), {section: {name: value}})
    with pytest.raises(UserError, match=rf"change nothing:\n  {section}\.{name}.*: the run had"):
        replay(captured, other)


def test_what_fits_the_weights_may_be_tried(captured: Path) -> None:
    written, _ = read_capture(captured)
    softer = {"student": {"logit_scale": 50.0}, "latent": {"beta": 50.0, "tie": 0.0}}
    done = replay(captured, with_changes(written.config.model_dump(), softer))
    assert done.losses["cross_entropy"] < float(written.losses["cross_entropy"])
    assert "tie" in written.losses
    assert "tie" not in done.losses


def test_a_full_disk_leaves_the_checkpoint(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zsseg.stages.train.step.batch_losses", poisoned)
    monkeypatch.setattr("zsseg.stages.train.capture.write_durably", full)
    with pytest.raises(ResourceError, match=r"dense inf.*saved in .*its batch is not.*No space"):
        run(world, tmp_path / "run", config_of())
    assert checkpoint.latest(tmp_path / "run") is not None
