"""The lock of the device, jobs side by side in threads, and where their time goes."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from zsseg.stages.cache.format.manifest import Manifest
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.errors import DatasetError
from zsseg.stages.precompute.engine import fill_shard
from zsseg.stages.precompute.engine.jobs import Job, RunContext, ShardResult
from zsseg.stages.precompute.engine.shard_worker import PriorityLock, ShardWorker, Tick
from zsseg.stages.precompute.engine.thread_engine import ThreadEngine
from zsseg.stages.precompute.precompute_config import PrecomputeConfig
from zsseg.stages.precompute.progress import Clock, Meter, Progress, Stopped
from zsseg.stages.precompute.teacher.teacher_files import TeacherFiles

FILES = TeacherFiles("t", "t", "m", None, 24, Path("w"), config_hash="c", weights_hash="w")
CONTEXT = RunContext(
    Path("store"),
    cast(Manifest, None),
    cast(DatasetSpec, None),
    Path("root"),
    PrecomputeConfig(device="cpu", precision="fp32", resize="pillow"),
)
WAIT = 20.0
"""Seconds after which something that should have happened has not."""


def result_of(job: Job) -> ShardResult:
    return ShardResult(job, {}, {}, {}, {}, {}, {})


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.002)


def jobs(number: int, taken: list[int] | None = None) -> Iterator[Job]:
    for shard in range(number):
        if taken is not None:
            taken.append(shard)
        yield Job(shard, (), ())


def here(
    monkeypatch: pytest.MonkeyPatch, work: Callable[[Job, Tick], ShardResult], *, at_once: int
) -> ThreadEngine:
    """An engine whose worker does `work` instead of computing."""

    def instead(_: ShardWorker, job: Job, __: RunContext, tick: Tick) -> ShardResult:
        return work(job, tick)

    monkeypatch.setattr(ShardWorker, "work", instead)
    return ThreadEngine(FILES, shards_at_once=at_once)


def test_the_lock_goes_to_the_lowest_rank_that_waits() -> None:
    lock, order = PriorityLock(), list[int]()

    def take(rank: int) -> None:
        with lock.held(rank):
            order.append(rank)

    threads = [threading.Thread(target=take, args=(rank,)) for rank in (5, 2, 9, 0, 7)]
    with lock.held(3):
        for count, thread in enumerate(threads, start=1):
            thread.start()
            until(lambda count=count: len(lock.waiting) == count)  # type: ignore[misc]
        assert order == []
    for thread in threads:
        thread.join(WAIT)
    assert order == [0, 2, 5, 7, 9]


def test_one_at_a_time_holds_the_lock_and_an_error_releases_it() -> None:
    lock, inside, most = PriorityLock(), [0], [0]

    def take(rank: int) -> None:
        for _ in range(50):
            with lock.held(rank):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0)
                inside[0] -= 1

    with pytest.raises(DatasetError), lock.held(1):
        raise DatasetError("an image")
    threads = [threading.Thread(target=take, args=(rank,)) for rank in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
        assert not thread.is_alive()
    assert most == [1]


@pytest.mark.parametrize("at_once", [1, 3, 20])
def test_all_outcomes_come_and_no_more_jobs_are_taken_than_are_at_work(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    lock, at_work, most = threading.Lock(), [0], [0]

    def work(job: Job, tick: Tick) -> ShardResult:
        with lock:
            at_work[0] += 1
            most[0] = max(most[0], at_work[0])
        time.sleep(0.01 * (job.shard % 3))
        tick(2)
        with lock:
            at_work[0] -= 1
        return result_of(job)

    taken, steps, found = list[int](), list[int](), list[int]()
    with here(monkeypatch, work, at_once=at_once) as made:
        for each in made.run(jobs(11, taken), CONTEXT, steps.append):
            found.append(each.job.shard)
            assert len(taken) <= len(found) + 2 * at_once
    assert sorted(found) == list(range(11))
    assert steps == [2] * 11
    assert most[0] <= at_once
    assert (most[0] > 1) == (at_once > 1)


def test_no_jobs_no_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    with here(monkeypatch, lambda job, _: result_of(job), at_once=3) as made:
        assert list(made.run([], CONTEXT, print)) == []


def work_on(tick: Tick, stopped: Callable[[], object]) -> None:
    """Take steps until the run ends; then call `stopped` and raise."""
    end = time.monotonic() + WAIT
    try:
        while time.monotonic() < end:
            tick(1)
            time.sleep(0.002)
    except Stopped:
        stopped()
        raise


def test_the_first_error_ends_the_others_at_their_next_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Shards that are being computed stop, those that wait never start."""
    begun, stopped = set[int](), set[int]()

    def work(job: Job, tick: Tick) -> ShardResult:
        begun.add(job.shard)
        if job.shard == 1:
            until(lambda: begun >= {0, 1, 2})
            raise DatasetError("shard 1")
        work_on(tick, lambda: stopped.add(job.shard))
        raise AssertionError("it was never stopped")

    taken: list[int] = []
    made = here(monkeypatch, work, at_once=3)
    with pytest.raises(DatasetError, match="shard 1"), made:
        list(made.run(jobs(9, taken), CONTEXT, lambda _: None))
    assert begun == {0, 1, 2}
    assert stopped == {0, 2}
    assert taken == [0, 1, 2]


