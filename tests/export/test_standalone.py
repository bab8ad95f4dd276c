"""The script beside an export works where there is numpy, Pillow and onnxruntime, and no more."""

import json
import os
import subprocess
import sys
import venv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.colour_run import colour_run
from helpers.drawn_world import draw_world
from PIL import Image

from zsseg.stages.evaluate.asked_names import with_text
from zsseg.stages.evaluate.evaluation import student_label
from zsseg.stages.evaluate.trained_run import TrainedRun
from zsseg.stages.export.export_run import Exported, export_run
from zsseg.stages.export.names_file import write_names

PACKAGES = ("numpy", "pillow", "onnxruntime")
CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the three packages alone (installed from the index: some
    seconds and 150 MB)."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", python, "install", "--quiet"),
            *("--disable-pip-version-check", "--retries", "1", "--only-binary", ":all:"),
            *("-c", CONSTRAINTS, *PACKAGES),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no package index: {done.stderr.strip().splitlines()[-1:]}")
    return python


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedRun, Exported, Path]:
    folder = tmp_path_factory.mktemp("exported")
    description = draw_world(folder / "world", images=2)
    run = colour_run(folder / "run", description)
    run = replace(run, record=run.record.model_copy(update={"root": description.parent}))
    image = sorted((folder / "world" / "images" / "train").iterdir())[0]
    return run, export_run(run, folder / "out" / "model.onnx"), image


def test_it_labels_as_the_run_does_without_zsseg_and_torch(
    bare: Path, exported: tuple[TrainedRun, Exported, Path], tmp_path: Path
) -> None:
    run, done, image = exported
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "--python", bare, "list", "--format", "json"],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=True,
    )
    names = {each["name"].lower() for each in json.loads(listed.stdout)}
    assert names >= set(PACKAGES)
    assert not {"torch", "zsseg", "onnx"} & names
    said = subprocess.run(
        [bare, "-I", done.script, done.path, image, "--out", tmp_path / "labels.png"],
        capture_output=True,
        text=True,
        check=True,
    )
    image_HW3 = np.asarray(Image.open(image).convert("RGB"))
    label_HW = np.asarray(Image.open(tmp_path / "labels.png"))
    assert (label_HW == student_label(run, image_HW3)).mean() > 0.999
    best = run.names[int(np.bincount(label_HW.ravel()).argmax())]
    assert said.stdout.splitlines()[0].endswith(best)


def test_it_takes_names_of_a_file(
    bare: Path, exported: tuple[TrainedRun, Exported, Path], tmp_path: Path
) -> None:
    run, done, image = exported
    text_CD = torch.cat([run.text_CD[2:], run.text_CD[:1]])
    names = with_text(run, ["first", "second"], ["rest"], text_CD)
    write_names(tmp_path / "names.npz", run, names)
    out = tmp_path / "labels.png"
    subprocess.run(
        [
            *(bare, "-I", done.script, done.path, image),
            *("--names", tmp_path / "names.npz", "--out", out),
        ],
        capture_output=True,
        check=True,
    )
    expected = student_label(replace(run, text_CD=text_CD), np.asarray(Image.open(image)))
    expected[expected == 2] = 255
    assert (np.asarray(Image.open(out)) == expected).mean() > 0.999
