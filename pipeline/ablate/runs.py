"""Trains and scores the runs of a table, and writes the table after each of them.

OUT/EXPERIMENT-1a2b3c4d/seed-0/   a run folder, see `run_state`
OUT/table-II.md, .json, .csv      the table

Several processes may work on the same table: each run is taken by the first that finds it free.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock

from zsseg.pipeline.ablate.run_state import results_of
from zsseg.pipeline.ablate.shared_work import Failures, Report, SharedWork, do_all
from zsseg.pipeline.ablate.table_plan import AblationTable, PlannedRow, PlannedRun, unique_runs
from zsseg.pipeline.ablate.table_report import Header, MeasuredRow, measured, write_table
from zsseg.stages.cache.format.recipe import differing_fields
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.data.splits import list_samples
from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.evaluation import evaluate_run, gammas_of, labelled
from zsseg.stages.evaluate.result import save_result
from zsseg.stages.evaluate.trained_run import load_run
from zsseg.stages.train.batches.training_data import TrainingData
from zsseg.stages.train.loop import TrainProgress, train
from zsseg.stages.train.run.run_folder import is_run, read_record


@dataclass(frozen=True)
class RunInputs:
    """What all runs of an ablation have in common."""

    store: Store
    spec: DatasetSpec
    root: Path
    split: str
    """Split that they are scored on."""
    experiment: str


def check_stores(runs: Sequence[PlannedRun], store: Store) -> None:
    """Raise UserError for runs that were trained from another store, before any is trained."""
    for run in runs:
        if not is_run(run.folder):
            continue
        stored = {"store_fingerprint": read_record(run.folder).store_fingerprint}
        if changed := differing_fields(stored, {"store_fingerprint": store.fingerprint}):
            raise UserError(
                f"{run.folder}: trained from another store than {store.path}:",
                *map("  {}".format, changed),
                "Give that store with --cache, or another --out",
            )


def check_split(inputs: RunInputs) -> None:
    """Refuse a split that cannot be scored, or is trained on, before any run is trained.

    Raises UserError, and DatasetError for a split that is not there or has no labels.
    """
    split, store = inputs.split, inputs.store
    if split == store.identity["split"]:
        raise UserError(
            f"--split {split}: {store.path} is made of this split, so the same images would be "
            "used for training and scoring. Give a store of the training images with --cache, or "
            "another --split"
        )
    labelled(list_samples(inputs.spec, inputs.root, split), inputs.spec, inputs.root, split)


def make_table(
    stem: Path,
    header: Header,
    table: AblationTable,
    rows: Sequence[PlannedRow],
    inputs: RunInputs,
    *,
    quiet: bool,
) -> tuple[Header, list[MeasuredRow], Failures]:
    """Train and score the runs that are missing; the table's files `stem.*` grow with each.

    Returns what the files hold in the end, and the runs that failed.
    """
    _update_table(stem, header, table, rows, {})
    failures = work_on(
        rows,
        inputs,
        after_run=lambda failed: _update_table(stem, header, table, rows, failed),
        quiet=quiet,
    )
    return *_update_table(stem, header, table, rows, failures), failures


def work_on(
    rows: Sequence[PlannedRow],
    inputs: RunInputs,
    *,
    after_run: Callable[[Failures], object],
    quiet: bool,
) -> dict[Path, str]:
    """Train and score every run of the rows that is not scored yet, as `do_all` does."""
    work = SharedWork(
        words={run: _words(run, names, rows) for run, names in unique_runs(rows).items()},
        is_done=lambda run: results_of(run, inputs.split) is not None,
        do=lambda run, report: _train_and_score(run, inputs, report),
    )
    return do_all(work, title="ablate", after_run=after_run, quiet=quiet)


def _words(run: PlannedRun, names: Sequence[str], rows: Sequence[PlannedRow]) -> str:
    """`row 2 of 3, B + SDD, seed 0`; rows that share the run are named together."""
    numbers = [str(i) for i, row in enumerate(rows, start=1) if row.row.name in names]
    seed = run.config.train.seed
    return f"row {' and '.join(numbers)} of {len(rows)}, {' = '.join(names)}, seed {seed}"


def _train_and_score(run: PlannedRun, inputs: RunInputs, report: Report) -> None:
    """Train a run to its end, from wherever it is, and score it.

    Raises as `train` and `evaluate_run` do.
    """
    steps = run.config.train.steps

    def trained(now: TrainProgress) -> None:
        report(now.step, f"loss {now.metrics['loss']:.3f}" if now.metrics else "")

    train(
        run.config,
        TrainingData(inputs.store, inputs.spec, inputs.root),
        out=run.folder,
        resume=True,
        experiment=inputs.experiment,
        progress=trained,
    )
    if results_of(run, inputs.split) is not None:
        return
    student = load_run(run.folder, device=run.config.train.device, evaluate=run.config.evaluate)
    results = evaluate_run(
        student,
        inputs.spec,
        inputs.root,
        inputs.split,
        progress=lambda done, total: report(steps, f"scoring image {done} of {total}"),
    )
    for result in results:
        save_result(run.folder, result)


def _update_table(
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
