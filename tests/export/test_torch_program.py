"""A student as a program of torch.export: labels and scores are the run's, at any size."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.colour_run import colour_run

from zsseg.stages.data.images import read_image, resize_image
from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.trained_run import TrainedRun
from zsseg.stages.export import torch_program
from zsseg.stages.export.torch_program import ABOUT, export_program
from zsseg.stages.train.run_config import EvaluateConfig, StudentConfig
from zsseg.stages.train.students.student import build_student, feature_stride

CONFIG = EvaluateConfig(short_side=None, mode="whole", calibration=0.25)


@pytest.fixture
def run(tiny_world: Path, tmp_path: Path) -> TrainedRun:
    (tmp_path / "run").mkdir()
    return colour_run(tmp_path / "run", tiny_world, CONFIG)


def test_any_size_any_names_and_gamma(run: TrainedRun, tiny_world: Path, tmp_path: Path) -> None:
    folder = tiny_world.parent / "images" / "val"
    made = export_program(run, tmp_path / "out" / "model.pt2", images=folder)
    assert made.labels == 1
    assert made.score_difference < 1e-5
    assert made.size == made.path.stat().st_size
    about = {ABOUT: ""}
    module = torch.export.load(made.path, extra_files=about).module()
    said = json.loads(about[ABOUT])
    assert said["names"] == ["sky", "ground", "cardboard box", "ball"]
    assert said["lowered"] == [0.25, 0.25, 0.25, 0.0]  # ball is unseen
    assert "licences" in said
    image_HW3 = read_image(folder / "scene_000.png")
    for size, names in (((32, 64), 4), ((96, 32), 1), ((64, 64), 300)):
        image_1HW3 = torch.from_numpy(resize_image(image_HW3, size))[None].repeat(3, 1, 1, 1)
        text_CD = F.normalize(torch.randn(names, 3, generator=torch.Generator()), dim=1)
        label_NHW, score_NChw = module(image_1HW3, text_CD, torch.zeros(names))
        assert label_NHW.shape == (3, *size)
        assert score_NChw.shape == (3, names, size[0] // 4, size[1] // 4)
        mean_HW3 = image_1HW3[0].float().reshape(size[0] // 4, 4, size[1] // 4, 4, 3).mean((1, 3))
        scaled = (mean_HW3 / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
            [0.229, 0.224, 0.225]
        )
        expected = torch.einsum("cd,hwd->chw", text_CD, F.normalize(scaled, dim=2))
        torch.testing.assert_close(score_NChw[1], expected, atol=1e-4, rtol=0)
        large = F.interpolate(score_NChw, size, mode="bilinear").argmax(1)
        assert torch.equal(label_NHW, large.int())
        assert names < 256 or label_NHW.max() >= 256


@pytest.mark.parametrize("architecture", ["segformer", "unet"])
def test_students_that_are_trained_here(
    run: TrainedRun, tiny_world: Path, tmp_path: Path, architecture: str
) -> None:
    torch.manual_seed(0)
    encoder = {"segformer": "mit_b0", "unet": "resnet18"}[architecture]
    config = StudentConfig(architecture=architecture, encoder=encoder, weights="none")
    student = build_student(config, 3).eval()
    other = replace(run, student=student, stride=feature_stride(student))
    made = export_program(
        other, tmp_path / "model.pt2", images=tiny_world.parent / "images" / "val"
    )
    assert made.labels >= 0.999
    assert made.score_difference < 1e-3


def test_what_is_there_stays_and_what_differs_is_not_kept(
    run: TrainedRun, tiny_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, out = tiny_world.parent / "images" / "val", tmp_path / "model.pt2"
    out.write_bytes(b"mine")
    with pytest.raises(UserError, match="is there already"):
        export_program(run, out, images=images)
    with pytest.raises(UserError, match=r"ends in \.pt2"):
        export_program(run, tmp_path / "model.onnx", images=images)
    monkeypatch.setattr(
        torch_program,
        "upsampled_argmax",
        lambda score_Chw, size: np.full(size, len(score_Chw), np.uint8),
    )
    with pytest.raises(UserError, match="Nothing is kept"):
        export_program(run, out, images=images, force=True)
    assert out.read_bytes() == b"mine"
    assert list(tmp_path.glob("*partial*")) == []
