"""The same function on many items in threads: the only door to dask."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import dask

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """The function of every item, in order, in as many threads as there are processors.

    Pays where the work leaves the interpreter lock alone, as decoding does. The first exception is
    raised.
    """
    # Bound and untraversed: dask would search every item for collections of its own.
    tasks = [dask.delayed(partial(function, item), traverse=False, pure=False)() for item in items]
    results: list[Result] = list(dask.compute(*tasks, scheduler="threads", traverse=False))
    return results
