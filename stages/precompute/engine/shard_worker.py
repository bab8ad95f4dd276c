"""What one process computes with: its teacher, and the order in which shards use the device."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from zsseg.stages.precompute.engine.jobs import Job, RunContext, ShardResult
from zsseg.stages.precompute.precompute_config import PrecomputeConfig
from zsseg.stages.precompute.progress import Clock
from zsseg.stages.precompute.teacher.teacher_files import TeacherFiles

if TYPE_CHECKING:
    from zsseg.stages.precompute.teacher.teacher_protocol import Teacher

Tick = Callable[[int], None]
"""Called with the number of steps just done; may raise Stopped."""


class PriorityLock:
    """A lock that goes to the lowest rank among those who wait.

    With the number of the shard as rank the oldest shard is finished first, and the others use the
    device while it does something else.
    """

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._ranks: list[int] = []
        self._taken = False

    @property
    def waiting(self) -> tuple[int, ...]:
        """The ranks that wait, in ascending order."""
        with self._change:
            return tuple(sorted(self._ranks))

    @contextmanager
    def held(self, rank: int) -> Iterator[None]:
        """Wait for the lock with this rank, and hold it."""
        with self._change:
            heappush(self._ranks, rank)
            self._change.wait_for(lambda: not self._taken and self._ranks[0] == rank)
            heappop(self._ranks)
            self._taken = True
        try:
            yield
        finally:
            with self._change:
                self._taken = False
                self._change.notify_all()


class ShardWorker:
    """Computes shards and answers questions in one process, with one teacher."""

    def __init__(self, files: TeacherFiles, *, shards_at_once: int) -> None:
        self._files = files
        self._device_lock = PriorityLock()
        self._loading = threading.Lock()
        self._places = threading.BoundedSemaphore(shards_at_once)
        self._teachers: dict[tuple[str, str, str], Teacher] = {}

    def teacher(self, config: PrecomputeConfig) -> "Teacher":
        """The teacher for resolved settings, loaded on first use.

        It takes no device lock: who uses it must not do so while shards are computed.
        """
        from zsseg.stages.precompute.teacher.open_teacher import open_teacher

        precision, resize = config.precision, config.resize
        assert precision != "auto", "settings are resolved first"
        assert resize != "auto", "settings are resolved first"
        kind = (config.device, precision, resize)
        with self._loading:
            if kind not in self._teachers:
                self._teachers[kind] = open_teacher(
                    self._files, device=config.device, precision=precision, resize=resize
                )
            return self._teachers[kind]

    def work(self, job: Job, context: RunContext, tick: Tick) -> ShardResult:
        """Compute one shard, as soon as fewer than `shards_at_once` are being computed."""
        from zsseg.stages.precompute.engine.fill_shard import fill_shard
        from zsseg.stages.precompute.make.backend_choice import choose_backend

        with self._places:
            asked = context.config.regions.backend
            clock = Clock(tick, partial(self._device_lock.held, job.shard))
            teacher = self.teacher(context.config).within(clock.forward)
            device = teacher.device.type
            backend = choose_backend(asked, device) if "regions" in job.todo else "sklearn"
            return fill_shard(job, context, teacher=teacher, backend=backend, clock=clock)
