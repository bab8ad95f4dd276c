"""Does the runs of a plan that are not done yet; several processes may share the same plan.

Each run is taken by the first process that finds it free.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from zsseg.pipeline import console
from zsseg.pipeline.ablate.run_state import held
from zsseg.pipeline.ablate.table_plan import PlannedRun
from zsseg.stages.errors import NonFiniteError, NothingToLearnError
from zsseg.stages.printable import counted

_SECONDS_BETWEEN_LOOKS = 2.0

Failures = Mapping[Path, str]
"""Run folder -> why it has no result."""

Report = Callable[[int, str], None]
"""Called with the steps that a run has done, and a few words such as its loss."""


@dataclass(frozen=True)
class SharedWork:
    """Runs, and what is to be done for each."""

    words: Mapping[PlannedRun, str]
    """What each run is called on the screen, in the order in which they are done."""
    is_done: Callable[[PlannedRun], bool]
    do: Callable[[PlannedRun, Report], None]
    """Does a run from wherever it is; of one that is done, compares the settings."""


def do_all(
    work: SharedWork, *, title: str, after_run: Callable[[Failures], object], quiet: bool
) -> dict[Path, str]:
    """Do every run; run folder -> why it failed.

    A run that another process works on is left for later, and waited for in the end. A loss that
    is not finite, or that has nothing to learn from in this data set, fails its run only; every
    other error ends the work, and its next start goes on from there. `after_run` is called with
    the failures so far.
    """
    to_do = [run for run in work.words if not work.is_done(run)]
    failures: dict[Path, str] = {}
    waiting = list(work.words)
    with console.progress(f"{title}, steps", quiet=quiet) as advance:
        meter = _Meter(advance, sum(run.config.train.steps for run in to_do))
        while waiting:
            locked = []
            for run in waiting:
                with held(run) as mine:
                    if not mine:
                        locked.append(run)
                        continue
                    words = work.words[run]
                    if not quiet and not work.is_done(run):
                        _print_error_line(f"{words}: {run.folder}")
                    try:
                        work.do(run, meter.of(words))
                    except (NonFiniteError, NothingToLearnError) as error:
                        failures[run.folder] = str(error)
                        _print_error_line(f"{words}: {error}")
                    if run in to_do:
                        meter.done += run.config.train.steps
                        after_run(failures)
            if len(locked) == len(waiting):
                meter.of(f"waiting for {counted(len(locked), 'run')} of another process")(0, "")
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            waiting = locked
    return failures


def _print_error_line(text: str) -> None:
    console.err.print(text, soft_wrap=True)


@dataclass
class _Meter:
    """Counts the steps of all runs that are to be done, so that the time left covers them all."""

    advance: console.Advance
    total: int
    done: int = 0

    def of(self, words: str) -> Report:
        """The function that a run described by `words` reports its steps to."""

        def report(steps: int, what: str) -> None:
            text = ", ".join(filter(None, (words, what)))
            self.advance(self.done + steps, self.total, text)

        return report
