"""What is tried: experiments, each with every combination of the values of `--try`."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from zsseg.pipeline.ablate.table_plan import PlannedRun, run_folder
from zsseg.pipeline.settings import apply_settings, build, read_experiment
from zsseg.stages.errors import UserError
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.yaml_files import parse_yaml


@dataclass(frozen=True, kw_only=True)
class TuneRequest:
    """What is asked: options of `zsseg tune`."""

    experiments: tuple[str, ...]
    """Names or files."""
    settings: tuple[str, ...] = ()
    """`section.field=value` for every candidate, as `--set` gives them."""
    tries: tuple[str, ...] = ()
    """`section.field=value,value`."""
    steps: int | None = None
    """Of every training; None: the experiment's."""
    seeds: int
    out: Path


@dataclass(frozen=True)
class Candidate:
    """An experiment with one of the values of every `--try`."""

    experiment: str
    tried: tuple[str, ...]
    """`section.field=value`."""

    @property
    def name(self) -> str:
        """What the table calls it."""
        return ", ".join([Path(self.experiment).stem, *self.tried])

    @property
    def words(self) -> str:
        """Options to paste after `zsseg train`."""
        return shlex.join(["--config", self.experiment, *_set_words(self.tried)])


def _set_words(settings: Sequence[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def tried_values(text: str) -> list[str]:
    """`evaluate.calibration=0,0.01` as `evaluate.calibration=0` and `evaluate.calibration=0.01`.

    The values are read as a YAML list, so a value may be a list: `augmentation.crop=[64, 64],[96,
    96]`. Raises UserError.
    """
    field, equals, values = text.partition("=")
    field = field.strip()
    if not equals or not field:
        raise UserError(f"--try {text}: write it as section.field=value,value")
    found = parse_yaml(f"[{values}]", where=f"--try {text}")
    settings = list(dict.fromkeys(f"{field}={_value_text(value)}" for value in found))
    if len(settings) < 2:
        raise UserError(
            f"--try {text}: one value is no choice. Give several, with commas between; what is the "
            "same for all is given with --set"
        )
    return settings


def _value_text(value: object) -> str:
    """The value as `--set` reads it back."""
    if isinstance(value, str) and parse_yaml(value, where="--try") == value:
        return value
    return json.dumps(value, default=str)


def candidates(request: TuneRequest) -> list[Candidate]:
    """Every experiment with every combination of values, the first values first.

    Raises UserError where there is but one, and for settings that are not valid, are tried twice,
    or are what other options of the command say.
    """
    if not request.experiments:
        raise UserError("--config is missing: give the experiment to tune, by name or as a file")
    values = [tried_values(text) for text in request.tries]
    fields = [each[0].partition("=")[0] for each in values]
    given = [setting.partition("=")[0].strip() for setting in request.settings]
    if twice := {field for field in fields if fields.count(field) > 1 or field in given}:
        raise UserError(f"--try {min(twice)}: given twice. Give all its values in one --try")
    if "train.seed" in fields:
        raise UserError(
            "--try train.seed: a seed is not chosen. Give how many to train with --seeds"
        )
    if request.steps is not None and "train.steps" in [*fields, *given]:
        raise UserError("train.steps: given twice, also with --steps. Leave --steps out")
    found = [
        Candidate(experiment, tried)
        for experiment in dict.fromkeys(request.experiments)
        for tried in product(*values)
    ]
    if len(found) < 2:
        raise UserError(
            "nothing to choose from: give values with --try, such as --try "
            "evaluate.calibration=0,0.01,0.02, or several experiments with --config"
        )
    for candidate in found:
        config_of(candidate, request, seed=0)
    return found


def config_of(candidate: Candidate, request: TuneRequest, *, seed: int) -> RunConfig:
    """The settings of a candidate's training; with `--steps`, its warm-up is shorter in proportion.

    Raises UserError.
    """
    where = f"{candidate.name} on top of {candidate.experiment}"
    values = apply_settings(full_settings(candidate, request), [f"train.seed={seed}"])
    config = build(RunConfig, values, where=where).unvalidated
    if request.steps is None:
        return config
    warmup = round(config.train.warmup_steps * request.steps / config.train.steps)
    brief = [f"train.steps={request.steps}"]
    if config.train.steps > request.steps:
        brief.append(f"train.warmup_steps={warmup}")
    return build(RunConfig, apply_settings(values, brief), where=where).unvalidated


def full_settings(candidate: Candidate, request: TuneRequest) -> dict[str, Any]:
    """What a candidate sets, for a training that is not brief."""
    experiment = read_experiment(candidate.experiment)
    return apply_settings(experiment, [*request.settings, *candidate.tried])


def run_of(candidate: Candidate, request: TuneRequest, fold: str, *, seed: int) -> PlannedRun:
    """The training of a candidate in a fold; candidates that train alike have the same folder."""
    config = config_of(candidate, request, seed=seed)
    stem = request.out / fold / Path(candidate.experiment).stem
    return PlannedRun(run_folder(stem, config), config)
