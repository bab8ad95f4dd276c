"""An exported student gives what its run gives, says what it is, and leaves nothing half-done."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from helpers.colour_run import colour_run
from helpers.drawn_world import draw_world
from numpy.typing import NDArray
from torch import Tensor

from zsseg.stages.data.spec import VOID
from zsseg.stages.errors import DatasetError, ResourceError, UserError
from zsseg.stages.evaluate.asked_names import with_text
from zsseg.stages.evaluate.colours import name_colours
from zsseg.stages.evaluate.confidence import confidence_map
from zsseg.stages.evaluate.inference import calibrated, predict_scores, prepared
from zsseg.stages.evaluate.labelling import upsampled_argmax
from zsseg.stages.evaluate.scorer import class_scorer
from zsseg.stages.evaluate.trained_run import TrainedRun
from zsseg.stages.export import export_run as export_module
from zsseg.stages.export.export_run import ExportOptions, export_run
from zsseg.stages.export.network_graph import network_graph
from zsseg.stages.train.run_config import EvaluateConfig

WHOLE = EvaluateConfig(short_side=None, mode="whole")
SIZES = ((61, 97), (128, 96), (200, 70))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    """Of every run here: the embeddings and the projection are outside it."""
    folder = tmp_path_factory.mktemp("network")
    return network_graph(colour_run(folder, draw_world(folder / "world", images=1)).student)


@pytest.fixture(autouse=True)
def exported_once(network: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsseg.stages.export.network_graph.network_graph", lambda _: network)


@pytest.fixture
def run(tiny_world: Path, tmp_path: Path) -> TrainedRun:
    run = colour_run(tmp_path / "run", tiny_world)
    (tmp_path / "run").mkdir()
    return replace(run, record=run.record.model_copy(update={"root": tiny_world.parent}))


def images(sizes: Sequence[tuple[int, int]] = SIZES) -> list[NDArray[np.uint8]]:
    """Areas of a few colours with grain."""
    rng = np.random.default_rng(0)
    found = []
    for rows, columns in sizes:
        coarse = np.kron(rng.integers(0, 256, (9, 9, 3)), np.ones((24, 24, 1)))[:rows, :columns]
        found.append(np.clip(coarse + rng.normal(0, 9, coarse.shape), 0, 255).astype(np.uint8))
    return found


def text_of(count: int, width: int = 3) -> Tensor:
    rng = torch.Generator().manual_seed(count)
    return F.normalize(torch.randn(count, width, generator=rng), dim=1)


def ran(path: Path, image_HW3: NDArray[np.uint8], text_CD: Tensor | None = None) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(path)
    feeds = {"image": image_HW3[None]} | ({} if text_CD is None else {"text": text_CD.numpy()})
    outputs = [each.name for each in session.get_outputs()]
    return {name: value[0] for name, value in zip(outputs, session.run(None, feeds), strict=True)}


def scores(run: TrainedRun, text_CD: Tensor, image_HW3: NDArray[np.uint8]) -> Tensor:
    image_3HW = prepared(image_HW3, config=run.evaluate, stride=run.stride)
    scorer = class_scorer(run.student, text_CD)
    return predict_scores(scorer, image_3HW, config=run.evaluate, stride=run.stride)


@pytest.mark.parametrize("config", [EvaluateConfig(short_side=96, window=64, stride=48), WHOLE])
def test_one_file_takes_any_size_and_any_names(
    run: TrainedRun, config: EvaluateConfig, tmp_path: Path
) -> None:
    run = replace(run, evaluate=config)
    done = export_run(run, tmp_path / "a" / "model.onnx", options=ExportOptions(scores=True))
    assert done.agreement.labels > 0.999
    assert done.images == "4 images of 'tiny-world' (train)"
    for image_HW3 in images():
        for names in (1, 3, 14, 200):
            text_CD = text_of(names)
            found = ran(done.path, image_HW3, text_CD)
            score_Chw = scores(run, text_CD, image_HW3)
            np.testing.assert_allclose(found["scores"], score_Chw, atol=1e-5)
            label_HW = upsampled_argmax(score_Chw, image_HW3.shape[:2])
            assert (found["labels"] == label_HW).mean() > 0.999
            # A margin, by the definition, in float64.
            size = image_HW3.shape[:2]
            score_CHW = F.interpolate(score_Chw[None].double(), size, mode="bilinear")[0]
            share_CHW = (100.0 * score_CHW).softmax(0)
            best = share_CHW.topk(min(2, names), dim=0).values
            margin_HW = best[0] - best[1] if names > 1 else best[0]
            np.testing.assert_allclose(found["confidence"], margin_HW, atol=2e-3)


@pytest.mark.parametrize("measure", ["margin", "probability", "cosine"])
def test_confidence_is_what_was_asked_for(run: TrainedRun, measure: Any, tmp_path: Path) -> None:
    run = replace(run, evaluate=WHOLE)
    done = export_run(run, tmp_path / "model.onnx", options=ExportOptions(measure=measure))
    (image_HW3,) = images([(64, 64)])
    text_CD = text_of(5)
    score_Chw = scores(run, text_CD, image_HW3)
    expected = confidence_map(score_Chw, (64, 64), scale=100, measure=measure)
    found = ran(done.path, image_HW3, text_CD)["confidence"]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_several_images_are_one_batch(run: TrainedRun, tmp_path: Path) -> None:
    done = export_run(run, tmp_path / "model.onnx")
    both = np.stack(images([(61, 97), (61, 97)]))
    session = onnxruntime.InferenceSession(done.path)
    feeds = {"image": both, "text": run.text_CD.numpy()}
    together = session.run(["labels"], feeds)[0]
    for image_HW3, label_HW in zip(both, together, strict=True):
        np.testing.assert_array_equal(ran(done.path, image_HW3, run.text_CD)["labels"], label_HW)


def test_gamma_is_taken_from_the_run_s_seen_classes_among_any_names(
    run: TrainedRun, tmp_path: Path
) -> None:
    config = WHOLE.model_copy(update={"calibration": 0.3})
    run = replace(run, evaluate=config)
    assert 0 < len(run.spec.seen_ids) < len(run.names)
    done = export_run(run, tmp_path / "model.onnx", options=ExportOptions(scores=True))
    (image_HW3,) = images([(64, 64)])
    text_CD = torch.cat([text_of(2), run.text_CD])
    plain_Chw = scores(run, text_CD, image_HW3)
    expected = calibrated(plain_Chw, 0.3, seen_ids=[2 + i for i in run.spec.seen_ids])
    found = ran(done.path, image_HW3, text_CD)["scores"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_best_of_a_class_s_names_counts(run: TrainedRun, tmp_path: Path) -> None:
    text_CSD = torch.stack([run.text_CD, text_of(len(run.text_CD))], dim=1)
    run = replace(run, text_CD=text_CSD, evaluate=WHOLE)
    done = export_run(run, tmp_path / "model.onnx", options=ExportOptions(scores=True))
    assert done.agreement.labels > 0.999
    (image_HW3,) = images([(64, 64)])
    found = ran(done.path, image_HW3, text_CSD)["scores"]
    np.testing.assert_allclose(found, scores(run, text_CSD, image_HW3), atol=1e-5)


def test_fixed_names_are_in_the_file_and_background_is_void(
    run: TrainedRun, tmp_path: Path
) -> None:
    fixed = with_text(run, ["a", "b", "c"], ["anything else"], text_of(4))
    done = export_run(run, tmp_path / "model.onnx", fixed=fixed)
    session = onnxruntime.InferenceSession(done.path)
    assert [each.name for each in session.get_inputs()] == ["image"]
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["zsseg.names"]) == list(fixed.names)
    colours = name_colours(fixed.classes, run.spec)[:4]
    assert json.loads(about["zsseg.colours"]) == colours.tolist()
    for image_HW3 in images():
        label_HW = upsampled_argmax(scores(run, fixed.text_KD, image_HW3), image_HW3.shape[:2])
        label_HW[label_HW == 3] = VOID
        assert (ran(done.path, image_HW3)["labels"] == label_HW).mean() > 0.999


def test_what_a_file_is_given_wrongly(run: TrainedRun, tmp_path: Path) -> None:
    """Ten thousand names are no mistake; no name at all leaves no confidence in anything."""
    done = export_run(run, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(done.path)
    (image_HW3,) = images([(20, 30)])
    text = text_of(10_000).numpy()
    assert session.run(["labels"], {"image": image_HW3[None], "text": text})[0].max() > VOID
    for none in (text[:0], np.full((2, 3), np.nan, np.float32)):
        confidence = session.run(["confidence"], {"image": image_HW3[None], "text": none})[0]
        assert np.isnan(confidence).all()
    for wrong in (
        {"image": image_HW3[None].astype(np.float32)},
        {"image": image_HW3[None, :, :, 0]},
        {"image": np.zeros((1, 20, 30, 4), np.uint8)},
        {"image": np.zeros((1, 0, 0, 3), np.uint8)},
        {"text": np.ones((2, 4), np.float32)},
    ):
        feeds = {"image": image_HW3[None], "text": run.text_CD.numpy()} | wrong
        with pytest.raises(Exception, match=r"ONNXRuntimeError|Unexpected input"):
            session.run(None, feeds)


def test_the_file_says_what_it_is_and_names_no_folder_of_this_machine(
    run: TrainedRun, tmp_path: Path
) -> None:
    done = export_run(run, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(done.path)
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["zsseg.names"]) == list(run.names)
    assert json.loads(about["zsseg.opset"]) == 20
    assert json.loads(about["zsseg.recipe"])["config"]["train"]["steps"] == 80_000
    assert "licences" in about["zsseg.licences"]
    assert str(tmp_path) not in json.dumps(about)


def test_the_run_itself_stays_as_it_is(run: TrainedRun, tmp_path: Path) -> None:
    run.student.train()
    export_run(run, tmp_path / "model.onnx")
    assert run.student.training
    assert all(each.requires_grad for each in run.student.parameters())


@pytest.mark.parametrize("place", ["model.pt", "run/model.onnx", ""])
def test_a_wrong_place_is_refused(run: TrainedRun, place: str, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        export_run(run, tmp_path / place)


@pytest.mark.parametrize("there", ["model.onnx", "run.py"])
def test_what_is_there_is_replaced_only_when_asked(
    run: TrainedRun, there: str, tmp_path: Path
) -> None:
    (tmp_path / there).write_text("mine")
    with pytest.raises(UserError, match="add --force"):
        export_run(run, tmp_path / "model.onnx")
    assert (tmp_path / there).read_text() == "mine"
    export_run(run, tmp_path / "model.onnx", options=ExportOptions(force=True))
    assert (tmp_path / there).read_bytes() != b"mine"


def test_an_export_that_does_not_agree_is_not_kept(
    run: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(export_module.LEAST_EQUAL, "fp32", 1.01)
    out = tmp_path / "new"
    with pytest.raises(UserError, match="Nothing is kept"):
        export_run(run, out / "model.onnx")
    assert [*out.iterdir()] == []


def test_a_file_that_does_not_run_is_told_and_not_kept(
    run: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of PSPNet and UPerNet, whose pooling is written for the size of the example."""

    def broken(*_: object) -> None:
        raise RuntimeError("[ONNXRuntimeError] : 2 : indices element out of data bounds")

    monkeypatch.setattr("zsseg.stages.export.agreement.agreement", broken)
    out = tmp_path / "new"
    with pytest.raises(UserError, match="out of data bounds"):
        export_run(run, out / "model.onnx")
    assert [*out.iterdir()] == []


