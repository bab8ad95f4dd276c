"""Scores a run that was not shown some seen classes, on images that it was not trained on.

Labels are read as training reads them: a pixel of an unseen class is void, so it counts nowhere and
its label is never looked at. Unseen classes compete in the argmax all the same, and a pixel that
one of them takes from a seen class is an error, as it will be in use.

Legend: C classes, G gammas, H W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.data.images import read_image
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.data.visible import read_visible_label
from zsseg.stages.evaluate.evaluation import Progress, confusions
from zsseg.stages.evaluate.memory import FittingScorer, PreparedImage
from zsseg.stages.evaluate.metrics import harmonic_mean, scores
from zsseg.stages.evaluate.trained_run import TrainedRun


@dataclass(frozen=True)
class HiddenScores:
    """IoU as shares: means over the classes of a group that labels or predictions show."""

    hiou: float
    siou: float
    """Over the classes that training was shown."""
    uiou: float
    """Over the classes that were hidden from it; no class that is really unseen is among them."""


def visible_confusions(
    run: TrainedRun,
    spec: DatasetSpec,
    samples: Sequence[Sample],
    gammas: Sequence[float],
    *,
    progress: Progress,
) -> NDArray[np.int64]:
    """(G, C, C) pixels by label and prediction, one matrix per gamma.

    `spec` says which classes are really unseen; the run was trained with more of them. Rows of
    classes that `spec` calls unseen are 0. Raises DatasetError for a file that cannot be read, and
    ResourceError when no image fits the memory.
    """
    scorer = FittingScorer(run)

    def read(sample: Sample) -> tuple[NDArray[np.uint8], PreparedImage]:
        label_HW = read_visible_label(spec, sample)
        return label_HW, scorer.prepare(sample, read_image(sample.image))

    found_GCC = confusions(run.spec, samples, read, scorer, gammas, progress)
    scorer.report(len(samples))
    return found_GCC


def hidden_scores(
    confusion_CC: NDArray[np.int64], *, shown: Sequence[int], hidden: Sequence[int]
) -> HiddenScores:
    """The scores of the classes that were `shown` to training, and of those `hidden` from it."""
    iou_C = np.array(scores(confusion_CC, hidden).iou)
    siou, uiou = _mean(iou_C[list(shown)]), _mean(iou_C[list(hidden)])
    return HiddenScores(hiou=harmonic_mean(siou, uiou), siou=siou, uiou=uiou)


def _mean(values: NDArray[np.float64]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
