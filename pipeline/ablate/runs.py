"""The runs of an ablation: each trained and scored once, by whichever process comes to it first.

OUT/EXPERIMENT-1a2b3c4d/seed-0/       a run folder
OUT/EXPERIMENT-1a2b3c4d/seed-0.lock   held while a process works on it
OUT/table-II.md, .json, .csv          the table, written anew after every run
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from zsseg.pipeline import console
from zsseg.pipeline.ablate.table_plan import AblationTable, PlannedRow, PlannedRun, unique_runs
from zsseg.pipeline.ablate.table_report import Header, MeasuredRow, measured, write_table
from zsseg.stages.cache.disk.files import make_folder
from zsseg.stages.cache.format.recipe import difference
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.samples import list_samples
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.errors import NonFiniteError, UserError
from zsseg.stages.evaluate.evaluate import evaluate_run, gammas_of, labelled
from zsseg.stages.evaluate.result import (
    EvaluationResult,
    file_stem,
    read_result,
    save_result,
    variant,
)
from zsseg.stages.evaluate.trained_run import load_run
from zsseg.stages.train.loop import TrainProgress, train
from zsseg.stages.train.run import checkpoint
from zsseg.stages.train.run.run_folder import is_run, read_record

_SECONDS_BETWEEN_LOOKS = 2.0

Failures = Mapping[Path, str]
"""Run folder -> why there is no result of it."""

_Report = Callable[[int, str], None]
"""Called with the steps done of a run, and a few words on how it goes."""


@dataclass(frozen=True)
class Bench:
    """What all runs of an ablation have in common."""

    store: Store
    spec: DatasetSpec
    root: Path
    split: str
    """Split that they are scored on."""
    experiment: str


def check_stores(runs: Sequence[PlannedRun], store: Store) -> None:
    """Refuse runs that were trained from another store, before time is spent on the others."""
    for run in runs:
        if not is_run(run.folder):
            continue
        stored = {"store_fingerprint": read_record(run.folder).store_fingerprint}
        if changed := difference(stored, {"store_fingerprint": store.fingerprint}):
            raise UserError(
                f"{run.folder}: trained from another store than {store.path}:\n  "
                + "\n  ".join(changed)
                + "\nGive that store with --cache, or another --out"
            )


def check_split(bench: Bench) -> None:
    """Refuse a split that cannot be scored, or is trained on, before time is spent on training.

    Raises UserError, and DatasetError for a split that is not there or has no labels.
    """
    if bench.split == bench.store.identity["split"]:
        raise UserError(
            f"--split {bench.split}: {bench.store.path} is made of this split, so it would be "
            "trained on and scored on alike. Give a store of the training images with --cache, or "
            "another --split"
        )
    labelled(list_samples(bench.spec, bench.root, bench.split), bench.root, bench.split)


def work_on(
    rows: Sequence[PlannedRow],
    bench: Bench,
    *,
    after_run: Callable[[Failures], object],
    quiet: bool,
) -> dict[Path, str]:
    """Train and score every run of the rows that is not scored yet; run folder -> why it failed.

    A run that another process works on is left for later, and waited for in the end. A loss that
    is not finite fails its run only; every other error ends the ablation, and its next start goes
    on from there. `after_run` is called with the failures so far.
    """
    runs = unique_runs(rows)
    to_do = [run for run in runs if results_of(run, bench.split) is None]
    failures: dict[Path, str] = {}
    waiting = list(runs)
    with console.progress("ablate, steps", quiet=quiet) as advance:
        meter = _Meter(advance, sum(run.config.train.steps for run in to_do))
        while waiting:
            locked = []
            for run in waiting:
                with _held(run) as mine:
                    if not mine:
                        locked.append(run)
                        continue
                    words = _words(run, runs[run], rows)
                    if not quiet and results_of(run, bench.split) is None:
                        text = f"{words}: {run.folder}"
                        console.err.print(text, markup=False, soft_wrap=True)
                    try:
                        # Of a run that is finished only the settings are compared.
                        _train_and_score(run, bench, meter.of(words))
                    except NonFiniteError as error:
                        failures[run.folder] = str(error)
                        text = f"{words}: {error}"
                        console.err.print(text, markup=False, soft_wrap=True)
                    if run in to_do:
                        meter.done += run.config.train.steps
                        after_run(failures)
            if len(locked) == len(waiting):
                meter.of(f"waiting for {len(locked)} runs of another process")(0, "")
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            waiting = locked
    return failures


@dataclass
class _Meter:
    """Steps of all runs that are to be done: what is left of them is the time that is left."""

    advance: console.Advance
    total: int
    done: int = 0

    def of(self, words: str) -> _Report:
        """What a run called `words` reports to."""

        def report(steps: int, what: str) -> None:
            text = ", ".join(filter(None, (words, what)))
            self.advance(self.done + steps, self.total, text)

        return report


def _words(run: PlannedRun, names: Sequence[str], rows: Sequence[PlannedRow]) -> str:
    """`row 2 of 3, B + SDD, seed 0`; rows that are the same are told together."""
    numbers = [str(i) for i, row in enumerate(rows, start=1) if row.row.name in names]
    seed = run.config.train.seed
    return f"row {' and '.join(numbers)} of {len(rows)}, {' = '.join(names)}, seed {seed}"


def _train_and_score(run: PlannedRun, bench: Bench, report: _Report) -> None:
    """Bring a run to its scores, from wherever it is. Raises as `train` and `evaluate_run` do."""
    steps = run.config.train.steps

    def trained(now: TrainProgress) -> None:
        report(now.step, f"loss {now.metrics['loss']:.3f}" if now.metrics else "")

    train(
        run.config,
        store=bench.store,
        spec=bench.spec,
        root=bench.root,
        out=run.folder,
        resume=True,
        experiment=bench.experiment,
        progress=trained,
    )
    if results_of(run, bench.split) is not None:
        return
    student = load_run(run.folder, device=run.config.train.device, evaluate=run.config.evaluate)
    results = evaluate_run(
        student,
        bench.spec,
        bench.root,
        bench.split,
        progress=lambda done, total: report(steps, f"scoring image {done} of {total}"),
    )
    for result in results:
        save_result(run.folder, result)


def results_of(run: PlannedRun, split: str) -> tuple[EvaluationResult, ...] | None:
    """A run's scores on a split, one per gamma, 0 first; None unless all are there and its own."""
    if not is_run(run.folder):
        return None
    record = read_record(run.folder)
    found = []
    for gamma in gammas_of(run.config.evaluate.calibration):
        settings = run.config.evaluate.model_dump() | {"calibration": gamma}
        words = variant(
            dataset=record.dataset.name,
            own_dataset=record.dataset.name,
            settings=settings,
            own_settings=record.config.evaluate.model_dump(),
        )
        path = run.folder / f"{file_stem('student', split, words)}.json"
        if not path.is_file():
            return None
        result = read_result(path)
        if result.settings["step"] != run.config.train.steps:
            return None
        found.append(result)
    return tuple(found)


