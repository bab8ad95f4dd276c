"""What runs in the worker processes of a cluster: their workshop, and what they are sent to do."""

import os
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.data.samples import Sample
from zsseg.stages.precompute.engine.jobs import Commission, Job, Outcome
from zsseg.stages.precompute.engine.threads_here import Workshop
from zsseg.stages.precompute.make.pictures import read_row
from zsseg.stages.precompute.progress import Stopped
from zsseg.stages.precompute.teacher.teacher_files import TeacherFiles

Answer = TypeVar("Answer")

_SECONDS = 0.5
"""Between two reports to the client."""
_AT_WORK: list[StorePath] = []
"""The store of each shard that is at work in this process."""


def make_plugin(files: TeacherFiles, shards_at_once: int, devices: tuple[str, ...]) -> Any:
    """What each worker process keeps: its workshop."""
    from distributed import WorkerPlugin

    class Bench(WorkerPlugin):  # type: ignore[misc]
        """Sets up the workshop of a worker, on its own device."""

        def setup(self, worker: Any) -> None:
            """Called in the worker's process, before torch is loaded there."""
            if devices and isinstance(worker.name, int):
                os.environ["CUDA_VISIBLE_DEVICES"] = devices[worker.name % len(devices)]
            self.workshop = Workshop(files, shards_at_once=shards_at_once)

    return Bench()


def _workshop(name: str) -> Workshop:
    from distributed import get_worker

    workshop: Workshop = get_worker().plugins[name].workshop
    return workshop


@dataclass(frozen=True)
class _Raised:
    """An error of a worker, sent as a value: dask loses one whose traceback it cannot send."""

    error: Exception
    trace: str


def answer(value: Any) -> Any:
    if isinstance(value, _Raised):
        raise value.error from RuntimeError(f"in a worker process:\n{value.trace}")
    return value


def _caught(work: Callable[[], Answer]) -> Answer | _Raised:
    try:
        return work()
    except Exception as error:
        trace = traceback.format_exc()
        error.__cause__ = error.__context__ = None
        return _Raised(error.with_traceback(None), trace)


def ask(name: str, question: Callable[[Workshop], Answer]) -> Answer | _Raised:
    return _caught(lambda: question(_workshop(name)))


def busy(store: StorePath) -> bool:
    """Is a shard of this store at work in this process, for whatever client?"""
    return store in _AT_WORK


def read(samples: Sequence[Sample], commission: Commission) -> None:
    for sample in samples:
        read_row(commission.spec, commission.root, sample)


def work(name: str, job: Job, commission: Commission) -> Outcome | _Raised:
    """Runs in a worker: one shard, telling the client of its steps."""
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()
    told, unsaid = time.monotonic(), 0

    def tick(steps: int) -> None:
        nonlocal told, unsaid
        task = worker.state.tasks.get(key)
        if task is None or task.state == "cancelled":
            raise Stopped
        unsaid += steps
        if time.monotonic() - told >= _SECONDS:
            worker.log_event(name, unsaid)
            told, unsaid = time.monotonic(), 0

    _AT_WORK.append(commission.path)
    try:
        outcome = _caught(lambda: _workshop(name).work(job, commission, tick))
    finally:
        _AT_WORK.remove(commission.path)
    worker.log_event(name, unsaid)
    return outcome
