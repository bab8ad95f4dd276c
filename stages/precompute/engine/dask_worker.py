"""What runs in the worker processes of dask: their ShardWorker, and the functions sent to them."""

import os
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.data.samples import Sample
from zsseg.stages.precompute.engine.jobs import Job, RunContext, ShardResult
from zsseg.stages.precompute.engine.shard_worker import ShardWorker
from zsseg.stages.precompute.make.pictures import read_image_row
from zsseg.stages.precompute.progress import Stopped
from zsseg.stages.precompute.teacher.teacher_files import TeacherFiles

Answer = TypeVar("Answer")

_REPORT_S = 0.5
"""Seconds between two reports of progress to the client."""
_COMPUTING: list[StorePath] = []
"""The store of each shard that this process is computing."""


def make_plugin(files: TeacherFiles, shards_at_once: int, devices: tuple[str, ...]) -> Any:
    """What each worker process keeps: its ShardWorker."""
    from distributed import WorkerPlugin

    class Setup(WorkerPlugin):  # type: ignore[misc]
        """Makes the ShardWorker of a process, on its own device."""

        def setup(self, worker: Any) -> None:
            """Called in the worker's process, before torch is loaded there."""
            if devices and isinstance(worker.name, int):
                os.environ["CUDA_VISIBLE_DEVICES"] = devices[worker.name % len(devices)]
            self.shard_worker = ShardWorker(files, shards_at_once=shards_at_once)

    return Setup()


def _shard_worker(plugin: str) -> ShardWorker:
    from distributed import get_worker

    worker: ShardWorker = get_worker().plugins[plugin].shard_worker
    return worker


@dataclass(frozen=True)
class _Raised:
    """An error of a worker, sent as a value: dask loses one whose traceback it cannot pickle."""

    error: Exception
    trace: str


def value_or_raise(value: Any) -> Any:
    """What a function of this module returned, in the client; raises the error of the worker."""
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


def ask(plugin: str, question: Callable[[ShardWorker], Answer]) -> Answer | _Raised:
    """The answer to a question."""
    return _caught(lambda: question(_shard_worker(plugin)))


def busy(store: StorePath) -> bool:
    """Is this process computing a shard of this store, for any client?"""
    return store in _COMPUTING


def read(samples: Sequence[Sample], context: RunContext) -> None:
    """Read images and labels, to see whether the process survives it."""
    for sample in samples:
        read_image_row(context.spec, context.root, sample)


def work(plugin: str, job: Job, context: RunContext) -> ShardResult | _Raised:
    """Compute one shard, and report its steps to the client."""
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()
    reported, steps_left = time.monotonic(), 0

    def tick(steps: int) -> None:
        nonlocal reported, steps_left
        task = worker.state.tasks.get(key)
        if task is None or task.state == "cancelled":
            raise Stopped
        steps_left += steps
        if time.monotonic() - reported >= _REPORT_S:
            worker.log_event(plugin, steps_left)
            reported, steps_left = time.monotonic(), 0

    _COMPUTING.append(context.path)
    try:
        result = _caught(lambda: _shard_worker(plugin).work(job, context, tick))
    finally:
        _COMPUTING.remove(context.path)
    worker.log_event(plugin, steps_left)
    return result
