"""Many processes compute the shards, here or on other machines.

With `workers.py`, who they are, and `worker.py`, what one does, the door to dask.

Each worker process has its own teacher on its own device and writes whole shards; this process
alone keeps the ledger. A shard whose worker is lost is done again elsewhere. A shard that loses its
worker twice is looked at alone, and halved until the image is found that no process survives.
"""

import logging
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Self, TypeVar

from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.errors import ResourceError, UserError
from zsseg.stages.precompute.engine import dask_worker
from zsseg.stages.precompute.engine.dask_client import reach
from zsseg.stages.precompute.engine.jobs import KILLED, Commission, Job, Outcome
from zsseg.stages.precompute.engine.threads_here import Engine, Here, Outcomes, Tick, Workshop
from zsseg.stages.precompute.precompute_config import PrecomputeConfig
from zsseg.stages.precompute.teacher.teacher_files import TeacherFiles

if TYPE_CHECKING:
    from distributed import Client, Future

Answer = TypeVar("Answer")

_LOST = 2
"""Times that a shard may lose its worker before it is looked at alone."""

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
        raise UserError(f"--workers {workers}: at least one is needed")
    if workers is None and scheduler is None:
        return Here(files, shards_at_once=config.shards_at_once)
    return Cluster(files, config, workers=workers, scheduler=scheduler)


class Cluster:
    """An engine of dask workers. Use it in a `with`: leaving it gives up what is at work."""

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

    def ask(self, question: Callable[[Workshop], Answer]) -> Answer:
        """The answer of one worker's teacher to a question."""
        from distributed.scheduler import KilledWorker

        future = self.client.submit(dask_worker.ask, self._name, question, pure=False)
        try:
            found: Answer = dask_worker.answer(future.result())
        except KilledWorker as error:
            raise ResourceError(
                "a worker process died while it loaded or asked the teacher: most often memory is "
                "short. Use fewer --workers"
            ) from error
        return found

    def run(self, jobs: Iterable[Job], commission: Commission, tick: Tick) -> Outcomes:
        """The outcomes of jobs, as they are finished; the first error ends it."""
        from distributed import as_completed
        from distributed.scheduler import KilledWorker

        self._tick = tick
        waiting, lost = iter(jobs), Counter[int]()
        suspects: list[Job] = []
        begin = partial(self._begin, commission)
        threads = sum(self.client.nthreads().values())
        self._wait_until_idle(commission.path)  # a client that was killed may have left some
        # Twice as many as can be at work: the workers never wait, and this process holds few.
        running = {future: job for job in islice(waiting, 2 * threads) for future in [begin(job)]}
        done = as_completed(list(running), loop=self.client.loop, raise_errors=False)
        try:
            for future in done:
                job = running.pop(future)
                try:
                    outcome: Outcome | None = dask_worker.answer(future.result())
                except KilledWorker:
                    lost[job.shard] += 1
                    _log.warning(
                        "the worker of shard %d was lost%s",
                        job.shard,
                        "; it is done again elsewhere" if lost[job.shard] < _LOST else "",
                    )
                    if lost[job.shard] < _LOST:
                        again = begin(job)
                        running[again] = job
                        done.add(again)
                        continue
                    suspects.append(job)
                    outcome = None
                for following in islice(waiting, 1):
                    added = begin(following)
                    running[added] = following
                    done.add(added)
                if outcome is not None:
                    yield outcome
            for job in suspects:
                yield self._isolate(job, commission)
        finally:
            if running:
                self.client.cancel(list(running), force=True)
                self._wait_until_idle(commission.path)

    def _isolate(self, job: Job, commission: Commission) -> Outcome:
        """A shard without the images that no process survives: they are found and left out."""
        fruitless = 0
        while True:
            outcome = self._alone(job, commission)
            if outcome is not None:
                return outcome
            places = [i for i in range(len(job.samples)) if i not in job.left_out and job.reads(i)]
            _log.warning("shard %d kills its worker: looking for the image", job.shard)
            # Most often it is the decoder that dies, and that is soon tried: no teacher is loaded.
            place = bisect(places, partial(self._dies_reading, job, commission))
            if place is None:
                place = bisect(places, partial(self._dies, job, commission))
            if place is None:
                fruitless += 1
                if fruitless < _LOST:  # a worker may be lost for nothing that the shard did
                    continue
                raise ResourceError(
                    f"shard {job.shard} lost its worker again and again, though each half of it "
                    "alone does not: most often memory is short. Use fewer --workers, or a smaller "
                    "shard_images in another --cache folder"
                )
            _log.warning("%s kills its process and is left out", job.samples[place].image)
            image = job.samples[place].image.relative_to(commission.root).as_posix()
            reason = f"{KILLED}: {image}. Replace it with an intact file"
            job = job.without({place: reason})

    def _dies(self, job: Job, commission: Commission, places: Sequence[int]) -> bool:
        """Does a shard of these images alone lose its worker?"""
        others = {i: "not looked at" for i in range(len(job.samples)) if i not in set(places)}
        return self._alone(job.without(others), commission) is None

    def _dies_reading(self, job: Job, commission: Commission, places: Sequence[int]) -> bool:
        """Does reading these images alone lose the worker?"""
        from distributed.scheduler import KilledWorker

        samples = [job.samples[place] for place in places]
        try:
            self.client.submit(dask_worker.read, samples, commission, pure=False).result()
        except KilledWorker:
            return True
        return False

    def _alone(self, job: Job, commission: Commission) -> Outcome | None:
        """The outcome of a job while nothing else is at work; None when its worker is lost."""
        from distributed.scheduler import KilledWorker

        try:
            outcome: Outcome = dask_worker.answer(self._begin(commission, job).result())
        except KilledWorker:
            return None
        return outcome

    def _begin(self, commission: Commission, job: Job) -> "Future[Any]":
        return self.client.submit(dask_worker.work, self._name, job, commission, pure=False)

    def _wait_until_idle(self, store: StorePath) -> None:
        """Wait until no worker is at a shard of the store: what is given up ends at its next step.

        Else it would write files that somebody else has written since.
        """
        while any(self.client.run(dask_worker.busy, store, on_error="ignore").values()):
            time.sleep(0.1)

    def _start(self) -> "Client":
        client = reach(
            self._open,
            workers=self._workers,
            threads=self._config.shards_at_once,
            scheduler=self._scheduler,
        )
        plugin = dask_worker.make_plugin(self._files, self._config.shards_at_once, self._devices())
        client.register_plugin(plugin, self._name)
        client.subscribe_topic(self._name, self._told)
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

    def _told(self, event: tuple[float, Any]) -> None:
        _, steps = event
        self._tick(steps)


def bisect(places: Sequence[int], dies: Callable[[Sequence[int]], bool]) -> int | None:
    """The one of these places that `dies` is true of, by halving; None when it is of none alone."""
    while len(places) > 1:
        half = places[: len(places) // 2]
        places = half if dies(half) else places[len(places) // 2 :]
    return places[0] if places and dies(places) else None
