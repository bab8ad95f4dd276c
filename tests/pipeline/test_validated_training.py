"""`zsseg train --validate-every` and what follows it, as commands."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.python_run import TINY, run_world
from helpers.zsseg_command import zsseg

from zsseg.stages.train.run.run_folder import read_record

SETS = [word for name, value in TINY.items() for word in ("--set", f"{name}={value}")]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_clip: str) -> Iterator[Path]:
    """A world with a split `val`, and its store."""
    folder = tmp_path_factory.mktemp("validated")
    with pytest.MonkeyPatch.context() as patch:
        run_world(folder, tiny_clip, patch, held_out=3, names=())
        yield folder


def train(work: Path, out: Path, *more: object) -> int:
    return zsseg("train", "--cache", work / "cache", "--out", out, *more)


def test_the_end_tells_the_best_one_and_the_time_of_both(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--config", "baseline", *SETS, "--validate-every", 1, "--patience", 1)
    assert train(work, tmp_path / "run", *words) == 0
    shown = capsys.readouterr()
    said = " ".join(shown.err.split())
    assert "by labels of seen classes, 3 images of 'val', every 1 step" in said
    assert "best: step " in shown.out
    assert "seen_mIoU" in shown.out
    assert " s for the steps, " in shown.out
    record = read_record(tmp_path / "run")
    found = record.config.validation
    assert (found.every, found.patience, found.unseen) == (1, 1, False)
    for which in ("best", "last"):
        out = tmp_path / which
        images = work / "world/images/val"
        words = ("predict", images, "--run", tmp_path / "run", "--out", out, "--checkpoint", which)
        assert zsseg(*words, "-q") == 0


def test_a_plan_validates_a_few_times(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cpu = ("--set", "train.device=cpu", "--steps", 8, "--set", "train.batch=2")
    assert train(work, tmp_path / "run", *cpu) == 0
    told = capsys.readouterr().err
    assert "  validation: every 2 steps on 3 images of 'val' (4 times, or every 4,000" in told
    lines = (tmp_path / "run" / "validation.jsonl").read_text().splitlines()
    assert len(lines) == 4
    assert "validation:" in (tmp_path / "run" / "plan.yaml").read_text()
    assert train(work, tmp_path / "none", *cpu, "--validate-every", 0, "-q") == 0
    assert not (tmp_path / "none" / "validation.jsonl").exists()
    assert train(work, tmp_path / "wait", *cpu, "--patience", 9, "-q") == 0
    assert read_record(tmp_path / "wait").config.validation.patience == 9


def test_patience_without_validation_is_a_mistake(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(work, tmp_path / "run", "--config", "baseline", "--patience", 2) == 2
    assert "--validate-every" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_that_was_not_validated_has_no_best_one(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(work, tmp_path / "run", "--config", "baseline", *SETS, "-q") == 0
    words = ("evaluate", "--run", tmp_path / "run", "--checkpoint", "best")
    assert zsseg(*words) == 2
    assert "no validation has chosen" in " ".join(capsys.readouterr().err.split())
    assert zsseg("evaluate", "--teacher-alone", "--checkpoint", "best") == 2
