"""Output for people: results on stdout; progress bars, messages and logging on stderr."""

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
"""Called with the number done, the number in all, and a few words such as the speed."""

_SECONDS_BETWEEN_LINES = 10.0


def configure_logging(*, quiet: bool, first: bool = True) -> None:
    """Messages of zsseg's own modules go to stderr; of libraries, warnings only.

    `first`: False in all but the first of several processes that were launched together; they log
    errors only, so that a warning is not printed by each of them.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("zsseg").setLevel(logging.WARNING if quiet else logging.INFO)
    logging.captureWarnings(True)
    if not first:
        logging.disable(logging.WARNING)


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
    # The last line is printed here: a report after the last step may still change its words.
    if state is not None and state[0] >= state[1]:
        line(*state)


def print_whole(table: Table, *, widest: int = 1000) -> None:
    """Print a table in its full width: a narrow screen wraps its lines, but no column is cut.

    A table wider than both the screen and `widest` characters is folded to the larger of the two.
    """
    wide = out.options.update_width(widest)
    width = max(out.width, out.measure(table, options=wide).maximum)
    Console(highlight=False, width=width).print(table)


@contextmanager
def no_output() -> Iterator[None]:
    """Within, `out` prints nothing: for commands that run inside another one. `err` still does."""
    before, out.quiet = out.quiet, True
    try:
        yield
    finally:
        out.quiet = before


def size_text(count: int) -> str:
    """A number of bytes as text, such as 1.2 GB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
