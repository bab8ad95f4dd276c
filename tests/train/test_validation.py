"""A run that is validated while it trains: its best checkpoint, its end, and how it goes on."""

import json
import logging
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_training import (
    World,
    config_of,
    make_world,
    metrics_of,
    run,
    train_tiny_students,
    weights_of,
    what_was_learnt,
)
from torch import Tensor

from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.trained_run import load_run
from zsseg.stages.train.batches.training_data import TrainingData
from zsseg.stages.train.run import checkpoint
from zsseg.stages.train.run.metrics_log import Throughput
from zsseg.stages.train.run.run_folder import RunRecord, read_record
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.train.students.student import Student
from zsseg.stages.train.validation import ValidationScores, ValidationState

NAN = float("nan")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def tiny_students() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        train_tiny_students(patch)
        yield


class Scripted:
    """A validator that scores what it is told, by step; it draws random numbers of its own."""

    about = "a script"

    def __init__(self, scores: Sequence[float], *, chooses: bool = True) -> None:
        self.chooses_by = "seen_mIoU" if chooses else None
        self.scores = scores
        self.asked: list[int] = []

    def __call__(self, student: Student, step: int) -> ValidationScores:
        assert not any(module.training for module in student.modules())
        torch.rand(7)
        self.asked.append(step)
        value = self.scores[step - 1]
        return ValidationScores({"seen_mIoU": value}, {"sky": value}, images=1)

    def made(self, *_: Any) -> "Scripted":
        """As `train` asks for it."""
        return self


def every(number: int, *, steps: int = 6, **more: Any) -> RunConfig:
    train = {"steps": steps, "checkpoint_every": 100}
    return config_of(train=train, validation={"every": number, **more})


def lines_of(out: Path) -> list[dict[str, Any]]:
    """The log of the validations, less what the clock says."""
    lines = (out / "validation.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if name != "seconds"}
        for line in lines
    ]


def steps_in(out: Path) -> list[int]:
    return sorted(map(checkpoint.step_of, (out / "checkpoints").glob("step-*")))


def test_no_step_depends_on_it(world: World, tmp_path: Path) -> None:
    run(world, tmp_path / "plain", every(0))
    run(world, tmp_path / "watched", every(2), validation=Scripted([0.1] * 6).made)
    assert metrics_of(tmp_path / "plain") == metrics_of(tmp_path / "watched")
    plain, watched = what_was_learnt(tmp_path / "plain"), what_was_learnt(tmp_path / "watched")
    assert plain.pop("meta.json") != watched.pop("meta.json")
    assert plain == watched
    assert not list((tmp_path / "plain").glob("validation*"))
    meta = json.loads((tmp_path / "plain" / "checkpoints/step-000006/meta.json").read_bytes())
    assert set(meta) == {"format", "step", "files"}


def test_the_best_and_the_last_are_kept(world: World, tmp_path: Path) -> None:
    validator = Scripted([0.1, 0.2, 0.5, 0.5, 0.3, NAN])
    out = tmp_path / "run"
    result = run(world, out, every(1), validation=validator.made)
    assert validator.asked == [1, 2, 3, 4, 5, 6]
    assert result.validation == ValidationState(
        "seen_mIoU", "a script", last_step=6, best_step=3, best=0.5, waited=3
    )
    assert 0 < result.validation_seconds < result.seconds + result.validation_seconds
    assert steps_in(out) == [3, 6]
    assert [line["best"] for line in lines_of(out)] == [True, True, True, False, False, False]
    assert lines_of(out)[-1]["scores"] == {"seen_mIoU": None}
    assert (load_run(out).step, load_run(out).checkpoint) == (3, "best")
    last = load_run(out, checkpoint="last")
    assert (last.step, last.checkpoint) == (6, "last")
    assert not torch.equal(load_run(out).student.projection.weight, last.student.projection.weight)


def test_a_run_without_validation_has_a_last_checkpoint_only(world: World, tmp_path: Path) -> None:
    run(world, tmp_path / "run", every(0))
    assert load_run(tmp_path / "run").checkpoint is None
    assert load_run(tmp_path / "run", checkpoint="last").step == 6
    with pytest.raises(UserError, match="no validation has chosen"):
        load_run(tmp_path / "run", checkpoint="best")


def test_what_may_not_choose_chooses_nothing(world: World, tmp_path: Path) -> None:
    validator = Scripted([0.9, 0.1, 0.1, 0.1, 0.1, 0.1], chooses=False)
    result = run(world, tmp_path / "run", every(1, patience=1), validation=validator.made)
    assert (result.steps, load_run(tmp_path / "run").checkpoint) == (6, None)


