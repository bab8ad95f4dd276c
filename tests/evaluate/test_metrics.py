"""Confusion matrix and scores, against scikit-learn and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, jaccard_score

from zsseg.stages.evaluate.metrics import confusion, harmonic_mean, scores


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(2, 30), void=st.floats(0, 1))
def test_confusion_equals_scikit_learn(seed: int, classes: int, void: float) -> None:
    rng = np.random.default_rng(seed)
    prediction_HW = rng.integers(0, classes, (17, 23)).astype(np.uint8)
    label_HW = rng.integers(0, classes, (17, 23)).astype(np.uint8)
    label_HW[rng.random((17, 23)) < void] = 255
    label_HW[0, 0] = 0  # scikit-learn wants at least one label

    matrix = confusion(prediction_HW, label_HW, classes)

    valid = label_HW != 255
    expected = confusion_matrix(label_HW[valid], prediction_HW[valid], labels=range(classes))
    assert matrix.dtype == np.int64
    np.testing.assert_array_equal(matrix, expected)


def test_iou_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    prediction_HW = rng.integers(0, 6, (40, 40)).astype(np.uint8)
    label_HW = rng.integers(0, 6, (40, 40)).astype(np.uint8)
    result = scores(confusion(prediction_HW, label_HW, 6), unseen_ids=(1, 4))
    expected = jaccard_score(label_HW.ravel(), prediction_HW.ravel(), average=None)
    np.testing.assert_allclose(result.iou, expected)
    assert result.siou == pytest.approx(expected[[0, 2, 3, 5]].mean())
    assert result.uiou == pytest.approx(expected[[1, 4]].mean())
    assert result.miou == pytest.approx(expected.mean())


def test_scores_by_hand() -> None:
    # Three classes and one that never occurs; class 2 is unseen.
    #   label 0: 6 right, 2 as class 1;  label 1: 4 right;  label 2: 3 right, 5 as class 0
    matrix = np.array([[6, 2, 0, 0], [0, 4, 0, 0], [5, 0, 3, 0], [0, 0, 0, 0]], dtype=np.int64)
    result = scores(matrix, unseen_ids=(2,))
    np.testing.assert_allclose(result.iou, [6 / 13, 4 / 6, 3 / 8, math.nan])
    np.testing.assert_allclose(result.accuracy, [6 / 8, 1.0, 3 / 8, math.nan])
    assert result.siou == pytest.approx((6 / 13 + 4 / 6) / 2)  # the absent class has no part
    assert result.uiou == pytest.approx(0.375)
    assert result.miou == pytest.approx((6 / 13 + 4 / 6 + 3 / 8) / 3)
    assert result.hiou == pytest.approx(2 * result.siou * result.uiou / (result.siou + result.uiou))
    assert result.pacc == pytest.approx(13 / 20)


def test_predicted_but_unlabelled_class_has_iou_zero() -> None:
    matrix = np.array([[5, 5], [0, 0]], dtype=np.int64)
    result = scores(matrix, unseen_ids=(1,))
    assert result.iou == (0.5, 0.0)
    assert math.isnan(result.accuracy[1])
    assert result.uiou == 0.0


def test_without_unseen_classes() -> None:
    result = scores(np.diag([3, 4]).astype(np.int64), unseen_ids=())
    assert (result.siou, result.miou, result.pacc) == (1.0, 1.0, 1.0)
    assert math.isnan(result.uiou)
    assert math.isnan(result.hiou)


def test_nothing_labelled() -> None:
    void_HW = np.full((2, 2), 255, dtype=np.uint8)
    result = scores(confusion(np.zeros((2, 2), np.uint8), void_HW, 2), unseen_ids=(1,))
    assert all(math.isnan(v) for v in (result.siou, result.uiou, result.hiou, result.pacc))


def test_harmonic_mean_of_zeros() -> None:
    assert harmonic_mean(0.0, 0.0) == 0.0
    assert harmonic_mean(0.5, 0.0) == 0.0
    assert math.isnan(harmonic_mean(0.5, math.nan))


@pytest.mark.parametrize(("prediction", "label"), [(3, 0), (0, 3)])
def test_ids_beyond_the_classes_are_refused(prediction: int, label: int) -> None:
    with pytest.raises(AssertionError):
        confusion(np.full((1, 1), prediction, np.uint8), np.full((1, 1), label, np.uint8), 3)
