"""A trained run for tests, made by hand: its student sees nothing but colour."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from zsseg.stages.data.spec import DatasetSpec, load_spec
from zsseg.stages.evaluate.trained_run import TrainedRun
from zsseg.stages.train.batches.imagenet import normalise
from zsseg.stages.train.run.run_folder import RunRecord
from zsseg.stages.train.run_config import EvaluateConfig, RunConfig
from zsseg.stages.train.students.student import Student

COLOURS = ((120, 180, 240), (110, 90, 60), (200, 60, 40), (240, 220, 60))
"""Colours of the classes of `draw_world` in conftest.py: sky, ground, box, ball."""


def record(spec: DatasetSpec, config: RunConfig | None = None) -> RunRecord:
    """The record of a run on `spec`."""
    return RunRecord(
        experiment="by-hand",
        config=config or RunConfig(),
        dataset=spec,
        split="train",
        root=Path("world"),
        teacher="local-dir:clip",
        templates="single",
        store="store",
        store_fingerprint="0" * 32,
        versions={},
        revision=None,
    )


def colour_run(path: Path, description: Path, evaluate: EvaluateConfig | None = None) -> TrainedRun:
    """A run with D = 3, whose feature is the mean normalised colour of 4 x 4 pixels."""
    spec = load_spec(str(description))
    evaluate = evaluate or EvaluateConfig(short_side=96, window=64, stride=48)
    student = Student(nn.AvgPool2d(4), channels=3, width=3, multiple=32)
    weight, bias = student.projection.weight, student.projection.bias
    assert bias is not None
    with torch.no_grad():
        weight.copy_(torch.eye(3)[:, :, None, None])
        bias.zero_()
    colour_1C3 = np.array([COLOURS], dtype=np.uint8)
    text_CD = nn.functional.normalize(torch.from_numpy(normalise(colour_1C3)[:, 0].T), dim=1)
    return TrainedRun(
        path=path,
        record=record(spec, RunConfig(evaluate=evaluate)),
        evaluate=evaluate,
        student=student.eval(),
        step=7,
        stride=4,
        text_CD=text_CD,
        names=spec.prompt_names,
    )
