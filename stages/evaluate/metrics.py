"""Confusion matrix and the scores of generalised zero-shot segmentation.

Legend: H W pixels, C classes. Rows of a confusion matrix are labels, columns are predictions.
Every score is a share between 0 and 1, NaN where it is not defined (a class that neither labels
nor predictions show, a group without such a class).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.data.spec import VOID


def confusion(
    prediction_HW: NDArray[np.uint8], label_HW: NDArray[np.uint8], classes: int
) -> NDArray[np.int64]:
    """(C, C) pixel counts of one image, label by prediction; void labels count nowhere."""
    assert prediction_HW.shape == label_HW.shape
    labelled_HW = label_HW != VOID
    label_P = label_HW[labelled_HW].astype(np.int64)
    prediction_P = prediction_HW[labelled_HW].astype(np.int64)
    counts = np.bincount(label_P * classes + prediction_P, minlength=classes**2)
    assert prediction_P.max(initial=0) < classes, "predicted ids beyond C"
    assert counts.size == classes**2, "label ids beyond C"
    return counts.reshape(classes, classes)


@dataclass(frozen=True)
class Scores:
    """Scores of one evaluation, as the zero-shot papers report them."""

    iou: tuple[float, ...]
    """Intersection over union of each class, accumulated over the whole set."""
    accuracy: tuple[float, ...]
    """Share of each class's labelled pixels that are predicted right (recall)."""
    siou: float
    """Mean IoU of the seen classes."""
    uiou: float
    """Mean IoU of the unseen classes."""
    hiou: float
    """Harmonic mean of `siou` and `uiou`: of the two means, not a mean of harmonic means."""
    miou: float
    """Mean IoU of all classes."""
    pacc: float
    """Share of all labelled pixels that are predicted right (mmsegmentation's aAcc)."""

    @property
    def means(self) -> dict[str, float]:
        """The scores of the whole by the names and in the order of the tables."""
        return {
            "hIoU": self.hiou,
            "sIoU": self.siou,
            "uIoU": self.uiou,
            "mIoU": self.miou,
            "pAcc": self.pacc,
        }


def scores(confusion_CC: NDArray[np.int64], unseen_ids: Sequence[int]) -> Scores:
    """The scores of a confusion matrix summed over all images.

    As in mmsegmentation, means are over classes with at least one pixel in label or prediction.
    Without unseen classes `uiou` and `hiou` are NaN.
    """
    matrix = confusion_CC.astype(np.float64)
    hit_C, label_C, prediction_C = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    iou_C = _ratio(hit_C, label_C + prediction_C - hit_C)
    unseen_C = np.isin(np.arange(len(iou_C)), list(unseen_ids))
    siou, uiou = _mean(iou_C[~unseen_C]), _mean(iou_C[unseen_C])
    return Scores(
        iou=tuple(iou_C.tolist()),
        accuracy=tuple(_ratio(hit_C, label_C).tolist()),
        siou=siou,
        uiou=uiou,
        hiou=harmonic_mean(siou, uiou),
        miou=_mean(iou_C),
        pacc=float(hit_C.sum() / matrix.sum()) if matrix.any() else float("nan"),
    )


def harmonic_mean(seen: float, unseen: float) -> float:
    """2su / (s + u); 0 if both are 0, NaN if one is NaN."""
    return 0.0 if seen == unseen == 0 else 2 * seen * unseen / (seen + unseen)


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def _mean(values: NDArray[np.float64]) -> float:
    """Mean of what is defined; NaN, without numpy's warning, where nothing is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
