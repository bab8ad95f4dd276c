"""Signals that wait for the end of a step."""

import os
import signal
import threading

import pytest

from zsseg.stages.train.interrupt import held_signals


@pytest.mark.parametrize(
    ("kind", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_the_first_signal_waits(kind: signal.Signals, error: type[BaseException]) -> None:
    before = signal.getsignal(kind)
    with held_signals() as interrupt:
        os.kill(os.getpid(), kind)
        assert interrupt.signal == kind
        with pytest.raises(error):
            interrupt.raise_()
        assert signal.getsignal(kind) == before  # the second acts at once
    assert signal.getsignal(kind) == before


def test_signals_are_left_alone_in_other_threads() -> None:
    seen = []

    def run() -> None:
        with held_signals() as interrupt:
            seen.append(interrupt.signal)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [None]
