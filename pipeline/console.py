"""What a person sees: data on stdout, progress and messages on stderr."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

# Rich breaks what is no terminal at 80 columns: a file or a pipe has no width.
out = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True, highlight=False)

Advance = Callable[[int, int, str], None]
"""Called with what is done, of how much, and a few words on how it goes."""

_SECONDS_BETWEEN_LINES = 10.0


def configure_logging(*, quiet: bool) -> None:
    """Messages of zsseg's own modules go to stderr; of libraries, warnings only."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("zsseg").setLevel(logging.WARNING if quiet else logging.INFO)
    logging.captureWarnings(True)


def others_are_silent(*, quiet: bool) -> bool:
    """Is this process to be quiet? Of several that were launched together the first one speaks."""
    from zsseg.stages.train.processes import launched

    if launched()[0] == 0:
        return quiet
    logging.disable(logging.WARNING)
    return True


@contextmanager
def progress(title: str, *, quiet: bool = False) -> Iterator[Advance]:
    """A progress bar on a terminal; elsewhere a plain line every few seconds."""
    if quiet:
        yield lambda done, total, words: None
    elif sys.stderr.isatty():
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[words]}"),
            console=err,
        ) as bar:
            task = bar.add_task(title, total=None, words="")
            yield lambda done, total, words: bar.update(
                task, completed=done, total=total, words=words
            )
    else:
        with _plain_lines(title) as advance:
            yield advance


@contextmanager
def _plain_lines(title: str) -> Iterator[Advance]:
    started = last = time.monotonic()
    state: tuple[int, int, str] | None = None

    def line(done: int, total: int, words: str) -> None:
        spent = time.monotonic() - started
        left = spent / max(done, 1) * (total - done)
        when = f"{left:.0f} s left" if done < total else f"{spent:.0f} s"
        err.print(f"{title} {done}/{total}, {when}{'  ' + words if words else ''}", soft_wrap=True)

    def advance(done: int, total: int, words: str) -> None:
        nonlocal last, state
        state = done, total, words
        if done < total and time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            line(*state)

    yield advance
    # The end is told at the end: what comes with the last step may still change the words.
    if state is not None and state[0] >= state[1]:
        line(*state)


def print_whole(table: Table, *, widest: int = 1000) -> None:
    """Print a table as wide as it is: a narrow screen breaks its lines, but loses no column.

    One that is wider than the screen and than `widest` characters is folded to the larger of both.
    """
    wide = out.options.update_width(widest)
    width = max(out.width, out.measure(table, options=wide).maximum)
    Console(highlight=False, width=width).print(table)


@contextmanager
def no_output() -> Iterator[None]:
    """Commands that run inside another one print no results; progress and messages stay."""
    before, out.quiet = out.quiet, True
    try:
        yield
    finally:
        out.quiet = before


def size_text(count: int) -> str:
    """A number of bytes for a person: 1.2 GB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
