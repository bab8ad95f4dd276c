"""Which candidate is best over the folds, and whether the folds agree. Pure arithmetic, in points.

Legend: a score is hIoU in percent; F folds.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zsseg.pipeline.ablate.orders import Statistic

Table = Mapping[str, Sequence[Statistic]]
"""Candidate -> its scores over seeds in each of the F folds."""


@dataclass(frozen=True)
class FoldChoice:
    """What one fold says of the choice."""

    best: str
    """The candidate that is best in this fold."""
    lost: float
    """How far the picked one is below it here."""
    spread: float | None
    """Standard deviation of a difference of two runs, sqrt(s_best^2 + s_picked^2); None with one
    seed."""
    of_others: str | None
    """What the other folds would have picked; None where there are none."""
    lost_of_others: float | None
    """How far that is below the best here: what a choice costs on classes that it never saw."""

    @property
    def agrees(self) -> bool:
        """Is the picked candidate the best one here, or below it by no more than the spread?"""
        return self.lost <= (self.spread or 0.0)


@dataclass(frozen=True)
class Choice:
    """The picked candidate."""

    picked: str
    means: Mapping[str, float]
    """Mean over folds of the candidates that are scored in all of them."""
    folds: tuple[FoldChoice, ...]

    @property
    def agreeing(self) -> int:
        """In how many folds the picked one is best, or within the spread of the best."""
        return sum(fold.agrees for fold in self.folds)


def choose(table: Table) -> Choice | None:
    """The candidate of the highest mean over folds; of equal ones the first.

    A candidate without a score in a fold is not compared; None where none is left.
    """
    means = {
        name: [score.mean for score in scores if score.mean is not None]
        for name, scores in table.items()
    }
    whole = {name: found for name, found in means.items() if len(found) == len(table[name])}
    if not whole:
        return None
    over_folds = {name: statistics.fmean(found) for name, found in whole.items()}
    picked = _best(over_folds)
    folds = range(len(whole[picked]))
    return Choice(picked, over_folds, tuple(_of_fold(table, whole, picked, fold) for fold in folds))


def _best(scores: Mapping[str, float]) -> str:
    return max(scores, key=lambda name: scores[name])  # the first of equal ones


def _of_fold(
    table: Table, means: Mapping[str, Sequence[float]], picked: str, fold: int
) -> FoldChoice:
    here = {name: found[fold] for name, found in means.items()}
    best = _best(here)
    others = {
        name: statistics.fmean(rest)
        for name, found in means.items()
        if (rest := [*found[:fold], *found[fold + 1 :]])
    }
    of_others = _best(others) if others else None
    deviations = [table[name][fold].deviation for name in (best, picked)]
    known = [each for each in deviations if each is not None]
    return FoldChoice(
        best=best,
        lost=here[best] - here[picked],
        spread=math.hypot(*known) if len(known) == len(deviations) else None,
        of_others=of_others,
        lost_of_others=here[best] - here[of_others] if of_others else None,
    )