def test_an_interrupt_ends_what_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C comes to the thread that takes the results."""
    stopped: list[int] = []

    def work(job: Job, tick: Tick) -> ShardResult:
        if job.shard == 0:
            return result_of(job)
        work_on(tick, lambda: stopped.append(job.shard))
        raise AssertionError("it was never stopped")

    def interrupted(made: ThreadEngine) -> None:
        with made:
            for each in made.run(jobs(9), CONTEXT, lambda _: None):
                assert each.job.shard == 0
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(here(monkeypatch, work, at_once=2))
    assert sorted(stopped) in ([1, 2], [1])  # the third job may not have begun
    names = {thread.name for thread in threading.enumerate()}
    assert not any(name.startswith("shard") for name in names)


def test_outcomes_that_are_closed_end_what_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store's lock is given back then, before the engine is left."""
    ended: list[int] = []

    def work(job: Job, tick: Tick) -> ShardResult:
        if job.shard == 0:
            return result_of(job)

        def slowly() -> None:
            time.sleep(0.1)
            ended.append(job.shard)

        work_on(tick, slowly)
        raise AssertionError("it was never stopped")

    with here(monkeypatch, work, at_once=2) as made:
        results = made.run(jobs(9), CONTEXT, lambda _: None)
        assert next(results).job.shard == 0
        results.close()
        assert sorted(ended) == [1, 2]


def test_a_shard_that_waits_for_the_device_when_the_run_ends_does_not_use_it() -> None:
    lock, ended = PriorityLock(), threading.Event()

    def tick(_: int) -> None:
        if ended.is_set():
            raise Stopped

    passed: list[int] = []
    clock = Clock(tick, lambda: lock.held(1))

    def wait() -> None:
        with pytest.raises(Stopped), clock.forward(4):
            passed.append(4)

    thread = threading.Thread(target=wait)
    with lock.held(0):
        thread.start()
        until(lambda: lock.waiting == (1,))
        ended.set()
    thread.join(WAIT)
    assert (passed, clock.passed) == ([], 0)
    with lock.held(2):
        assert lock.waiting == ()


@dataclass(frozen=True)
class LoadedTeacher:
    """What a worker changes of its teacher for a shard."""

    around_pass: Any = None
    device = torch.device("cpu")

    def within(self, around_pass: Any) -> "LoadedTeacher":
        return LoadedTeacher(around_pass)


