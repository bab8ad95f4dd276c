"""Output for people: results on stdout; progress bars, messages and logging on stderr.

Names of files and classes may hold anything: all text passes through `one_line` here.
"""

import io
import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from zsseg.stages.errors import UserError
from zsseg.stages.printable import one_line, printable


class PlainConsole(Console):
    """Prints every string as it is, in `one_line`: no markup, no emoji, no colours.

    Several lines are several calls, or the lines of a table.
    """

    def __init__(self, *, stderr: bool = False, width: int | None = None) -> None:
        super().__init__(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, *args: Any, **options: Any) -> Text:
        return super().render_str(one_line(text), *args, **options)


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()  # None: closed by the caller


# Rich breaks what is no terminal at 80 columns: a file or a pipe has no width.
out = PlainConsole(width=None if _is_terminal(sys.stdout) else 160)
err = PlainConsole(stderr=True)


def open_streams() -> None:
    """Let stdout and stderr take anything: also where they are closed, or take ASCII only."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say_next(*words: object, quiet: bool) -> None:
    """Name the command that is likely wanted next, as it can be typed; on stderr.

    Not for a command that runs inside another one.
    """
    if not (quiet or out.quiet):
        err.print(f"next: {shlex.join(map(str, words))}", soft_wrap=True)


Advance = Callable[[int, int, str], None]
"""Called with the number done, the number in all, and a few words such as the speed."""

_SECONDS_BETWEEN_LINES = 10.0


def flush() -> None:
    """Write what stdout still holds. Raises OSError where it cannot be, and drops it."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


class _PlainFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        if not isinstance(record.args, tuple):
            return printable(super().format(record))
        plain = copy(record)
        plain.args = tuple(map(_safe, record.args))
        return printable(super().format(plain))


def _safe(value: object) -> object:
    """What a log line is made of, in one line; numbers and our own errors, which are so, as is."""
    return value if isinstance(value, int | float | UserError) else one_line(value)


def configure_logging(*, quiet: bool, first: bool = True) -> None:
    """Messages of zsseg's own modules go to stderr; of libraries, warnings only.

    `first`: False in all but the first of several processes that were launched together; they log
    errors only, so that a warning is not printed by each of them.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_PlainFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("zsseg").setLevel(logging.WARNING if quiet else logging.INFO)
    logging.captureWarnings(True)
    if not first:
        logging.disable(logging.WARNING)


@contextmanager
def progress(title: str, *, quiet: bool = False) -> Iterator[Advance]:
    """A progress bar on a terminal; elsewhere a plain line every few seconds."""
    if quiet:
        yield lambda done, total, words: None
    elif _is_terminal(sys.stderr):
        with Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[words]}", markup=False),
            console=err,
        ) as bar:
            task = bar.add_task(one_line(title), total=None, words="")
            yield lambda done, total, words: bar.update(
                task, completed=done, total=total, words=one_line(words)
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
    PlainConsole(width=width).print(table)


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
