"""Mistakes on the command line: one message that fits the command, and no time spent before."""

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from helpers.colour_run import record
from helpers.zsseg_command import zsseg

from zsseg.stages.data.spec import load_spec
from zsseg.stages.errors import CacheError, DatasetError, UserError
from zsseg.stages.evaluate.predict import predict_files
from zsseg.stages.train.run import checkpoint
from zsseg.stages.train.run.run_folder import check_folder, write_record

LOADS_TORCH = """
import sys
from zsseg.pipeline.cli.main import main
try:
    main()
finally:
    sys.stdout.write(f"torch {'torch' in sys.modules}")
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder without a checkpoint."""
    spec = load_spec("camvid")
    write_record(tmp_path / "run", record(spec), torch.zeros(len(spec.classes), 2))
    return tmp_path / "run"


@pytest.mark.parametrize(
    "words",
    [
        "evaluate --run nowhere",
        "evaluate --run {run} --teacher-alone",
        "evaluate --run {run} --set train.steps=1",
        "evaluate --run {run} --set evaluate.calibration=.nan",
        "evaluate --teacher-alone --calibration inf",
        "predict a.jpg --out o --run nowhere",
        "predict a.jpg --out o --run {run} --classes @nowhere",
        "predict a.jpg --out o --run {run} --add @nowhere",
        "predict a.jpg --out o --run {run} --palette nowhere",
        "predict a.jpg --out o --run {run} --palette {run}/run.json",
        "train --set train.stepz=1",
        "train --set train.learning_rate=.inf",
        "train --config nothing",
        "train --cache nowhere",
        "train --cache nowhere --config baseline",
        "train --nonsense",
        "export --run nowhere --out model.onnx",
        "names --run nowhere car --out names.npz",
        "precompute --dataset nothing --root .",
        "precompute --dataset camvid --root . --set batch=many",
    ],
)
def test_a_mistake_is_told_before_torch_is_loaded(run: Path, words: str) -> None:
    command = [sys.executable, "-c", LOADS_TORCH, *words.format(run=run).split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (UserError.exit_code, DatasetError.exit_code, CacheError.exit_code)
    assert done.stdout == "torch False"
    assert done.stderr.startswith("error: ")


def test_the_version_is_told_with_those_that_matter_and_without_torch() -> None:
    command = [sys.executable, "-c", LOADS_TORCH, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first.startswith(f"zsseg {version('zsseg')} (Python ")
    assert f"torch {version('torch')})" in first
    assert second == "torch False"


def test_an_output_that_is_a_file_is_no_matter_of_training(
    tmp_path: Path,
) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(UserError, match=r"is a file\. Give --out a folder"):
        predict_files(
            None,  # type: ignore[arg-type]
            [tmp_path],
            tmp_path / "out",
            progress=lambda done, total: None,
        )


def test_a_copy_beside_the_checkpoints_is_none(tmp_path: Path) -> None:
    spec = load_spec("camvid")
    out = tmp_path / "run"
    write_record(out, record(spec), torch.zeros(len(spec.classes), 2))
    for name in ("step-000004.bak", "step-000004 copy", "step-old", "step-"):
        (out / "checkpoints" / name).mkdir(parents=True)
    (out / "checkpoints" / "step-000004.tar").touch()
    assert checkpoint.latest(out) is None
    assert not check_folder(out, record(spec), resume=True)


def test_a_store_that_is_named_twice_is_deleted_once(
    made: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(made[1], tmp_path / "S")
    monkeypatch.chdir(tmp_path)
    assert zsseg("cache", "rm", "-y", "S", tmp_path / "S") == 0
    assert capsys.readouterr().out.count("freed") == 1
    assert not (tmp_path / "S").exists()


def test_why_speaks_of_the_copy_that_is_asked_about(
    fresh: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, store = fresh
    copy = store.with_name("copy")
    shutil.copytree(store, copy)
    root = fresh[0].parent
    (copy / "seal.json").unlink()
    assert zsseg("cache", "why", copy, "--root", root, "-q") == 0
    assert str(copy) in capsys.readouterr().out
    assert zsseg("cache", "why", store, "--root", root, "-q") == 0
    assert str(copy) not in capsys.readouterr().out