def state_of(run: PlannedRun, split: str) -> str:
    """How far a run is, in words; changes nothing on the disk."""
    if results_of(run, split) is not None:
        return "finished"
    if _lock_path(run).exists():
        with _held(run) as mine:
            if not mine:
                return "in work by another process"
    saved = checkpoint.latest(run.folder) if is_run(run.folder) else None
    if saved is None:
        return "to do"
    step, steps = checkpoint.step_of(saved), run.config.train.steps
    return "to score" if step == steps else f"at step {step} of {steps}"


def update_table(
    stem: Path,
    header: Header,
    table: AblationTable,
    rows: Sequence[PlannedRow],
    failures: Failures,
) -> tuple[Header, list[MeasuredRow]]:
    """Write the table's files with every result that is there by now, also of other processes.

    Returns what it wrote: the header with the revisions that the runs were trained with, the rows.
    """
    runs = list(unique_runs(rows))
    gammas = gammas_of(runs[0].config.evaluate.calibration)
    with FileLock(stem.with_name(f"{stem.name}.lock")):
        results = {run.folder: found for run in runs if (found := results_of(run, header.split))}
        revisions = {str(read_record(folder).revision or "unknown") for folder in results}
        made = replace(header, revisions=tuple(sorted(revisions)))
        found_rows = measured(rows, results, failures, gammas=gammas)
        write_table(stem, made, table, found_rows)
    return made, found_rows


def _lock_path(run: PlannedRun) -> Path:
    """Beside the run folder, which may hold a run's files only."""
    return run.folder.with_name(f"{run.folder.name}.lock")


@contextmanager
def _held(run: PlannedRun) -> Iterator[bool]:
    """Keep other processes from a run; False where one is at it. The lock ends with its process."""
    make_folder(run.folder.parent)
    lock = FileLock(_lock_path(run), timeout=0, thread_local=False)
    try:
        lock.acquire()
        mine = True
    except Timeout:
        mine = False
    try:
        yield mine
    finally:
        if mine:
            lock.release()
