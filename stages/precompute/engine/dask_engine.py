"""The engine of many processes, on this machine or on others, run by dask.

Each worker process has its own teacher on its own device and writes whole shards; this process
alone writes the receipts. A shard whose worker dies is computed again by another one. When that one
dies too, the shard waits until all others are done and then goes through `isolation.py`.
Imports of dask are here, in `dask_client.py` (who the workers are) and in `dask_worker.py` (what
runs in them).
"""

import logging
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Self, TypeVar

from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.errors import ResourceError, UserError
from zsseg.stages.precompute.engine import dask_worker
from zsseg.stages.precompute.engine.dask_client import connect
from zsseg.stages.precompute.engine.isolation import WORKERS_LOST, isolate
from zsseg.stages.precompute.engine.jobs import Job, RunContext, ShardResult
from zsseg.stages.precompute.engine.shard_worker import ShardWorker, Tick
from zsseg.stages.precompute.engine.thread_engine import Engine, ShardResults, ThreadEngine
from zsseg.stages.precompute.precompute_config import PrecomputeConfig
from zsseg.stages.precompute.teacher.teacher_files import TeacherFiles

if TYPE_CHECKING:
    from distributed import Client, Future

Answer = TypeVar("Answer")

_log = logging.getLogger(__name__)


def open_engine(
    files: TeacherFiles, config: PrecomputeConfig, *, workers: int | None, scheduler: str | None
) -> AbstractContextManager[Engine]:
    """Where to compute: this process; `workers` processes of this machine, one per GPU where there
    are any; or the workers of a running dask cluster (`scheduler`: tcp://host:port).

    Processes are started when they are first needed. Raises UserError when both are asked for.
    """
    if workers is not None and scheduler is not None:
        raise UserError("--workers starts processes here and --scheduler joins others: give one")
    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}: give 1 or more")
    if workers is None and scheduler is None:
        return ThreadEngine(files, shards_at_once=config.shards_at_once)
    return DaskEngine(files, config, workers=workers, scheduler=scheduler)


class DaskEngine:
    """Workers of dask. Use it in a `with`: leaving it stops what is being computed."""

    def __init__(
        self,
        files: TeacherFiles,
        config: PrecomputeConfig,
        *,
        workers: int | None,
        scheduler: str | None,
    ) -> None:
        self._files, self._config = files, config
        self._workers, self._scheduler = workers, scheduler
        self._name = f"zsseg-{uuid.uuid4().hex[:12]}"
        self._open = ExitStack()
        self._client: Client | None = None
        self._tick: Tick = lambda _: None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def client(self) -> "Client":
        """The client, with the workers behind it; both are started on first use."""
        if self._client is None:
            self._client = self._start()
        return self._client

    def ask(self, question: Callable[[ShardWorker], Answer]) -> Answer:
        """See `Engine`."""
        from distributed.scheduler import KilledWorker

        future = self.client.submit(dask_worker.ask, self._name, question, pure=False)
        try:
            answer: Answer = dask_worker.value_or_raise(future.result())
        except KilledWorker as error:
            raise ResourceError(
                "a worker process died while it loaded or asked the teacher: most often memory is "
                "short. Use fewer --workers"
            ) from error
        return answer

    def run(self, jobs: Iterable[Job], context: RunContext, tick: Tick) -> ShardResults:
        """See `Engine`."""
        self._tick = tick
        suspects: list[Job] = []
        running: dict[Future[Any], Job] = {}
        try:
            yield from self._run_all(iter(jobs), context, running, suspects)
            for job in suspects:
                yield isolate(
                    job,
                    context.root,
                    attempt=partial(self._attempt, context),
                    dies_reading=partial(self._dies_reading, job, context),
                )
        finally:
            if running:
                self.client.cancel(list(running), force=True)
                wait_until_idle(self.client, context.path)

    def _run_all(
        self,
        jobs: Iterator[Job],
        context: RunContext,
        running: "dict[Future[Any], Job]",
        suspects: list[Job],
    ) -> ShardResults:
        """The results of jobs; `suspects` gets those that lost their worker WORKERS_LOST times."""
        from distributed import as_completed
        from distributed.scheduler import KilledWorker

        lost = Counter[int]()
        threads = sum(self.client.nthreads().values())
        wait_until_idle(self.client, context.path)  # a killed client may have left shards there
        # Twice as many as can run: the workers never wait, and this process holds few.
        for job in islice(jobs, 2 * threads):
            running[self._submit(context, job)] = job
        done = as_completed(list(running), loop=self.client.loop, raise_errors=False)
        for future in done:
            job = running.pop(future)
            try:
                result: ShardResult | None = dask_worker.value_or_raise(future.result())
            except KilledWorker:
                result = None
                lost[job.shard] += 1
            again = result is None and lost[job.shard] < WORKERS_LOST
            if result is None:
                text = "; it is done again elsewhere" if again else ""
                _log.warning("the worker of shard %d was lost%s", job.shard, text)
                suspects += [] if again else [job]
            for following in [job] if again else islice(jobs, 1):
                added = self._submit(context, following)
                running[added] = following
                done.add(added)
            if result is not None:
                yield result

    def _attempt(self, context: RunContext, job: Job) -> ShardResult | None:
        """The result of a job while nothing else is computed; None when its worker is lost."""
        from distributed.scheduler import KilledWorker

        try:
            future = self._submit(context, job)
            result: ShardResult = dask_worker.value_or_raise(future.result())
        except KilledWorker:
            return None
        return result

    def _dies_reading(self, job: Job, context: RunContext, places: Sequence[int]) -> bool:
        """Does a worker die that only reads the images at these places?"""
        from distributed.scheduler import KilledWorker

        samples = [job.samples[place] for place in places]
        try:
            self.client.submit(dask_worker.read, samples, context, pure=False).result()
        except KilledWorker:
            return True
        return False

    def _submit(self, context: RunContext, job: Job) -> "Future[Any]":
        return self.client.submit(dask_worker.work, self._name, job, context, pure=False)

    def _start(self) -> "Client":
        client = connect(
            self._open,
            workers=self._workers,
            threads=self._config.shards_at_once,
            scheduler=self._scheduler,
        )
        plugin = dask_worker.make_plugin(self._files, self._config.shards_at_once, self._devices())
        client.register_plugin(plugin, self._name)
        client.subscribe_topic(self._name, lambda event: self._tick(event[1]))
        return client

    def _devices(self) -> tuple[str, ...]:
        """The GPUs that the workers of this machine share out, as CUDA_VISIBLE_DEVICES names them.

        Workers of another cluster have theirs already.
        """
        if self._scheduler is not None or self._config.device == "cpu":
            return ()
        import torch

        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        count = torch.cuda.device_count()
        return tuple(visible.split(",") if visible else map(str, range(count)))[:count]


def wait_until_idle(client: "Client", store: StorePath) -> None:
    """Wait until no worker computes a shard of this store; a cancelled one ends at its next step.

    Otherwise it would overwrite files that another worker has written since.
    """
    while any(client.run(dask_worker.busy, store, on_error="ignore").values()):
        time.sleep(0.1)
