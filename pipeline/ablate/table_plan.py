"""What an ablation runs: tables of `configs/ablations`, resolved to runs with folders.

A row is what it sets on top of the base experiment. Its runs lie in a folder that is named after
the resolved settings, never after the row or the table, so rows that mean the same are trained
once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from zsseg.pipeline.settings import apply_settings, build, read_experiment
from zsseg.stages.cache.format.recipe import fingerprint
from zsseg.stages.errors import UserError
from zsseg.stages.setting_marks import marked, selection
from zsseg.stages.train.run_config import MOVED_WEIGHTS, RunConfig
from zsseg.stages.yaml_files import builtin_names, packaged_values

_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
_NUMERALS = {"2": "II", "3": "III", "4": "IV", "5": "V"}
_DIGITS = 8
"""Of a fingerprint in a folder's name: two of a thousand runs share one with p = 1e-4."""


class Figures(BaseModel):
    """What a paper prints in a row, in percent."""

    model_config = _STRICT

    hIoU: float = Field(ge=0, le=100)
    sIoU: float = Field(ge=0, le=100)
    uIoU: float = Field(ge=0, le=100)


class TableRow(BaseModel):
    """One row: what it sets, and what the paper has for it."""

    model_config = _STRICT

    name: str = Field(min_length=1)
    set: tuple[str, ...] = ()
    """`section.field=value` on top of the base experiment and of `--set`."""
    needs: tuple[str, ...] = ()
    """Settings whose value is the base's and must not be off there: without them the row would be
    another one."""
    paper: Figures | None
    notes: str = ""


class AblationTable(BaseModel):
    """One table of a paper, or of our own."""

    model_config = _STRICT

    title: str
    source: str
    """Paper and table, data set and network of its figures; or why there are none."""
    base: str
    """Experiment that the rows stand on unless `--config` names another."""
    notes: tuple[str, ...] = ()
    rows: tuple[TableRow, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_tell_rows_apart(self) -> Self:
        names = [row.name for row in self.rows]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"rows: several are called {', '.join(twice)}")
        return self


@dataclass(frozen=True)
class PlannedRun:
    """One training of one seed."""

    folder: Path
    config: RunConfig


@dataclass(frozen=True)
class PlannedRow:
    """A row of the table with its runs, one per seed; rows that mean the same have the same."""

    row: TableRow
    runs: tuple[PlannedRun, ...]


def table_name(given: str) -> str:
    """The name of the table that a person means: 'ii', '2' and 'II' are II. Raises UserError."""
    wanted = _NUMERALS.get(given, given).lower()
    names = builtin_names("ablations")
    for name in names:
        if name.lower() == wanted:
            return name
    raise UserError(f"there is no table '{given}'; there are {', '.join(names)}")


def read_table(name: str) -> AblationTable:
    """The table of a name that `table_name` returned. Raises UserError."""
    place = f"ablations/{name}.yaml"
    return build(AblationTable, packaged_values(place), where=f"configs/{place}")


def table_stem(
    name: str,
    table: AblationTable,
    *,
    experiment: str,
    split: str,
    calibration: float | None,
    settings: Sequence[str],
) -> str:
    """Name of the table's files without suffix: `table-II`, and what is not as by default.

    A table replaces only an earlier one of its own kind, whatever its seeds.
    """
    words = ["table", name]
    if experiment != table.base:
        words.append(Path(experiment).stem)
    if split != "val":
        words.append(split.replace("/", "-"))
    if calibration is not None:
        words.append(f"gamma{calibration:g}")
    if settings:
        words.append(f"set-{fingerprint(settings)[:_DIGITS]}")
    return "-".join(words)


def plan(
    table: AblationTable,
    *,
    experiment: str,
    settings: Sequence[str],
    calibration: float | None,
    seeds: int,
    out: Path,
) -> list[PlannedRow]:
    """The rows of a table with their runs on top of an experiment (a name or a file).

    First comes the experiment, then `settings`, then what the row sets, so a row stays what its
    name says. `calibration` is the gamma of all rows, None the experiment's. Raises UserError for
    settings that are not valid or that no row would follow, and for an experiment that has off what
    a row needs.
    """
    _check_heard(table, settings)
    changes = list(settings)
    if calibration is not None:
        changes.append(f"evaluate.calibration={calibration}")
    base = apply_settings(read_experiment(experiment), changes)
    return [_planned(row, base, experiment=experiment, seeds=seeds, out=out) for row in table.rows]


