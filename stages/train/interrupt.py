"""Ctrl-C and SIGTERM wait for the end of a step, so that its result can be saved."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

logger = logging.getLogger(__name__)


@dataclass
class Interrupt:
    """Which signal came, if any."""

    signal: int | None = None

    def raise_(self) -> None:
        """What the signal would have raised: KeyboardInterrupt, or SystemExit(143) for SIGTERM."""
        if self.signal == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt


@contextmanager
def held_signals() -> Iterator[Interrupt]:
    """Hold back the first SIGINT or SIGTERM; the second acts at once.

    Does nothing outside the main thread, where Python handles no signals.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.getsignal(kind) or signal.SIG_DFL for kind in kinds}

    def hold(kind: int, _: FrameType | None) -> None:
        interrupt.signal = kind
        logger.warning("stopping after this step, with a checkpoint; again to stop at once")
        for each in kinds:
            signal.signal(each, before[each])

    for kind in kinds:
        signal.signal(kind, hold)
    try:
        yield interrupt
    finally:
        for kind in kinds:
            signal.signal(kind, before[kind])
