"""How far a run of stage one is, and where its time went."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

Phase = Literal["read", "teacher", "regions", "crops", "write"]
"""`crops` includes the teacher's passes over them."""


@dataclass(frozen=True)
class Progress:
    """One step is one image of one artifact, or one whose files are looked at again."""

    phase: Phase
    done: int
    total: int


class Meter:
    """Counts steps and seconds of a run, and tells `progress` of every change."""

    def __init__(self, progress: Callable[[Progress], None]) -> None:
        self._progress = progress
        self._total = 0
        self._done = 0
        self._phase: Phase = "read"
        self.seconds: dict[Phase, float] = {}

    def expect(self, steps: int) -> None:
        """So many more steps are to be done."""
        self._total += steps

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """The time inside belongs to this phase."""
        self._phase = phase
        self.advance(0)
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + perf_counter() - start

    def advance(self, steps: int) -> None:
        """So many more steps are done."""
        self._done += steps
        self._progress(Progress(self._phase, self._done, self._total))