def _check_heard(table: AblationTable, settings: Sequence[str]) -> None:
    """Refuse a setting that nothing would follow, because every row has its own."""
    own = [{_field(setting) for setting in row.set} | {"train.seed"} for row in table.rows]
    for setting in settings:
        if all(_field(setting) in fields for fields in own):
            raise UserError(
                f"--set {setting}: every row of '{table.title}' sets {_field(setting)} itself "
                "(seeds are given with --seeds). Leave it out"
            )


def _field(setting: str) -> str:
    return setting.partition("=")[0].strip()


def _planned(
    row: TableRow, base: dict[str, Any], *, experiment: str, seeds: int, out: Path
) -> PlannedRow:
    where = f"row '{row.name}' on top of {experiment}"
    configs = [
        build(RunConfig, apply_settings(base, [*row.set, f"train.seed={seed}"]), where=where)
        for seed in range(seeds)
    ]
    values = configs[0].model_dump()
    for name in row.needs:
        section, field = name.split(".")
        if not values[section][field]:
            raise UserError(
                f"{where}: {name} is off, and with it this row would be another one. Give an "
                f"experiment that has it with --config, or a value with --set {name}=..."
            )
    stem = out / Path(experiment).stem
    return PlannedRow(
        row,
        tuple(PlannedRun(_run_folder(stem, config), config) for config in configs),
    )


def _run_folder(stem: Path, config: RunConfig) -> Path:
    """Where a run lies: `stem`, a hyphen and its identity, then the seed."""
    runs, before = (
        stem.with_name(f"{stem.name}-{identity}")
        for identity in (_identity(config), _earlier_identity(config))
    )
    return (before if before.is_dir() else runs) / f"seed-{config.train.seed}"


def _identity(config: RunConfig) -> str:
    """What the trained weights follow from, but for the seed: equal for equal runs.

    Defaults are left out, so a setting that is added later does not orphan what is trained, and so
    are settings that change no result.
    """
    trained = _not_default(config, marked(RunConfig, result=False))
    # `train` may be empty, as it was for nearly every run when names were first given.
    return _digits({"train": {}} | {name: value for name, value in trained.items() if value != {}})


def _earlier_identity(config: RunConfig) -> str:
    """The identity up to zsseg 0.1, which told runs apart by settings that change no result."""
    names = ("workers", "device", "log_every", "checkpoint_every")
    return _digits(_not_default(config, ["evaluate", *(f"train.{name}" for name in names)]))


def _not_default(config: RunConfig, without: Sequence[str]) -> dict[str, Any]:
    """The settings that are not the default, but for those of these names and the seed."""
    values = config.model_dump(
        mode="json", exclude_defaults=True, exclude=selection([*without, "train.seed"])
    )
    if weights := values.get("student", {}).get("weights"):
        before, now = MOVED_WEIGHTS  # folders are named after where they lay
        values["student"]["weights"] = weights.replace(now, before)
    return values


def _digits(values: Mapping[str, Any]) -> str:
    return fingerprint(values)[:_DIGITS]


def unique_runs(rows: Sequence[PlannedRow]) -> dict[PlannedRun, list[str]]:
    """Every run once -> names of its rows; seed by seed, so that whole tables appear early."""
    runs: dict[Path, tuple[PlannedRun, list[str]]] = {}
    for seed in zip(*(row.runs for row in rows), strict=True):
        for row, run in zip(rows, seed, strict=True):
            runs.setdefault(run.folder, (run, []))[1].append(row.row.name)
    return dict(runs.values())


def elsewhere(
    tables: Sequence[str], *, experiment: str, settings: Sequence[str], seeds: int, out: Path
) -> dict[Path, list[str]]:
    """Run folder -> rows of these tables that share it, on top of the same experiment.

    Tables that this experiment cannot be the base of share nothing.
    """
    shared: dict[Path, list[str]] = {}
    for name in tables:
        try:
            rows = plan(
                read_table(name),
                experiment=experiment,
                settings=settings,
                calibration=None,
                seeds=seeds,
                out=out,
            )
        except UserError:
            continue
        for row in rows:
            for run in row.runs:
                shared.setdefault(run.folder, []).append(f"{name} {row.row.name}")
    return shared