def test_a_worker_loads_one_teacher_and_computes_so_many_shards_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where more threads come than shards may be computed, as in a worker of dask."""
    loaded, lock, at_work, most = list[str](), threading.Lock(), [0], [0]

    def load(_: TeacherFiles, *, device: str, precision: str, resize: str) -> LoadedTeacher:
        time.sleep(0.02)
        loaded.append(f"{device} {precision} {resize}")
        return LoadedTeacher()

    def filled(
        job: Job, _: RunContext, *, teacher: LoadedTeacher, backend: str, clock: Clock
    ) -> ShardResult:
        assert backend == "sklearn"
        assert teacher.around_pass == clock.forward
        with lock:
            at_work[0] += 1
            most[0] = max(most[0], at_work[0])
        time.sleep(0.01)
        with lock:
            at_work[0] -= 1
        return result_of(job)

    monkeypatch.setattr("zsseg.stages.precompute.teacher.clip_teacher.load_teacher", load)
    monkeypatch.setattr(fill_shard, "fill_shard", filled)
    worker = ShardWorker(FILES, shards_at_once=2)
    done: list[int] = []

    def work(job: Job) -> None:
        done.append(worker.work(job, CONTEXT, lambda _: None).job.shard)

    threads = [threading.Thread(target=work, args=(job,)) for job in jobs(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert sorted(done) == list(range(8))
    assert loaded == ["cpu fp32 pillow"]
    assert most == [2]


class Time:
    """Replaces the machine's clock: time passes only by `passes`."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        patch.setattr("zsseg.stages.precompute.progress.perf_counter", lambda: self.now)

    def passes(self, seconds: float) -> None:
        self.now += seconds


def test_nested_phases_are_counted_once_and_sum_up(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Time(monkeypatch)

    @contextmanager
    def turn() -> Iterator[None]:
        machine.passes(1000)  # waiting for the device is no one's time
        yield
        machine.passes(2000)

    clock = Clock(lambda _: None, turn)
    machine.passes(7)  # no phase
    with clock.phase("crops"):
        machine.passes(1)
        with clock.forward(3):
            machine.passes(20)
        machine.passes(2)
        with clock.phase("read"):
            machine.passes(300)
        machine.passes(4)
        with clock.forward(2):
            machine.passes(40)
    machine.passes(7)
    with clock.phase("write"):
        machine.passes(5)
    assert clock.seconds == {"crops": 7, "teacher": 60, "read": 300, "write": 5}
    assert clock.passed == 5


def test_phases_sum_up_to_the_time_of_the_wall() -> None:
    clock = Clock(lambda _: None, lambda: nullcontext())
    start = time.perf_counter()
    with clock.phase("preprocess"):
        time.sleep(0.02)
        with clock.forward(1):
            time.sleep(0.03)
        with clock.phase("write"):
            time.sleep(0.01)
    wall = time.perf_counter() - start
    assert 0.06 <= sum(clock.seconds.values()) <= wall
    assert clock.seconds["teacher"] >= 0.03
    assert clock.seconds["preprocess"] >= 0.02
    assert clock.seconds["write"] >= 0.01


def test_a_phase_that_fails_ends_and_counts_no_forward_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = Time(monkeypatch)
    clock = Clock(lambda _: None, lambda: nullcontext())

    def failing() -> None:
        with clock.forward(4):
            machine.passes(3)
            raise DatasetError("out of memory")

    with clock.phase("read"):
        with pytest.raises(DatasetError):
            failing()
        machine.passes(1)
    assert clock.seconds == {"read": 1, "teacher": 3}
    assert clock.passed == 0


def test_the_meter_adds_up_and_its_speed_is_that_of_the_computing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine, seen = Time(monkeypatch), list[Progress]()
    meter = Meter(seen.append)
    meter.expect(4)
    with meter.phase("read"):
        machine.passes(50)
    meter.advance(4)  # files that are looked at again
    meter.expect(40)
    meter.begin(10)
    machine.passes(2)
    meter.advance(20)
    meter.add({"read": 1, "teacher": 2}, size=30, failures=1)
    machine.passes(6)
    meter.add({"teacher": 5}, size=12)
    meter.advance(20)
    assert [(step.done, step.total) for step in seen] == [(4, 4), (24, 44), (44, 44)]
    assert [step.images_per_second for step in seen] == [None, 5 / 2, 10 / 8]
    assert [(step.bytes, step.failures) for step in seen] == [(0, 0), (0, 0), (42, 1)]
    assert seen[1].seconds == {"read": 50}
    assert seen[2].seconds == {"read": 51, "teacher": 7}


def test_progress_of_many_threads_never_goes_back() -> None:
    seen: list[int] = []

    def slow(step: Progress) -> None:
        time.sleep(0.0005 * (step.done % 3))
        seen.append(step.done)

    meter = Meter(slow)
    meter.expect(120)

    def advance() -> None:
        for _ in range(20):
            meter.advance(1)

    threads = [threading.Thread(target=advance) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert seen == list(range(1, 121))
