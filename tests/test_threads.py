"""Work in threads: the order, one library thread in each, and what must not run side by side."""

import time
from typing import Any

import dask
import numpy as np
import pytest
from numpy.typing import NDArray
from threadpoolctl import threadpool_info, threadpool_limits

from stages.errors import DatasetError
from stages.precompute import artifacts, rows
from stages.precompute.config import RegionConfig
from stages.precompute.kmeans import Backend
from stages.precompute.threads import in_threads


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

    monkeypatch.setattr(artifacts, "mine_regions", mine)
    picture = rows.Picture(np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 255, np.uint8))
    done: list[int] = []
    with dask.config.set(num_workers=4):
        artifacts.region_arrays(
            np.zeros((8, 3, 2, 2), np.float16),
            [picture] * 8,
            RegionConfig(),
            backend=backend,
            advance=done.append,
        )
    assert sum(done) == 8
    assert (most[0] > 1) == (backend == "sklearn")
