"""Ends a command on SIGTERM (from a cluster's queue or a stopping container) as on Ctrl-C."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Within, a SIGTERM raises SystemExit(143), so that files are closed; a second one kills.

    Does nothing outside the main thread, where Python handles no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL

    def end(kind: int, _: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, before)
        raise SystemExit(128 + kind)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
