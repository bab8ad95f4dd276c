"""`zsseg train --resume --out RUN`: what the run's record knows need not be given again."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.tiny_training import SMALL, train_tiny_students
from helpers.zsseg_command import zsseg

from zsseg.stages.train.losses.batch_losses import batch_losses
from zsseg.stages.train.run.run_folder import read_record


@pytest.fixture
def stopped(tmp_path: Path, made: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was started with relative paths, and ended after 2 of its 4 steps."""
    train_tiny_students(monkeypatch)
    description, store = made
    shutil.copytree(description.parent, tmp_path / "world")
    shutil.copytree(store, tmp_path / "store")
    history = tmp_path / "store" / "history.jsonl"
    there, here = str(description.parent), str(tmp_path / "world")
    history.write_text(history.read_text().replace(there, here))
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(SMALL))))
    steps = 0

    def interrupted(*given: Any, **options: Any) -> Any:
        nonlocal steps
        if (steps := steps + 1) > 2:
            raise KeyboardInterrupt
        return batch_losses(*given, **options)

    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("zsseg.stages.train.step.batch_losses", interrupted)
        place = ("--cache", "store", "--root", "world", "--out", "run")
        assert zsseg("train", *place, "--config", "tiny.yaml", "--set", "train.seed=3") == 130
    return tmp_path / "run"


def steps_of(run: Path) -> list[int]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def resumptions(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "resumed.jsonl").read_text().splitlines()]


def test_the_run_is_enough_from_anywhere(
    stopped: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    capsys.readouterr()
    before = read_record(stopped)
    assert zsseg("train", "--resume", "--out", "../run") == 0
    assert f"tiny from {tmp_path / 'store'} into ../run" in capsys.readouterr().err
    assert steps_of(stopped) == [1, 2, 3, 4]
    (noted,) = resumptions(stopped)
    assert (noted["step"], noted["changed"]) == (2, [])
    assert read_record(stopped) == before
    assert before.config.train.seed == 3


def test_settings_that_change_no_result_are_taken_and_noted(stopped: Path) -> None:
    words = ("train", "--resume", "--out", stopped, "-q")
    assert zsseg(*words, "--set", "train.log_every=2", "--set", "train.accumulate=2") == 0
    (noted,) = resumptions(stopped)
    assert noted["changed"] == [
        "train.accumulate: started with 1, now 2",
        "train.log_every: started with 1, now 2",
    ]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--set", "train.steps=5"), "config.train.steps: stored 4, asked 5"),
        # Its seed was given with --set, so the file alone is another experiment.
        (("--config", "tiny.yaml"), "config.train.seed: stored 3, asked 0"),
        (("--config", "rst"), "config.objectives.sdd: stored 1.0, asked 0.0"),
    ],
)
def test_what_is_given_is_compared(
    stopped: Path, more: tuple[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert zsseg("train", "--resume", "--out", stopped, "-q", *more) == 2
    assert said in capsys.readouterr().err
    assert steps_of(stopped) == [1, 2]


def test_a_store_that_has_moved_has_to_be_named(
    stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "store").rename(tmp_path / "moved")
    words = ("train", "--resume", "--out", stopped, "-q")
    assert zsseg(*words) == 5
    shown = capsys.readouterr().err
    assert f"{tmp_path / 'store'}: no store here" in shown
    assert "if it has moved, say where it is with --cache" in shown
    assert zsseg(*words, "--cache", "moved") == 0
    assert steps_of(stopped) == [1, 2, 3, 4]


def test_images_that_have_moved_have_to_be_named(
    stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "world").rename(tmp_path / "moved")
    words = ("train", "--resume", "--out", stopped, "-q")
    assert zsseg(*words) == 4
    assert "give the data set's folder with --root" in capsys.readouterr().err
    assert zsseg(*words, "--root", "moved") == 0


@pytest.mark.usefixtures("stopped")
def test_without_a_run_there_one_is_started(tmp_path: Path) -> None:
    place = ("--cache", "store", "--root", "world", "--out", "new", "-q")
    assert zsseg("train", "--resume", *place, "--config", "tiny.yaml") == 0
    assert steps_of(tmp_path / "new") == [1, 2, 3, 4]
    assert read_record(tmp_path / "new").config.train.seed == 0
