"""Who computes the shards: this process, in a few threads. (`cluster.py`: many processes.)

Several shards are at work at once, so that one is decoded while another is at the teacher and a
third is written; whose turn it is at the model says one lock. Each shard is made by the same code
as if it were alone.
"""

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from heapq import heappop, heappush
from itertools import islice
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from zsseg.stages.precompute.engine.jobs import Commission, Job, Outcome
from zsseg.stages.precompute.precompute_config import PrecomputeConfig
from zsseg.stages.precompute.progress import Clock, Stopped
from zsseg.stages.precompute.teacher.teacher_files import TeacherFiles

if TYPE_CHECKING:
    from zsseg.stages.precompute.teacher.clip_teacher import Teacher

Answer = TypeVar("Answer")
Tick = Callable[[int], None]
"""Told of steps done."""
Outcomes = Generator[Outcome, None, None]


class Turn:
    """Who may use the device: one at a time, the lowest rank of those who wait.

    So the oldest shard is finished first, and the others fill the gaps that it leaves.
    """

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._waiting: list[int] = []
        self._taken = False

    @contextmanager
    def of(self, rank: int) -> Iterator[None]:
        """Wait for the turn of `rank`, and hold it."""
        with self._change:
            heappush(self._waiting, rank)
            self._change.wait_for(lambda: not self._taken and self._waiting[0] == rank)
            heappop(self._waiting)
            self._taken = True
        try:
            yield
        finally:
            with self._change:
                self._taken = False
                self._change.notify_all()


class Workshop:
    """What one process computes with: the teacher, loaded when it is first needed."""

    def __init__(self, files: TeacherFiles, *, shards_at_once: int) -> None:
        self._files = files
        self._turn = Turn()
        self._loading = threading.Lock()
        self._places = threading.BoundedSemaphore(shards_at_once)
        self._teachers: dict[tuple[str, str], Teacher] = {}

    def teacher(self, config: PrecomputeConfig) -> "Teacher":
        """The teacher for settled settings; alone with it is who asks between the shards."""
        from zsseg.stages.precompute.teacher.clip_teacher import load_teacher

        assert config.precision != "auto", "settings are settled first"
        kind = (config.device, config.precision)
        with self._loading:
            if kind not in self._teachers:
                device, precision = config.device, config.precision
                self._teachers[kind] = load_teacher(self._files, device=device, precision=precision)
            return self._teachers[kind]

    def work(self, job: Job, commission: Commission, tick: Tick) -> Outcome:
        """Compute one shard, when there is a place free."""
        from zsseg.stages.precompute.engine.fill_shard import fill
        from zsseg.stages.precompute.make.kmeans import choose_backend

        with self._places:
            asked = commission.config.regions.backend
            backend = choose_backend(asked) if "regions" in job.todo else "sklearn"
            clock = Clock(tick, partial(self._turn.of, job.shard))
            teacher = replace(self.teacher(commission.config), turn=clock.forward)
            return fill(job, commission, teacher=teacher, backend=backend, clock=clock)


class Engine(Protocol):
    """Where stage one is computed."""

    def ask(self, question: Callable[[Workshop], Answer]) -> Answer:
        """The answer of one workshop to a question that can be sent to it."""

    def run(self, jobs: Iterable[Job], commission: Commission, tick: Tick) -> Outcomes:
        """The outcomes of jobs, in whatever order they are finished. Jobs are taken as needed.

        Closed before its end, it gives up what is at work, and that ends: nothing is written then.
        """


class Here:
    """This process. Use it in a `with`: leaving it gives up what is at work."""

    def __init__(self, files: TeacherFiles, *, shards_at_once: int) -> None:
        self._workshop = Workshop(files, shards_at_once=shards_at_once)
        self._at_once = shards_at_once
        self._executor = ThreadPoolExecutor(self._at_once, thread_name_prefix="shard")
        self._stopped = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def ask(self, question: Callable[[Workshop], Answer]) -> Answer:
        """The answer of the one workshop there is."""
        return question(self._workshop)

    def run(self, jobs: Iterable[Job], commission: Commission, tick: Tick) -> Outcomes:
        """The outcomes of jobs; the first error ends it."""

        def told(steps: int) -> None:
            if self._stopped.is_set():
                raise Stopped
            tick(steps)

        def begin(job: Job) -> Future[Outcome]:
            return self._executor.submit(self._workshop.work, job, commission, told)

        waiting = iter(jobs)
        running = {begin(job) for job in islice(waiting, self._at_once)}
        try:
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for outcome in [future.result() for future in done]:
                    running |= {begin(job) for job in islice(waiting, 1)}
                    yield outcome
        finally:
            if running:  # given up: whoever locked the store may let it go when nothing is written
                self._stopped.set()
                wait(running)
