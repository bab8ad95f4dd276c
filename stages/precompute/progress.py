"""How far a run of stage one is, and where its time goes."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Literal, get_args

Phase = Literal["read", "preprocess", "teacher", "regions", "crops", "names", "write"]
"""preprocess: images to the teacher's sizes; crops: cutting and sizing them (their forward passes
are `teacher`); names: refining the map of names."""

PHASES: tuple[Phase, ...] = get_args(Phase)


class Stopped(Exception):
    """The run ends; what is being computed is dropped."""


class Clock:
    """Measures where the time of one thread goes, and counts the images that pass the teacher.

    `tick` gets the number of steps just done, and may raise Stopped. `device_lock` makes the lock
    that is held while the device is used.
    """

    def __init__(
        self,
        tick: Callable[[int], None],
        device_lock: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._tick, self._device_lock = tick, device_lock
        self._phase: Phase | None = None
        self._since = perf_counter()
        self.seconds: dict[Phase, float] = {}
        self.passed = 0
        """Images and crops that passed the teacher."""

    @contextmanager
    def phase(self, phase: Phase | None) -> Iterator[None]:
        """Time inside counts for this phase and no outer one; None: for none, it is waiting."""
        before = self._switch(phase)
        try:
            yield
        finally:
            self._switch(before)

    @contextmanager
    def alone(self, phase: Phase) -> Iterator[None]:
        """A phase that has the device to itself; waiting for the device counts for no phase."""
        with self.phase(None), self._device_lock(), self.phase(phase):
            self._tick(0)
            yield

    @contextmanager
    def forward(self, count: int) -> Iterator[None]:
        """Around the teacher's forward pass of `count` images."""
        with self.alone("teacher"):
            yield
        self.passed += count

    def advance(self, steps: int) -> None:
        """Report steps that are done; one step is one image of one artifact."""
        self._tick(steps)

    def _switch(self, phase: Phase | None) -> Phase | None:
        before, now = self._phase, perf_counter()
        if before is not None:
            self.seconds[before] = self.seconds.get(before, 0.0) + now - self._since
        self._phase, self._since = phase, now
        return before


@dataclass(frozen=True)
class Progress:
    """One step is one image of one artifact, or one whose files are hashed."""

    done: int
    total: int
    images_per_second: float | None
    """Of the images to compute; None before the first."""
    bytes: int
    """Bytes written by this run."""
    failures: int
    """Images that this run found to be unusable."""
    seconds: Mapping[Phase, float]
    """Sums over all threads and processes, of the shards that are finished."""


class Meter:
    """Adds up what all threads and processes of a run report, and passes it to `progress`."""

    def __init__(self, progress: Callable[[Progress], None]) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._total = self._done = self._before = self._images = self._bytes = self._failures = 0
        self._start = perf_counter()
        self.seconds: dict[Phase, float] = {}

    def expect(self, steps: int) -> None:
        """Add steps that are to be done."""
        self._total += steps

    def begin(self, images: int) -> None:
        """Computing `images` images begins; the speed is measured from here on."""
        self._images, self._before, self._start = images, self._done, perf_counter()

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Time inside counts for this phase."""
        start = perf_counter()
        try:
            yield
        finally:
            self.add({phase: perf_counter() - start})

    def add(self, seconds: Mapping[Phase, float], *, size: int = 0, failures: int = 0) -> None:
        """Add the seconds, bytes and failures of a finished shard."""
        with self._lock:
            for phase, spent in seconds.items():
                self.seconds[phase] = self.seconds.get(phase, 0.0) + spent
            self._bytes += size
            self._failures += failures

    def advance(self, steps: int) -> None:
        """Report steps that are done."""
        with self._lock:
            self._done += steps
            steps_left = self._total - self._before
            share = (self._done - self._before) / steps_left if steps_left else 0.0
            elapsed = perf_counter() - self._start
            speed = self._images * share / elapsed if self._images and share else None
            now = Progress(
                self._done, self._total, speed, self._bytes, self._failures, dict(self.seconds)
            )
            self._progress(now)  # inside the lock, so that progress never goes back
