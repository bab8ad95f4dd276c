"""The ceiling of a comparison: runs of the same student that had labels of every class.

Such a run has a description of its own (`unseen: []`), so its results have no hIoU. Scored over the
seen and unseen classes of the other runs they show how much of what labels give is reached without.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from zsseg.stages.evaluate.metrics import scores
from zsseg.stages.evaluate.result import EvaluationResult


def is_ceiling(result: EvaluationResult, of: EvaluationResult) -> bool:
    """Had this run labels of all classes, on the classes and labelled pixels that `of` has?

    Equal counts of labelled pixels in every class stand for equal images: descriptions differ in
    name.
    """
    return (
        not result.unseen
        and bool(of.unseen)
        and result.classes == of.classes
        and result.images == of.images
        and np.array_equal(result.confusion_CC.sum(1), of.confusion_CC.sum(1))
    )


def as_if_unseen(result: EvaluationResult, unseen: Sequence[str]) -> EvaluationResult:
    """The same predictions, their classes counted as seen and unseen like those of other runs."""
    ids = [result.classes.index(name) for name in unseen]
    return replace(result, unseen=tuple(unseen), scores=scores(result.confusion_CC, ids))


def best_means(values: Sequence[tuple[str, str, float]]) -> Mapping[str, float]:
    """By experiment: the best mean hIoU over seeds.

    `values` are experiment, all that decides a result but the seed, and hIoU: results of one
    experiment with other steps are averaged apart, and the best stands for it.
    """
    groups: dict[tuple[str, str], list[float]] = {}
    for experiment, settings, value in values:
        groups.setdefault((experiment, settings), []).append(value)
    best: dict[str, float] = {}
    for (experiment, _), each in groups.items():
        best[experiment] = max(best.get(experiment, 0.0), float(np.mean(each)))
    return best
