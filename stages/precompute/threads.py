"""The same function on many items in threads: the only door to dask."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import dask
from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """The function of every item, in order, in as many threads as there are processors.

    Pays where the work leaves the interpreter lock alone, as decoding does. Inside, BLAS and OpenMP
    have one thread each: sums must not depend on how many there are, and threads of threads are
    slow. The first exception is raised.
    """
    pools = ThreadpoolController()

    def alone(item: Item) -> Result:
        # OpenMP counts per calling thread, so the limit of the thread outside is not enough.
        with pools.limit(limits=1, user_api="openmp"):
            return function(item)

    # Bound and untraversed: dask would search every item for collections of its own.
    tasks = [dask.delayed(partial(alone, item), traverse=False, pure=False)() for item in items]
    with pools.limit(limits=1):
        results: list[Result] = list(dask.compute(*tasks, scheduler="threads", traverse=False))
    return results
