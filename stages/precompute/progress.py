"""How far a run of stage one is, and where its time went."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Literal, get_args

Phase = Literal["read", "preprocess", "teacher", "regions", "crops", "write"]
"""preprocess: images to the teacher's sizes; crops: cutting and sizing them, their forward passes
are the teacher's."""


PHASES: tuple[Phase, ...] = get_args(Phase)


class Stopped(Exception):
    """The run ends; what was at work is given up."""


class Clock:
    """Where the time of one thread's work goes, and how many images pass the teacher.

    `tick` is told of steps done, and may raise Stopped. `turn` is held while the device is used.
    """

    def __init__(
        self, tick: Callable[[int], None], turn: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._tick, self._turn = tick, turn
        self._phase: Phase | None = None
        self._since = perf_counter()
        self.seconds: dict[Phase, float] = {}
        self.passed = 0
        """Images and crops that passed the teacher."""

    @contextmanager
    def phase(self, phase: Phase | None) -> Iterator[None]:
        """The time inside belongs to this phase, and to none around it; None: it is waiting."""
        before = self._switch(phase)
        try:
            yield
        finally:
            self._switch(before)

    @contextmanager
    def alone(self, phase: Phase) -> Iterator[None]:
        """A phase that has the device to itself; waiting for it is no one's time."""
        with self.phase(None), self._turn(), self.phase(phase):
            self._tick(0)
            yield

    @contextmanager
    def forward(self, count: int) -> Iterator[None]:
        """The teacher's forward pass of so many images."""
        with self.alone("teacher"):
            yield
        self.passed += count

    def advance(self, steps: int) -> None:
        """So many more steps are done: one is one image of one artifact."""
        self._tick(steps)

    def _switch(self, phase: Phase | None) -> Phase | None:
        before, now = self._phase, perf_counter()
        if before is not None:
            self.seconds[before] = self.seconds.get(before, 0.0) + now - self._since
        self._phase, self._since = phase, now
        return before


@dataclass(frozen=True)
class Progress:
    """One step is one image of one artifact, or one whose files are looked at again."""

    done: int
    total: int
    images_per_second: float | None
    """Of those to compute; None before the first."""
    bytes: int
    """Written by this run."""
    failures: int
    """Images that cannot be used, found by this run."""
    seconds: Mapping[Phase, float]
    """Sums over all threads and processes; of finished shards."""


class Meter:
    """Adds up what all threads and processes of a run report, and tells `progress` of it."""

    def __init__(self, progress: Callable[[Progress], None]) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._total = self._done = self._before = self._images = self._bytes = self._failures = 0
        self._start = perf_counter()
        self.seconds: dict[Phase, float] = {}

    def expect(self, steps: int) -> None:
        """So many more steps are to be done."""
        self._total += steps

    def begin(self, images: int) -> None:
        """The computing of so many images begins: what was done before is not their speed."""
        self._images, self._before, self._start = images, self._done, perf_counter()

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """The time inside belongs to this phase."""
        start = perf_counter()
        try:
            yield
        finally:
            self.add({phase: perf_counter() - start})

    def add(self, seconds: Mapping[Phase, float], *, size: int = 0, failures: int = 0) -> None:
        """The seconds, bytes and failures of something that is finished."""
        with self._lock:
            for phase, spent in seconds.items():
                self.seconds[phase] = self.seconds.get(phase, 0.0) + spent
            self._bytes += size
            self._failures += failures

    def advance(self, steps: int) -> None:
        """So many more steps are done."""
        with self._lock:
            self._done += steps
            steps_left = self._total - self._before
            share = (self._done - self._before) / steps_left if steps_left else 0.0
            elapsed = perf_counter() - self._start
            speed = self._images * share / elapsed if self._images and share else None
            now = Progress(
                self._done, self._total, speed, self._bytes, self._failures, dict(self.seconds)
            )
            self._progress(now)  # here, so that no thread tells of less than another one has
