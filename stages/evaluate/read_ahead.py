"""Reading the next things while the last are worked on."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")

_AHEAD = 2
"""Things held that nobody has asked for yet: one being read, one that waits."""


def read_ahead(read: Callable[[Item], Read], items: Iterable[Item]) -> Generator[Read, None, None]:
    """What `read` makes of each item, in order, by a thread that is at most two items ahead.

    One thread: decoding releases Python's lock, so it runs beside the network, and results are
    those of reading in turn. What `read` raises comes up when its item's turn comes.
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
