"""Our scores against mmsegmentation's definition of them, written out once more and slowly.

mmsegmentation takes the pixels with the ignored label out of prediction and label, counts three
histograms per image (label, prediction, and label where both agree), adds them up over the images
of the set, and only then divides: IoU = intersection / (label + prediction - intersection). A class
without a pixel in either is NaN and takes no part in a mean (numpy's nanmean).
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from helpers.colour_run import colour_run
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from zsseg.stages.data.images import read_image
from zsseg.stages.evaluate.evaluation import evaluate_run, student_label
from zsseg.stages.evaluate.metrics import Scores, confusion, scores
from zsseg.stages.evaluate.result import read_result, save_result

IGNORED = 255
Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Prediction and label of one image, (H, W) each."""


class Reference(NamedTuple):
    iou: list[float]
    accuracy: list[float]
    siou: float
    uiou: float
    hiou: float
    miou: float
    pacc: float


def _divided(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _nan_mean(values: list[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def mmseg(pairs: list[Pair], classes: int, unseen: list[int]) -> Reference:
    """mmsegmentation's definition, pixel by pixel."""
    agreed, predicted, labelled = [0] * classes, [0] * classes, [0] * classes
    for prediction_HW, label_HW in pairs:
        for guess, truth in zip(prediction_HW.ravel(), label_HW.ravel(), strict=True):
            if truth == IGNORED:
                continue
            predicted[guess] += 1
            labelled[truth] += 1
            agreed[truth] += guess == truth
    iou = [
        _divided(both, one + other - both)
        for both, one, other in zip(agreed, labelled, predicted, strict=True)
    ]
    seen_mean = _nan_mean([value for c, value in enumerate(iou) if c not in unseen])
    unseen_mean = _nan_mean([iou[c] for c in unseen])
    both = seen_mean + unseen_mean
    return Reference(
        iou=iou,
        accuracy=[_divided(part, whole) for part, whole in zip(agreed, labelled, strict=True)],
        siou=seen_mean,
        uiou=unseen_mean,
        hiou=2 * seen_mean * unseen_mean / both if both else both,
        miou=_nan_mean(iou),
        pacc=_divided(sum(agreed), sum(labelled)),
    )


def ours(pairs: list[Pair], classes: int, unseen: list[int]) -> Scores:
    return scores(np.sum([confusion(*pair, classes) for pair in pairs], axis=0), unseen)


def assert_same(found: Scores, expected: Reference) -> None:
    """NaN where the reference has NaN, and equal elsewhere."""
    for name, value in expected._asdict().items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-12, err_msg=name)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    classes=st.integers(2, 12),
    images=st.integers(1, 4),
    void=st.sampled_from([0.0, 0.2, 0.9, 1.0]),
    right=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_scores_are_mmsegmentations(
    seed: int, classes: int, images: int, void: float, right: float
) -> None:
    """Images of different sizes, ignored pixels, classes missing from labels or predictions."""
    rng = np.random.default_rng(seed)
    unseen = [c for c in range(classes) if rng.random() < 0.4]
    shown = rng.permutation(classes)[: rng.integers(1, classes + 1)]
    guessed = rng.permutation(classes)[: rng.integers(1, classes + 1)]
    pairs = []
    for _ in range(images):
        size = tuple(rng.integers(1, 14, 2))
        label_HW = rng.choice(shown, size).astype(np.uint8)
        prediction_HW = rng.choice(guessed, size).astype(np.uint8)
        prediction_HW = np.where(rng.random(size) < right, label_HW, prediction_HW)
        label_HW[rng.random(size) < void] = IGNORED
        pairs.append((prediction_HW, label_HW))
    assert_same(ours(pairs, classes, unseen), mmseg(pairs, classes, unseen))


def test_what_is_predicted_under_an_ignored_label_does_not_count() -> None:
    rng = np.random.default_rng(3)
    label_HW = rng.integers(0, 4, (20, 30)).astype(np.uint8)
    ignored_HW = rng.random((20, 30)) < 0.4
    label_HW[ignored_HW] = IGNORED
    prediction_HW = rng.integers(0, 4, (20, 30)).astype(np.uint8)
    first = confusion(prediction_HW, label_HW, 4)
    prediction_HW[ignored_HW] = rng.integers(0, 4, int(ignored_HW.sum()))
    np.testing.assert_array_equal(confusion(prediction_HW, label_HW, 4), first)


def test_areas_are_added_up_before_they_are_divided() -> None:
    """A large image weighs more than a small one: no mean over images."""
    small: Pair = (np.full((1, 2), 1, np.uint8), np.zeros((1, 2), np.uint8))
    large: Pair = (np.zeros((10, 10), np.uint8), np.zeros((10, 10), np.uint8))
    found = ours([small, large], 2, [])
    assert found.iou == (100 / 102, 0.0)
    assert_same(found, mmseg([small, large], 2, []))
    by_image = [ours([pair], 2, []).iou[0] for pair in (small, large)]
    assert np.mean(by_image) == 0.5


def test_a_class_counts_when_it_is_labelled_or_predicted() -> None:
    label_HW = np.array([[0, 0, 1, IGNORED]], np.uint8)
    prediction_HW = np.array([[0, 2, 1, 3]], np.uint8)
    found = ours([(prediction_HW, label_HW)], 5, [2, 3])
    assert found.iou[:3] == (0.5, 1.0, 0.0)
    assert all(math.isnan(value) for value in found.iou[3:])  # 3 under an ignored label only
    assert (found.siou, found.uiou, found.miou) == (0.75, 0.0, 0.5)
    assert_same(found, mmseg([(prediction_HW, label_HW)], 5, [2, 3]))


@pytest.mark.parametrize("absent", [None, 2, 3])
def test_a_whole_evaluation_is_mmsegmentations(
    tiny_world: Path, tmp_path: Path, absent: int | None
) -> None:
    """From image files to the written result, also when the split lacks a seen or unseen class."""
    run = colour_run(tmp_path / "run", tiny_world)
    root, pairs = tiny_world.parent, []
    for path in sorted((root / "labels" / "val").iterdir()):
        label_HW = np.array(Image.open(path))
        label_HW[label_HW == (IGNORED if absent is None else absent)] = IGNORED
        Image.fromarray(label_HW).save(path)
        image_HW3 = read_image(root / "images" / "val" / path.name)
        pairs.append((student_label(run, image_HW3), label_HW))
    (result,) = evaluate_run(run, run.spec, root, "val", progress=lambda done, total: None)
    expected = mmseg(pairs, len(run.spec.classes), list(run.spec.unseen_ids))
    assert_same(result.scores, expected)
    assert_same(read_result(save_result(tmp_path, result)[0]).scores, expected)
