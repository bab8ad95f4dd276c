"""One image in, one prediction out: labels, scores, confidence, colours."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.colour_run import COLOURS, colour_run
from numpy.typing import NDArray
from torch import Tensor

from zsseg.stages.data.images import read_image
from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.asked_names import ask_names, with_text
from zsseg.stages.evaluate.colours import name_colours
from zsseg.stages.evaluate.prediction import Look
from zsseg.stages.evaluate.predictor import Predictor
from zsseg.stages.evaluate.scorer import Scorer
from zsseg.stages.evaluate.trained_run import TrainedRun


@pytest.fixture
def run(tiny_world: Path, tmp_path: Path) -> TrainedRun:
    folder = tmp_path / "run"
    folder.mkdir()
    return colour_run(folder, tiny_world)


@pytest.fixture
def image_HW3(tiny_world: Path) -> NDArray[np.uint8]:
    return read_image(tiny_world.parent / "images" / "val" / "scene_000.png")


def own(run: TrainedRun, **changes: float) -> Predictor:
    asked = with_text(run, run.spec.classes, [], run.text_CD)
    return Predictor(run, asked, unsure=changes.get("unsure", 0.0))


def test_all_of_a_prediction(run: TrainedRun, image_HW3: NDArray[np.uint8]) -> None:
    found = own(run).predict(image_HW3)
    assert found.classes == run.spec.classes
    assert found.labels.shape == found.confidence.shape == image_HW3.shape[:2]
    assert found.scores.shape[0] == 4
    np.testing.assert_array_equal(found.colours, name_colours(found.classes, run.spec)[:4])
    shares = found.shares()
    assert sum(shares.values()) == pytest.approx(1)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert shares["sky"] == (found.labels == 0).mean()
    assert found.void_share() == 0
    assert found.mean_confidence == pytest.approx(found.confidence.mean(), abs=0.05)


def test_unsure_pixels_are_void_and_no_others(
    run: TrainedRun, image_HW3: NDArray[np.uint8]
) -> None:
    plain = own(run).predict(image_HW3)
    threshold = float(np.median(plain.confidence))
    found = own(run, unsure=threshold).predict(image_HW3)
    unsure_HW = plain.confidence < threshold
    assert 0 < unsure_HW.mean() < 0.9
    np.testing.assert_array_equal(found.labels, np.where(unsure_HW, 255, plain.labels))
    np.testing.assert_array_equal(found.confidence, plain.confidence)
    assert found.void_share() == unsure_HW.mean()
    # What lies outside of 0 to 1, or is no number, is no threshold.
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(UserError, match="least confidence from 0 to 1"):
            own(run, unsure=wrong)


def test_a_background_word_counts_among_the_names(
    run: TrainedRun, image_HW3: NDArray[np.uint8]
) -> None:
    asked = with_text(run, ["sky"], ["ground", "box", "ball"], run.text_CD)
    found = Predictor(run, asked).predict(image_HW3)
    assert found.scores.shape[0] == 1
    assert set(np.unique(found.labels)) == {0, 255}
    # With a single class, confidence is that of the four names, not 1 everywhere.
    np.testing.assert_allclose(found.confidence, own(run).predict(image_HW3).confidence)


def test_names_are_added_and_gamma_stays_with_the_seen(run: TrainedRun) -> None:
    def encode(names: object) -> NDArray[np.float32]:
        return np.stack([run.text_CD[0].numpy(), np.eye(1, 3, dtype=np.float32)[0]])

    asked = ask_names(run, [*run.spec.classes, "tram"], encode=encode)
    assert asked.classes == (*run.spec.classes, "tram")
    assert asked.seen_ids == run.spec.seen_ids
    torch.testing.assert_close(asked.text_KD[:4], run.text_CD)
    with pytest.raises(UserError, match="given twice"):
        ask_names(run, [*run.spec.classes, "Sky"], encode=encode)


def test_the_overlay_is_as_large_as_the_image_unless_a_legend_is_asked_for(
    run: TrainedRun, image_HW3: NDArray[np.uint8]
) -> None:
    found = own(run).predict(image_HW3)
    assert found.overlay().size == (64, 48)
    assert found.overlay(Look(legend=True)).size[1] > 48
    faint = np.asarray(found.overlay(Look(alpha=0)))
    strong = np.asarray(found.overlay(Look(alpha=1)))
    np.testing.assert_array_equal(strong, found.colours[found.labels])
    assert (faint == image_HW3).all(-1).mean() > 0.5  # but for borders
    for alpha in (-0.1, 1.1, float("nan")):
        with pytest.raises(UserError, match="share of the class colour"):
            Look(alpha=alpha)


def test_files_of_a_prediction(
    run: TrainedRun, image_HW3: NDArray[np.uint8], tmp_path: Path
) -> None:
    found = own(run).predict(image_HW3)
    files = found.write(tmp_path / "a.b", Look(confidence=True))
    assert [path.name for path in files if path] == [
        "a.b.png",
        "a.b_overlay.png",
        "a.b_confidence.png",
    ]
    assert files.confidence is not None
    grey_HW = read_image(files.confidence)[..., 0]
    np.testing.assert_array_equal(grey_HW, np.rint(255 * found.confidence))
    assert found.write(tmp_path / "c").confidence is None
    assert len(list(tmp_path.glob("c*"))) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32),
    ],
)
def test_an_array_that_is_no_image(run: TrainedRun, wrong: NDArray[np.uint8]) -> None:
    with pytest.raises(UserError, match="Give RGB as uint8"):
        own(run).predict(wrong)


def test_one_pixel_is_an_image(run: TrainedRun) -> None:
    image_HW3 = np.array([[COLOURS[2]]], dtype=np.uint8)
    assert own(run).predict(image_HW3).labels.tolist() == [[2]]


def test_images_of_one_size_go_through_the_student_together(
    run: TrainedRun, image_HW3: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [image_HW3, image_HW3[:40, :70], image_HW3[::-1], image_HW3[:, ::-1], image_HW3[:40]]
    whole = replace(run, evaluate=run.evaluate.model_copy(update={"mode": "whole"}))
    single = [own(whole).predict(np.ascontiguousarray(each)) for each in images]
    batches: list[int] = []
    scores_of = Scorer.__call__

    def counted(scorer: Scorer, image_B3HW: Tensor) -> Tensor:
        batches.append(len(image_B3HW))
        return scores_of(scorer, image_B3HW)

    monkeypatch.setattr(Scorer, "__call__", counted)
    names = [f"image {i}" for i in range(len(images))]

    def held(predictor: Predictor, expected: list[int]) -> None:
        batches.clear()
        many = predictor.predict_many(images, names=names)
        assert batches == expected
        for one, other in zip(single, many, strict=True):
            assert (one.labels == other.labels).mean() > 0.999
            np.testing.assert_allclose(one.name_scores, other.name_scores, atol=1e-5)

    held(own(whole), [3, 2])  # of two sizes as the student sees them
    assert own(whole).predict_many([], names=[]) == []
    size = whole.stride**2 * single[0].name_scores[0].size
    monkeypatch.setattr("zsseg.stages.evaluate.inference.CPU_PIXELS", 2 * size)
    batches.clear()
    own(whole).predict_many([image_HW3] * 5, names=names)
    assert batches == [2, 2, 1]

    def too_large(scorer: Scorer, image_B3HW: Tensor) -> Tensor:
        if len(image_B3HW) > 1:
            raise MemoryError
        return counted(scorer, image_B3HW)

    monkeypatch.setattr(Scorer, "__call__", too_large)
    held(own(whole), [1] * 5)


def test_images_seen_through_windows_go_one_by_one(
    run: TrainedRun, image_HW3: NDArray[np.uint8]
) -> None:
    slide = replace(run, evaluate=run.evaluate.model_copy(update={"mode": "slide"}))
    many = own(slide).predict_many([image_HW3, image_HW3], names=["a", "b"])
    for each in many:
        np.testing.assert_array_equal(each.labels, own(slide).predict(image_HW3).labels)
