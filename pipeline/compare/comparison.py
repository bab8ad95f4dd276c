"""Reads the results of several runs, checks that they compare, and averages over seeds.

Runs that had labels of every class are the ceiling of the others (`ceiling`).

Scores are fractions of 1, as in `evaluation-*.json`; published figures are in percent, as printed.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from zsseg.pipeline.compare.ceiling import as_if_unseen, best_means, is_ceiling
from zsseg.pipeline.compare.published import PublishedFigure, published_figures
from zsseg.stages.cache.disk.json_files import canonical_json
from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.result import EvaluationResult, file_stem, read_result
from zsseg.stages.setting_marks import marked, selection
from zsseg.stages.train.run.run_folder import RunRecord, is_run, read_record
from zsseg.stages.train.run_config import Protocol, RunConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResultRow:
    """One result of one run."""

    run: Path
    record: RunRecord
    result: EvaluationResult

    @property
    def scores(self) -> Mapping[str, float]:
        """hIoU, sIoU, uIoU, mIoU and pAcc; NaN for what is not defined."""
        return shown_scores(self.result)


@dataclass(frozen=True)
class MeanRow:
    """Runs that differ in their seed only: means and standard deviations of their scores."""

    rows: tuple[ResultRow, ...]
    """Two or more, ordered by seed."""
    mean: Mapping[str, float]
    deviation: Mapping[str, float]
    """Of the sample (n - 1 in the denominator)."""


@dataclass(frozen=True)
class Comparison:
    """Everything that `zsseg compare` shows."""

    dataset: str
    split: str
    rows: tuple[ResultRow, ...]
    means: tuple[MeanRow, ...]
    teachers: tuple[EvaluationResult, ...]
    """Scores of the teacher alone that `zsseg evaluate` wrote into the runs, without gamma: one of
    a store's dense tokens, one of its map of names."""
    published: Mapping[Protocol, tuple[PublishedFigure, ...]]
    """For each protocol among the runs; () where nothing is published."""
    ceilings: Mapping[str, float]
    """hIoU of runs that had labels of all classes, by experiment: its best mean over seeds."""

    def shares(self, hiou: float) -> dict[str, float]:
        """An hIoU as a share of each ceiling's."""
        return {name: hiou / ceiling for name, ceiling in self.ceilings.items() if ceiling > 0}


def compare_runs(runs: Sequence[Path], split: str, *, mean: bool = False) -> Comparison:
    """Read the results that `zsseg evaluate` wrote into each run, in the order given.

    Every variant of an evaluation (gamma, limit, ...) is a row of its own. With `mean`, runs of one
    experiment that differ only in their seed are averaged. Paths that are no runs are left out with
    a warning, so that `runs/*` can be given. A run that had labels of every class is scored over
    the seen and unseen classes of the others, as their ceiling. Raises UserError for a path that
    does not exist, when none is a run, for a run that has no result of `split` or is given twice,
    for results on different data sets or class lists, and with `mean` for two runs of the same
    seed.
    """
    if twice := _repeated([run.resolve() for run in runs]):
        raise UserError(f"{twice}: given twice. Give each run once")
    others = [path for path in runs if path.exists() and not is_run(path)]
    if len(others) < len(runs):
        runs = [run for run in runs if run not in others]
        for path in others:
            logger.warning("%s: left out, it is no run", path)
    rows = [row for run in runs for row in _rows(run, split)]
    first = next((row for row in rows if row.result.unseen), rows[0])
    ceilings = []
    for place, row in enumerate(rows):
        if is_ceiling(row.result, first.result):
            rows[place] = replace(row, result=as_if_unseen(row.result, first.result.unseen))
            ceilings.append(rows[place])
        else:
            _check_same_task(first, row)
    protocols: dict[Protocol, None] = {row.record.config.protocol: None for row in rows}
    return Comparison(
        dataset=first.result.dataset,
        split=split,
        rows=tuple(rows),
        means=_means(rows) if mean else (),
        teachers=_teachers(runs, first),
        published={
            protocol: published_figures(first.record.dataset, split, protocol)
            for protocol in protocols
        },
        ceilings=best_means(
            [
                (row.record.experiment, _but_for_the_seed(row), row.scores["hIoU"])
                for row in ceilings
            ]
        ),
    )


