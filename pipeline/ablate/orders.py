"""Mean and spread over seeds, and whether our rows are ordered as the paper's.

All figures are in percent, differences in percentage points.
"""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations


@dataclass(frozen=True)
class Statistic:
    """A figure over the seeds that were scored."""

    values: tuple[float, ...]
    seeds: tuple[int, ...] = ()
    """The seed of each value."""

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation with n - 1; None for fewer than two seeds."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Ordering:
    """Two rows with different hIoU in the paper, and whether ours are in the same order."""

    lower: str
    higher: str
    paper: float
    """Points of hIoU between them in the paper, above 0."""
    ours: float
    """Points of hIoU between our means: below 0 where they are reversed."""
    spread: float | None
    """Standard deviation of a difference of two runs, sqrt(s_lower^2 + s_higher^2); None where a
    row has one seed."""
    verdict: str


def orderings(
    paper: Mapping[str, float], ours: Mapping[str, Mapping[int, float]]
) -> list[Ordering]:
    """Every pair of rows with different hIoU in the paper, in its order, with our difference.

    `ours` has the hIoU by seed. Two rows are compared on the seeds that both have, so that an
    unfinished table does not compare seeds instead of rows; without a common seed they are left
    out. The verdict says "within the spread" unless our difference is larger than the spread.
    """
    found = []
    for first, second in combinations([name for name in paper if name in ours], 2):
        common = sorted(ours[first].keys() & ours[second].keys())
        if paper[first] == paper[second] or not common:
            continue
        lower, higher = sorted((first, second), key=lambda name: paper[name])
        low, high = (Statistic(tuple(ours[name][s] for s in common)) for name in (lower, higher))
        assert low.mean is not None
        assert high.mean is not None
        difference = high.mean - low.mean
        spread = None
        if low.deviation is not None and high.deviation is not None:
            spread = math.hypot(low.deviation, high.deviation)
        points = paper[higher] - paper[lower]
        found.append(
            Ordering(lower, higher, points, difference, spread, _verdict(difference, spread))
        )
    return found


def _verdict(difference: float, spread: float | None) -> str:
    if difference == 0:
        return "equal"
    word = "holds" if difference > 0 else "reversed"
    if spread is None:
        return f"{word}, spread unknown"
    return word if abs(difference) > spread else f"{word} within the spread"
