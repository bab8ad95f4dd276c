"""Notes how much memory a training takes, so that the next one can tell of a death without a word.

The kernel ends a process that takes too much memory at once: no message, no clean end. The note
lies in the run folder while a training is on, and stays there only when it was killed.
"""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from zsseg.stages.cache.disk.durable import write_durably
from zsseg.stages.machine_memory import peak_bytes

NOTE = ".attempt.json"

logger = logging.getLogger(__name__)


@contextmanager
def noted_attempt(
    run: Path, *, start_step: int, foretold: int | None = None
) -> Iterator[Callable[[int], None]]:
    """Within, the callable notes the peak of memory after a number of steps.

    `foretold`: the bytes that the training process is expected to take, for the note.

    Warns first when the attempt before this one was killed. A note that cannot be written is left
    out.
    """
    _warn_of_death(run)
    highest = -1.0
    expected = {} if foretold is None else {"foretold_gb": round(foretold / 1e9, 2)}

    def note(step: int) -> None:
        nonlocal highest
        peak = peak_gb()
        if peak > 1.02 * highest:  # seldom after the first steps
            highest = peak
            with suppress(OSError):
                found = {"step": step, "peak_gb": round(peak, 2)} | expected
                write_durably(run / NOTE, json.dumps(found).encode())

    try:
        note(start_step)
        yield note
    finally:
        with suppress(OSError):
            (run / NOTE).unlink(missing_ok=True)


def _warn_of_death(run: Path) -> None:
    try:
        found = json.loads((run / NOTE).read_bytes())
        step, peak = int(found["step"]), float(found["peak_gb"])
        foretold = f", {float(found['foretold_gb']):.1f} foretold" if "foretold_gb" in found else ""
    except (OSError, ValueError, KeyError, TypeError):
        return
    logger.warning(
        "%s: the last attempt was killed after step %d or later; it had taken %.1f GB of memory at "
        "step %d%s. If the memory was short, use --set train.accumulate=N (N parts per step, the "
        "same result) or --set student.checkpointing=true",
        run,
        step,
        peak,
        step,
        foretold,
    )


def peak_gb() -> float:
    """The most memory this process has had, in 10^9 bytes; 0 where the system does not say."""
    return peak_bytes() / 1e9