def _rows(run: Path, split: str) -> list[ResultRow]:
    """The run's results on `split` of its own data set, the plain one first."""
    record = read_record(run)
    rows = []
    pattern = f"{file_stem('student', split)}*.json"
    for path in sorted(run.glob(pattern)):
        result = read_result(path)
        if result.subject != "student" or result.split != split:
            continue  # `val*` finds those of a split `val-night` too
        if result.dataset != record.dataset.name:
            logger.info("%s: left out, it is on another data set, %s", path, result.dataset)
            continue
        rows.append(ResultRow(run, record, result))
    if not rows:
        raise UserError(
            f"{run}: holds no result on split '{split}' of '{record.dataset.name}' (looked for "
            f"{pattern}). Score it first: zsseg evaluate --run {run} --split {split}"
        )
    return sorted(rows, key=lambda row: row.result.variant)


def shown_scores(result: EvaluationResult) -> dict[str, float]:
    """Every score by name, NaN where it is not defined for these classes."""
    return {name: result.means.get(name, math.nan) for name in result.scores.means}


def _teachers(runs: Sequence[Path], first: ResultRow) -> tuple[EvaluationResult, ...]:
    """The teacher's scores in the runs, on the task of the first row, without gamma."""

    def task(result: EvaluationResult) -> tuple[object, ...]:
        return result.dataset, result.split, result.classes, result.unseen

    found = {}
    for run in runs:
        for path in sorted(run.glob(f"{file_stem('teacher', first.result.split)}*.json")):
            result = read_result(path)
            if task(result) == task(first.result) and not result.settings["calibration"]:
                found[result.source, result.settings.get("from")] = result
    return tuple(found.values())


def _check_same_task(one: ResultRow, other: ResultRow) -> None:
    """Scores compare only on the same data set, classes and unseen classes."""
    lines = []
    if one.result.dataset != other.result.dataset:
        lines.append(f"data set: {one.result.dataset} and {other.result.dataset}")
    for field in ("classes", "unseen"):
        mine, theirs = getattr(one.result, field), getattr(other.result, field)
        for run, only in (
            (one.run, [name for name in mine if name not in theirs]),
            (other.run, [name for name in theirs if name not in mine]),
        ):
            if only:
                lines.append(f"{field} only in {run}: {', '.join(only)}")
        if set(mine) == set(theirs) and mine != theirs:
            lines.append(f"{field}: the same in another order")
    if lines:
        raise UserError(
            f"{one.run} and {other.run} were scored on different tasks:",
            *map("  {}".format, lines),
            "Compare runs of one data set and one choice of unseen classes at a time",
        )


def _means(rows: Sequence[ResultRow]) -> tuple[MeanRow, ...]:
    groups: dict[str, list[ResultRow]] = {}
    for row in rows:
        groups.setdefault(_but_for_the_seed(row), []).append(row)
    return tuple(_mean(group) for group in groups.values() if len(group) > 1)


def _but_for_the_seed(row: ResultRow) -> str:
    """All that decides a row's scores but the seed, as one text."""
    # How it was evaluated is in the result's settings.
    beside = selection([*marked(RunConfig, result=False), "train.seed"])
    config = row.record.config.model_dump(mode="json", exclude=beside)
    return canonical_json(
        {
            "experiment": row.record.experiment,
            "config": config,
            "store": row.record.store_fingerprint,
            "settings": row.result.settings,
            "images": row.result.images,
        }
    )


def _mean(rows: Sequence[ResultRow]) -> MeanRow:
    by_seed = sorted(rows, key=lambda row: row.record.config.train.seed)
    for one, other in pairwise(by_seed):
        if one.record.config.train.seed == other.record.config.train.seed:
            raise UserError(
                f"{one.run} and {other.run} are the same experiment with the same seed "
                f"{one.record.config.train.seed}, which a mean over seeds would count twice. Give "
                "one of them, or leave out --mean"
            )
    values = {name: [row.scores[name] for row in by_seed] for name in by_seed[0].scores}
    return MeanRow(
        rows=tuple(by_seed),
        mean={name: float(np.mean(each)) for name, each in values.items()},
        deviation={name: float(np.std(each, ddof=1)) for name, each in values.items()},
    )


def _repeated(paths: Sequence[Path]) -> Path | None:
    return next((path for place, path in enumerate(paths) if path in paths[:place]), None)
