"""`zsseg train` without an experiment: told, trained, resumed, and trained again from its file."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny_training import train_tiny_students
from helpers.zsseg_command import zsseg

from zsseg import train
from zsseg.stages.errors import UserError
from zsseg.stages.machine_memory import Room
from zsseg.stages.train.foretell import memory_check
from zsseg.stages.train.losses.batch_losses import batch_losses
from zsseg.stages.train.run.run_folder import read_record

CPU = ("--set", "train.device=cpu")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    train_tiny_students(monkeypatch)
    monkeypatch.setattr("zsseg.stages.train.plan.make_plan._CPU_MINUTES", 0.001)
    rooms = (Room(4 * 10**9, "a limit of the test"), None)
    monkeypatch.setattr(memory_check, "_rooms", lambda _: rooms)


def test_it_needs_no_other_word(
    made: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert zsseg("train", "--cache", made[1].parent) == 0
    run = Path("runs/plan")
    told = capsys.readouterr().err
    for what in ("student", "method", "crop", "batch", "workers", "precision", "steps"):
        assert f"  {what}: " in told
    assert "  validation: none (no split beside that of training has labels)" in told
    text = (run / "plan.yaml").read_text()
    assert "method: best" in text
    record = read_record(run)
    assert (record.experiment, record.config.train.steps) == ("plan", 20)
    assert (
        zsseg("train", "--config", run / "plan.yaml", "--cache", made[1], "--out", "b", "-q") == 0
    )
    assert read_record(Path("b")).config == record.config
    assert not Path("b/plan.yaml").exists()
    capsys.readouterr()
    assert zsseg("train", "--cache", made[1], "-q", *CPU) == 2
    assert "--resume" in capsys.readouterr().err


def test_what_is_set_is_not_told_and_quiet_is_quiet(
    made: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("train", "--cache", made[1], "--steps", 3, "--set", "train.batch=2", *CPU)
    assert zsseg(*words, "--out", tmp_path / "told") == 0
    told = capsys.readouterr().err
    assert "  crop: " in told
    assert "  steps: " not in told
    assert "  batch: " not in told
    assert zsseg(*words, "--out", tmp_path / "quiet", "-q") == 0
    assert not capsys.readouterr().err
    config = read_record(tmp_path / "quiet").config
    assert (config.train.steps, config.train.batch) == (3, 2)


def test_a_planned_run_goes_on_with_its_own_plan(
    made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = 0

    def interrupted(*given: Any, **options: Any) -> Any:
        nonlocal done
        if (done := done + 1) > 3:
            raise KeyboardInterrupt
        return batch_losses(*given, **options)

    words = ("train", "--cache", made[1], "--out", tmp_path / "run", "-q", "--steps", 4, *CPU)
    with monkeypatch.context() as patched:
        patched.setattr("zsseg.stages.train.step.batch_losses", interrupted)
        assert zsseg(*words) == 130
    written = (tmp_path / "run/plan.yaml").read_bytes()
    monkeypatch.setattr(
        "zsseg.stages.train.plan.make_plan.make_plan", lambda *_, **__: pytest.fail("planned again")
    )
    assert zsseg("train", "--resume", "--out", tmp_path / "run", "-q") == 0
    assert (tmp_path / "run/plan.yaml").read_bytes() == written
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]


def test_what_cannot_fit_is_refused_and_leaves_nothing(
    made: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rooms = (Room(1000, "a limit of the test"), None)
    monkeypatch.setattr(memory_check, "_rooms", lambda _: rooms)
    assert zsseg("train", "--cache", made[1], "--out", tmp_path / "run", *CPU) == 7
    assert "a limit of the test" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_dry_run_tells_the_plan_and_trains_nothing(
    made: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("train", "--cache", made[1], "--out", tmp_path / "run", "--dry-run", *CPU)
    assert zsseg(*words) == 0
    shown = capsys.readouterr()
    assert "  student: " in shown.err
    assert "20 steps take" in shown.out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--set", "train.stepz=1"), "train.stepz"),
        (("--set", "train.batch=many"), "train.batch"),
        (("--minutes", 5, "--config", "best"), "--minutes"),
        (("--minutes", 5, "--resume"), "--minutes"),
    ],
)
def test_mistakes_are_told_before_anything_is_planned(
    made: tuple[Path, Path],
    words: tuple[object, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        "zsseg.stages.train.plan.make_plan.make_plan", lambda *_, **__: pytest.fail("planned")
    )
    assert zsseg("train", "--cache", made[1], *words) == 2
    assert said in capsys.readouterr().err


def test_the_inductive_protocol_is_planned_too(made: tuple[Path, Path], tmp_path: Path) -> None:
    words = ("--set", "protocol=inductive", "--steps", 2, "--out", tmp_path / "run", "-q", *CPU)
    assert zsseg("train", "--cache", made[1], *words) == 0
    assert read_record(tmp_path / "run").config.self_training.method == "none"


def test_from_python_it_is_planned_too(made: tuple[Path, Path], tmp_path: Path) -> None:
    settings = {"train.steps": 2, "train.device": "cpu"}
    run = tmp_path / "run"
    assert train(out=run, cache=str(made[1]), set=settings).run.step == 2
    assert "method: best" in (run / "plan.yaml").read_text()
    assert train(out=run, cache=str(made[1]), resume=True).run.step == 2
    with pytest.raises(UserError, match=r"train\.stepz"):
        train(out=tmp_path / "other", cache=str(made[1]), set={"train.stepz": 2})
