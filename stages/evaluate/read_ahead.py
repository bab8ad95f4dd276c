"""Reads the next items in a thread while the current one is processed."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")

_AHEAD = 2
"""Items in work beyond the current one: one being read, one waiting."""


def read_ahead(read: Callable[[Item], Read], items: Iterable[Item]) -> Generator[Read, None, None]:
    """`read` of each item, in order, by a thread that is at most two items ahead.

    One thread: decoding releases Python's lock, so it runs beside the network, and results are
    those of reading in turn. An exception of `read` is raised at the place of its item.
    """
    with ThreadPoolExecutor(max_workers=1) as thread:
        waiting: deque[Future[Read]] = deque()
        try:
            for item in items:
                waiting.append(thread.submit(read, item))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