def test_a_full_disk_leaves_nothing(
    run: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zsseg.stages.export.student_graph.save_model", full)
    out = tmp_path / "new"
    with pytest.raises(ResourceError, match="No space left"):
        export_run(run, out / "model.onnx")
    assert [*out.iterdir()] == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(run: TrainedRun, tmp_path: Path) -> None:
    out = tmp_path / "locked"
    out.mkdir(mode=0o500)
    with pytest.raises(ResourceError, match="cannot write"):
        export_run(run, out / "model.onnx")


def test_images_of_a_folder_and_where_there_is_no_data_set(
    run: TrainedRun, tiny_world: Path, tmp_path: Path
) -> None:
    folder = tiny_world.parent / "images" / "val"
    done = export_run(run, tmp_path / "model.onnx", options=ExportOptions(images=folder))
    assert done.images == f"3 images of {folder}"
    gone = replace(run, record=run.record.model_copy(update={"root": tmp_path / "gone"}))
    done = export_run(gone, tmp_path / "b" / "model.onnx")
    assert "generated" in done.images
    with pytest.raises(UserError, match="calibrated on real images"):
        export_run(gone, tmp_path / "c" / "model.onnx", options=ExportOptions("int8"))
    # A damaged image is told, and not taken for a data set that is not there.
    image = next((tiny_world.parent / "images" / "train").iterdir())
    whole = image.read_bytes()
    image.write_bytes(whole[:50])
    try:
        with pytest.raises(DatasetError, match=image.name):
            export_run(run, tmp_path / "e" / "model.onnx")
    finally:
        image.write_bytes(whole)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="holds no image"):
        export_run(run, tmp_path / "d" / "model.onnx", options=ExportOptions(images=empty))
