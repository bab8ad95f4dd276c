"""An engine, the place where shards are computed; and the one that is this process.

Several shards are computed at once in a few threads, so that one is decoded while another is at the
teacher and a third is written; one lock decides which uses the device. Each shard gets the bytes
that it would get alone. The other engine is `dask_engine.py`: many processes.
"""

import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Protocol, Self, TypeVar

from zsseg.stages.precompute.engine.jobs import Job, RunContext, ShardResult
from zsseg.stages.precompute.engine.shard_worker import ShardWorker, Tick
from zsseg.stages.precompute.progress import Stopped
from zsseg.stages.precompute.teacher.teacher_files import TeacherFiles

Answer = TypeVar("Answer")
ShardResults = Generator[ShardResult, None, None]


class Engine(Protocol):
    """Where stage one is computed."""

    def ask(self, question: Callable[[ShardWorker], Answer]) -> Answer:
        """The answer of one worker to a question, which can be pickled."""

    def run(self, jobs: Iterable[Job], context: RunContext, tick: Tick) -> ShardResults:
        """The results of jobs, in the order in which they are finished. Jobs are taken as needed.

        The first error ends it. Closing it early stops the shards that are being computed, and
        waits until nothing is written any more.
        """


class ThreadEngine:
    """Threads of this process. Use it in a `with`: leaving it stops what is being computed."""

    def __init__(self, files: TeacherFiles, *, shards_at_once: int) -> None:
        self._worker = ShardWorker(files, shards_at_once=shards_at_once)
        self._at_once = shards_at_once
        self._executor = ThreadPoolExecutor(self._at_once, thread_name_prefix="shard")
        self._stopped = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def ask(self, question: Callable[[ShardWorker], Answer]) -> Answer:
        """See `Engine`."""
        return question(self._worker)

    def run(self, jobs: Iterable[Job], context: RunContext, tick: Tick) -> ShardResults:
        """See `Engine`."""

        def tick_unless_stopped(steps: int) -> None:
            if self._stopped.is_set():
                raise Stopped
            tick(steps)

        def begin(job: Job) -> Future[ShardResult]:
            return self._executor.submit(self._worker.work, job, context, tick_unless_stopped)

        waiting = iter(jobs)
        running = {begin(job) for job in islice(waiting, self._at_once)}
        try:
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for result in [future.result() for future in done]:
                    running |= {begin(job) for job in islice(waiting, 1)}
                    yield result
        finally:
            if running:  # the caller releases the store's lock next: nothing may be written then
                self._stopped.set()
                wait(running)
