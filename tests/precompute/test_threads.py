"""Work in threads: the order, one library thread in each, and what must not run side by side."""

import threading
import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from threadpoolctl import threadpool_info, threadpool_limits

from zsseg.stages.errors import DatasetError
from zsseg.stages.precompute.make import pictures, regions, regions_artifact
from zsseg.stages.precompute.make.kmeans import Backend
from zsseg.stages.precompute.precompute_config import RegionConfig
from zsseg.stages.precompute.threads import in_threads


def test_threads_keep_the_order_and_raise() -> None:
    assert in_threads(lambda number: number * number, range(20)) == [n * n for n in range(20)]
    assert in_threads(str, []) == []

    def fail(number: int) -> int:
        if number == 3:
            raise DatasetError("the third")
        return number

    with pytest.raises(DatasetError, match="the third"):
        in_threads(fail, range(5))


def test_libraries_have_one_thread_in_each_of_ours() -> None:
    """And as many as before afterwards."""

    def threads(_: int = 0) -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info()]

    with threadpool_limits(3):
        before = threads()
        assert 3 in before
        assert {count for found in in_threads(threads, range(20)) for count in found} == {1}
        assert threads() == before


def test_who_leaves_first_gives_the_others_no_more_blas_threads() -> None:
    """The number of threads of BLAS belongs to the process, and two shards are mined at once."""

    def blas() -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    inside, first_left, seen = threading.Event(), threading.Event(), list[set[int]]()

    def long(_: int) -> None:
        inside.set()
        assert first_left.wait(20)
        seen.append(blas())

    with threadpool_limits(3, user_api="blas"):
        other = threading.Thread(target=in_threads, args=(long, [0]))
        other.start()
        assert inside.wait(20)
        assert in_threads(lambda _: blas(), [0]) == [{1}]
        first_left.set()
        other.join(20)
        assert seen == [{1}]
        assert blas() == {3}


def test_blas_has_one_thread_whoever_comes_first() -> None:
    """Threads one after another, all of them alive: as those that shards are made in."""

    def blas(_: int = 0) -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    before = blas()
    done, seen = threading.Event(), list[set[int]]()

    def come() -> None:
        seen.extend(in_threads(blas, [0]))
        seen.append(blas())
        gone.release()
        done.wait(20)

    gone, threads = threading.Semaphore(0), [threading.Thread(target=come) for _ in range(3)]
    for thread in threads:
        thread.start()
        assert gone.acquire(timeout=20)
    done.set()
    for thread in threads:
        thread.join(20)
    assert seen == [{1}, before] * 3


@pytest.mark.parametrize("backend", ["sklearn", "cuml"])
def test_regions_are_mined_in_threads_and_on_the_gpu_one_by_one(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work, most = [0], [0]

    def mine(*_: Any, **__: Any) -> NDArray[np.uint8]:
        at_work[0] += 1
        most[0] = max(most[0], at_work[0])
        time.sleep(0.02)
        at_work[0] -= 1
        return np.zeros((2, 2), np.uint8)

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr(regions, "mine_regions", mine)
    picture = pictures.Picture(np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 255, np.uint8))
    done: list[int] = []
    regions_artifact.region_arrays(
        np.zeros((8, 3, 2, 2), np.float16),
        [picture] * 8,
        RegionConfig(),
        backend=backend,
        advance=done.append,
    )
    assert sum(done) == 8
    assert (most[0] > 1) == (backend == "sklearn")
