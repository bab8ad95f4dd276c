"""Each kind of student is exported once; the file takes any size and any number of names, or there
is none.

Building and exporting the four takes half a minute of one core, so all cases share the files.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from helpers.colour_run import record
from torch import nn

from zsseg.stages.data.spec import load_spec
from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.inference import predict_scores, prepared
from zsseg.stages.evaluate.labelling import upsampled_argmax
from zsseg.stages.evaluate.scorer import class_scorer
from zsseg.stages.evaluate.trained_run import TrainedRun
from zsseg.stages.export.agreement import open_session
from zsseg.stages.export.export_run import export_run
from zsseg.stages.export.network_graph import network_graph
from zsseg.stages.export.student_graph import GraphForm, save_model, student_graph
from zsseg.stages.train.run_config import EvaluateConfig, StudentConfig
from zsseg.stages.train.students.student import Student, build_student, feature_stride

WIDTH = 32
CONFIG = EvaluateConfig(short_side=None, mode="whole")
STUDENTS = {
    "segformer": "mit_b0",
    "segnext": "mscan_t",
    "setr_pup": "vit_tiny_patch16_224",
    "unet": "resnet18",
}


def student_of(architecture: str) -> Student:
    """With random weights; a ViT of two blocks."""
    torch.manual_seed(0)
    encoder = STUDENTS[architecture]
    config = StudentConfig(architecture=architecture, encoder=encoder, weights="none")
    student = build_student(config, WIDTH)
    if architecture == "setr_pup":
        parts: nn.Module = student.network.encoder  # type: ignore[assignment]
        parts.blocks = parts.blocks[:2]  # type: ignore[index]
        student.network.layers = [1]  # type: ignore[assignment]
    return student.eval().requires_grad_(False)


def run_of(student: Student) -> TrainedRun:
    spec = load_spec("camvid")
    text_CD = F.normalize(torch.randn(len(spec.classes), WIDTH), dim=1)
    return TrainedRun(
        path=Path("run"),
        record=record(spec),
        evaluate=CONFIG,
        student=student,
        step=0,
        stride=feature_stride(student),
        text_CD=text_CD,
        names=spec.prompt_names,
    )


@pytest.fixture(scope="module", params=STUDENTS)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainedRun, onnxruntime.InferenceSession]:
    run = run_of(student_of(request.param))
    model = student_graph(run, network_graph(run.student), GraphForm("margin", scores=True))
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    save_model(model, path)
    return run, open_session(path)


@pytest.mark.parametrize("size", [(64, 96), (97, 61), (30, 140)])
def test_labels_and_scores_are_pytorch_s(
    exported: tuple[TrainedRun, onnxruntime.InferenceSession], size: tuple[int, int]
) -> None:
    run, session = exported
    rng = np.random.default_rng(0)
    coarse = np.kron(rng.integers(0, 256, (9, 9, 3)), np.ones((17, 17, 1)))
    image_HW3 = np.clip(coarse[: size[0], : size[1]], 0, 255).astype(np.uint8)
    for names in (3, 14, 200):
        text_CD = F.normalize(torch.randn(names, WIDTH), dim=1)
        feeds = {"image": image_HW3[None], "text": text_CD.numpy()}
        labels, scores = session.run(["labels", "scores"], feeds)
        image_3HW = prepared(image_HW3, config=CONFIG, stride=run.stride)
        scorer = class_scorer(run.student, text_CD)
        score_Chw = predict_scores(scorer, image_3HW, config=CONFIG, stride=run.stride)
        np.testing.assert_allclose(scores[0], score_Chw, atol=1e-3)
        assert (labels[0] == upsampled_argmax(score_Chw, size)).mean() >= 0.999


def test_the_file_of_a_student_is_another_student_s(
    exported: tuple[TrainedRun, onnxruntime.InferenceSession],
) -> None:
    """The comparison above can fail."""
    run, session = exported
    other = replace(run, text_CD=run.text_CD.flip(1))
    image_HW3 = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    feeds = {"image": image_HW3[None], "text": other.text_CD.numpy()}
    (scores,) = session.run(["scores"], feeds)
    image_3HW = prepared(image_HW3, config=CONFIG, stride=run.stride)
    own = predict_scores(run.scorer, image_3HW, config=CONFIG, stride=run.stride)
    assert np.abs(scores[0] - own.numpy()).max() > 1e-2


def test_a_network_that_is_written_for_one_size_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """PSPNet's pooling is, and nothing tells before the file is run at another size."""
    monkeypatch.setitem(STUDENTS, "pspnet", "resnet18")
    run = run_of(student_of("pspnet"))
    out = tmp_path / "new"
    with pytest.raises(UserError, match="does not run the exported file at every size"):
        export_run(run, out / "model.onnx")
    assert [*out.iterdir()] == []
