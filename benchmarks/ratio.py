"""Two things measured in one run, as the benchmarks print and keep them.

Machines are noisy, so both sides alternate and the median of the ratios is printed with its spread.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ROUNDS = 5


@dataclass(frozen=True)
class Ratio:
    """Two things, round by round: their seconds, or whatever `unit` says."""

    name: str
    first: tuple[float, ...]
    second: tuple[float, ...]
    unit: str = "s"
    target: str = ""
    """What is wanted of the ratio, in words."""

    @property
    def median(self) -> float:
        """Of the rounds' ratios."""
        return statistics.median(self._ratios)

    @property
    def _ratios(self) -> list[float]:
        return [a / b for a, b in zip(self.first, self.second, strict=True)]

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.median:.3f}"
            + (f"  [{self.target}]" if self.target else "")
            + f"  ({min(self._ratios):.3f} to {max(self._ratios):.3f}"
            f"; {statistics.median(self.first):.3f} {self.unit}"
            f" / {statistics.median(self.second):.3f} {self.unit})"
        )

    def as_json(self) -> dict[str, Any]:
        """Everything measured, with the median and the spread."""
        return {
            "name": self.name,
            "median": self.median,
            "least": min(self._ratios),
            "most": max(self._ratios),
            "target": self.target,
            "unit": self.unit,
            "first": list(self.first),
            "second": list(self.second),
        }


def timed(work: Callable[[], object]) -> float:
    """Seconds that a piece of work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def timed_in_turn(
    name: str, first: Callable[[], object], second: Callable[[], object], *, target: str = ""
) -> Ratio:
    """Run both once to warm up, then in turn."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for round_number in range(ROUNDS + 1):
        for work, spent in zip((first, second), seconds, strict=True):
            taken = timed(work)
            if round_number:
                spent.append(taken)
    return Ratio(name, tuple(seconds[0]), tuple(seconds[1]), target=target)