def test_patience_ends_a_run_which_is_then_finished(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, config = tmp_path / "run", every(1, patience=2)
    result = run(world, out, config, validation=Scripted([0.1, 0.3, 0.3, 0.2, 0.9, 0.9]).made)
    assert (result.steps, steps_in(out)) == (4, [2, 4])
    assert [line["step"] for line in metrics_of(out)] == [1, 2, 3, 4]
    caplog.clear()
    assert load_run(out).step == 2
    assert "not finished" not in caplog.text
    before = what_was_learnt(out)
    again = Scripted([])
    resumed = run(world, out, config, resume=True, validation=again.made)
    assert (resumed.steps, again.asked, resumed.validation) == (4, [], result.validation)
    assert what_was_learnt(out) == before


@pytest.mark.parametrize("stop_at", [1, 3, 4, 5])
def test_a_killed_run_goes_on_with_what_it_had_found(
    world: World, tmp_path: Path, stop_at: int
) -> None:
    scores, config = [0.3, 0.1, 0.4, 0.2, 0.1, 0.1], every(1, patience=3)
    whole, out = tmp_path / "whole", tmp_path / "run"
    expected = run(world, whole, config, validation=Scripted(scores).made)
    with pytest.raises(ConnectionError):
        run(world, out, config, stop_at=stop_at, validation=Scripted(scores).made)
    found = run(world, out, config, resume=True, validation=Scripted(scores).made)
    assert found.validation == expected.validation
    assert lines_of(out) == lines_of(whole)
    assert metrics_of(out) == metrics_of(whole)
    assert steps_in(out) == steps_in(whole)
    assert what_was_learnt(out) == what_was_learnt(whole)


def test_a_signal_before_a_validation_loses_none(world: World, tmp_path: Path) -> None:
    """The checkpoint is written at once; what is due is made up for when the run goes on."""
    scores, config = [0.1, 0.6, 0.2, 0.2, 0.1, 0.1], every(2, patience=2)
    whole, out = tmp_path / "whole", tmp_path / "run"
    expected = run(world, whole, config, validation=Scripted(scores).made)

    def interrupt(step: int) -> None:
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    stopped = Scripted(scores)
    with pytest.raises(KeyboardInterrupt):
        run(world, out, config, after_step=interrupt, validation=stopped.made)
    assert (steps_in(out), stopped.asked) == ([2], [])
    resumed = Scripted(scores)
    found = run(world, out, config, resume=True, validation=resumed.made)
    assert resumed.asked == [2, 4, 6]
    assert found.validation == expected.validation
    assert (lines_of(out), load_run(out).step) == (lines_of(whole), 2)


def test_a_damaged_newest_checkpoint_leads_to_the_best_before_it(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each kept checkpoint has the best one that it knows beside it."""
    out = tmp_path / "run"
    run(world, out, every(1), validation=Scripted([0.5, 0.1, 0.1, 0.1, 0.6, 0.7]).made)
    assert steps_in(out) == [5, 6]
    (out / "checkpoints/step-000006/training.pt").write_bytes(b"")
    assert load_run(out).step == 5
    (out / "checkpoints/step-000005/student.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="holds no complete checkpoint"):
        load_run(out)


def test_a_damaged_best_one_is_told(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"
    run(world, out, every(1), validation=Scripted([0.5, 0.1, 0.1, 0.1, 0.1, 0.1]).made)
    (out / "checkpoints/step-000001/student.safetensors").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert load_run(out).step == 6
    assert "the best checkpoint, damaged" in caplog.text
    with pytest.raises(UserError, match="--checkpoint last"):
        load_run(out, checkpoint="best")


def test_other_settings_of_validation_are_another_run(world: World, tmp_path: Path) -> None:
    run(world, tmp_path / "run", every(2), validation=Scripted([0.1] * 6).made)
    with pytest.raises(UserError, match=r"validation\.every"):
        run(world, tmp_path / "run", every(3), resume=True, validation=Scripted([]).made)


def test_a_run_whose_held_out_images_are_gone_is_not_resumed_without_them(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, scores = tmp_path / "run", [0.4, 0.1, 0.1, 0.1, 0.1, 0.1]
    with pytest.raises(ConnectionError):
        run(world, out, every(1), stop_at=2, validation=Scripted(scores).made)
    before = what_was_learnt(out)
    with pytest.raises(UserError, match="was validated by a script, and now nothing can be"):
        run(world, out, every(1), resume=True, validation=lambda *_: None)
    assert what_was_learnt(out) == before
    other = Scripted(scores)
    other.about = "another script"
    run(world, out, every(1), resume=True, validation=other.made)
    assert "validated by a script, and by another script from now on" in caplog.text


def test_its_time_is_not_that_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    throughput = Throughput(bytes_per_image=10**6)
    now[0] = 1.0
    with throughput.waiting(8):
        now[0] = 2.0
    now[0] = 12.0
    throughput.leave_out(8.0)
    rates = {"images_per_second": 2.0, "data_wait": 0.25, "cache_mb_per_second": 2.0}
    assert throughput.report() == rates


def test_patience_without_validations_ends_nothing_and_says_so(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert run(world, tmp_path / "run", every(0, patience=1)).steps == 6
    assert "validation.patience: nothing is validated" in caplog.text


def test_the_student_is_as_before(world: World, tmp_path: Path) -> None:
    """Also a layer that was in evaluation mode while the others train."""

    class Looking(Scripted):
        def __call__(self, student: Student, step: int) -> ValidationScores:
            self.before = {name: value.clone() for name, value in student.state_dict().items()}
            return super().__call__(student, step)

    validator = Looking([0.1] * 6)
    run(world, tmp_path / "run", every(6), validation=validator.made)
    after = weights_of(tmp_path / "run")
    assert all(torch.equal(after[name], value) for name, value in validator.before.items())


def test_it_is_made_from_record_data_and_text(world: World, tmp_path: Path) -> None:
    given: list[Any] = []

    def make(record: RunRecord, data: TrainingData, out: Path, text_CD: Tensor) -> None:
        given.extend((record, data, out, text_CD))

    result = run(world, tmp_path / "run", every(2), validation=make)
    assert result.validation is None  # nothing can be validated, and the run goes on
    record, data, out, text_CD = given
    assert record.config == read_record(tmp_path / "run").config
    assert (data, out, len(text_CD)) == (world, tmp_path / "run", 4)
