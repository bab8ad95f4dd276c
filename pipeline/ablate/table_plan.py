"""Tables of `configs/ablations`, and the runs that each of their rows needs.

A row states what it sets on top of the base experiment. Its runs lie in a folder that is named
after the resolved settings, never after the row or the table: rows with equal settings share their
runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
"""Of a fingerprint in a folder's name: with 1,000 runs the chance that two collide is 1e-4."""


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
    """Settings that the row takes from the base, where they must be on: with one of them off, the
    row's name would be wrong."""
    paper: Figures | None
    notes: str = ""


class AblationTable(BaseModel):
    """One table of a paper, or of our own."""

    model_config = _STRICT

    title: str
    source: str
    """Paper and table, data set and network of its figures; or why there are none."""
    base: str
    """Experiment that the rows change, unless `--config` names another."""
    notes: tuple[str, ...] = ()
    rows: tuple[TableRow, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_tell_rows_apart(self) -> Self:
        names = [row.name for row in self.rows]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"rows: several are called {', '.join(twice)}")
        return self


@dataclass(frozen=True, kw_only=True)
class AblationRequest:
    """What a table is asked to be made with: the options of `zsseg ablate`."""

    experiment: str
    """The experiment that the rows change: a name or a file."""
    settings: tuple[str, ...] = ()
    """`section.field=value` for every row, as `--set` gives them."""
    calibration: float | None = None
    """gamma of every row; None: the experiment's."""
    seeds: int
    """Every row is trained with the seeds 0 to seeds - 1."""
    split: str = "val"
    """Split that the runs are scored on."""
    out: Path
    """Folder of the runs and of the tables."""

    @property
    def stem(self) -> str:
        """The experiment's name without folder and suffix."""
        return Path(self.experiment).stem


@dataclass(frozen=True)
class PlannedRun:
    """One training of one seed."""

    folder: Path
    config: RunConfig


@dataclass(frozen=True)
class PlannedRow:
    """A row of the table with its runs, one per seed; rows with equal settings share their runs."""

    row: TableRow
    runs: tuple[PlannedRun, ...]


def table_name(given: str) -> str:
    """The table's name as its file has it: 'ii', '2' and 'II' give II. Raises UserError."""
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


def table_stem(name: str, table: AblationTable, request: AblationRequest) -> str:
    """Name of the table's files without suffix: `table-II`, and what is not the default.

    So a table replaces only an earlier one made with the same options, whatever its seeds.
    """
    words = ["table", name]
    if request.experiment != table.base:
        words.append(request.stem)
    if request.split != "val":
        words.append(request.split.replace("/", "-"))
    if request.calibration is not None:
        words.append(f"gamma{request.calibration:g}")
    if request.settings:
        words.append(f"set-{fingerprint(request.settings)[:_DIGITS]}")
    return "-".join(words)


def plan(table: AblationTable, request: AblationRequest) -> list[PlannedRow]:
    """The rows of a table with their runs.

    First comes the experiment, then the request's settings, then what the row sets, so a row stays
    what its name says. Raises UserError for settings that are not valid or that every row
    overrides, and for an experiment in which a setting that a row needs is off.
    """
    _check_not_overridden(table, request.settings)
    changes = list(request.settings)
    if request.calibration is not None:
        changes.append(f"evaluate.calibration={request.calibration}")
    base = apply_settings(read_experiment(request.experiment), changes)
    return [_planned(row, base, request) for row in table.rows]


def _check_not_overridden(table: AblationTable, settings: Sequence[str]) -> None:
    """Refuse a setting without any effect, because every row sets it itself."""
    own = [{_field(setting) for setting in row.set} | {"train.seed"} for row in table.rows]
    for setting in settings:
        if all(_field(setting) in fields for fields in own):
            raise UserError(
                f"--set {setting}: every row of '{table.title}' sets {_field(setting)} itself "
                "(seeds are given with --seeds). Leave it out"
            )


def _field(setting: str) -> str:
    return setting.partition("=")[0].strip()


def _planned(row: TableRow, base: dict[str, Any], request: AblationRequest) -> PlannedRow:
    where = f"row '{row.name}' on top of {request.experiment}"
    configs = [
        build(
            RunConfig, apply_settings(base, [*row.set, f"train.seed={seed}"]), where=where
        ).unvalidated
        for seed in range(request.seeds)
    ]
    values = configs[0].model_dump()
    for name in row.needs:
        section, field = name.split(".")
        if not values[section][field]:
            raise UserError(
                f"{where}: {name} is off, and with it this row would be another one. Give an "
                f"experiment that has it with --config, or a value with --set {name}=..."
            )
    stem = request.out / request.stem
    runs = (PlannedRun(run_folder(stem, config), config) for config in configs)
    return PlannedRow(row, tuple(runs))


def run_folder(stem: Path, config: RunConfig) -> Path:
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


def elsewhere(tables: Sequence[str], request: AblationRequest) -> dict[Path, list[str]]:
    """Run folder -> rows of these tables that share it, on top of the same experiment.

    Tables that this experiment cannot be the base of share nothing. A calibration changes no run.
    """
    shared: dict[Path, list[str]] = {}
    for name in tables:
        try:
            rows = plan(read_table(name), replace(request, calibration=None))
        except UserError:
            continue
        for row in rows:
            for run in row.runs:
                shared.setdefault(run.folder, []).append(f"{name} {row.row.name}")
    return shared
