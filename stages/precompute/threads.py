"""The same function on many items in threads."""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, TypeVar

import threadpoolctl
from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")


class _OneBlasThread:
    """Limits BLAS to one thread while any caller is inside.

    The number of BLAS threads belongs to the process, so the last one to leave restores it.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._limits: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                _allow_any_thread_to_set_blas_threads()
                self._limits = _pools().limit(limits=1, user_api="blas")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                assert self._limits is not None
                _allow_any_thread_to_set_blas_threads()
                self._limits.restore_original_limits()
                _allow_any_thread_to_set_blas_threads()


def _allow_any_thread_to_set_blas_threads() -> None:
    """Since threadpoolctl 3.8 the first thread that sets OpenBLAS' number of threads owns it.

    Calls from other threads silently do nothing. The first to enter and the last to leave are often
    different threads.
    """
    release = getattr(threadpoolctl.OpenBLASController, "clear_controlling_thread", None)
    if release is not None:
        release(force=True)


def _pools() -> ThreadpoolController:
    """The libraries of this process that have threads of their own."""
    return _pools_of(len(sys.modules))


@lru_cache(maxsize=1)
def _pools_of(_: int) -> ThreadpoolController:
    """Found anew when modules were imported, which is how libraries are loaded: it takes 3 ms."""
    return ThreadpoolController()


_ONE_BLAS_THREAD = _OneBlasThread()


def processors() -> int:
    """How many threads this process may use: OMP_NUM_THREADS, or one per processor."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) else os.cpu_count() or 1


def slices(number: int, size: int) -> Iterator[slice]:
    """0 to `number` in slices of `size`; the last one may be shorter."""
    for start in range(0, number, size):
        yield slice(start, min(start + size, number))


def in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """The function of every item, in order, computed in `processors()` threads.

    Faster where the function releases the interpreter lock, as decoding does. Inside, BLAS and
    OpenMP have one thread each: sums must not depend on the number of threads, and nested threads
    are slow. Raises the first exception. Several threads may call it at a time, but the function
    must not.
    """
    pools = _pools()

    def one_openmp_thread() -> None:
        # OpenMP counts per calling thread, so a limit of the thread outside is not enough. It ends
        # with the thread, so nothing has to be put back.
        pools.limit(limits=1, user_api="openmp")

    threads = max(1, min(len(items), processors()))
    executor = ThreadPoolExecutor(threads, initializer=one_openmp_thread)
    with _ONE_BLAS_THREAD, executor:
        try:
            return list(executor.map(function, items))
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
