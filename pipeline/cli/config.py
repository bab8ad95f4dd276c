"""`zsseg config`: lists the experiments; shows, checks and compares settings."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import BaseModel
from rich.table import Table

from zsseg.pipeline import console
from zsseg.pipeline.cli.options import Settings
from zsseg.pipeline.setting_text import STAGES, explained_yaml, model_of, schema
from zsseg.pipeline.settings import (
    apply_settings,
    build,
    experiment_text,
    header,
    read_experiment,
)
from zsseg.stages.cache.format.recipe import differing_fields
from zsseg.stages.errors import UserError
from zsseg.stages.precompute.precompute_config import PrecomputeConfig
from zsseg.stages.printable import counted
from zsseg.stages.train.run.run_folder import is_run, read_record
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.yaml_files import builtin_names, yaml_text

STAGE_ONE = "precompute"
"""Stands for the defaults of stage one where an experiment is named."""

Source = Annotated[
    str,
    typer.Argument(
        help="Experiment by name, a YAML file of settings, a run, or `precompute`: the defaults of "
        "stage one."
    ),
]

app = typer.Typer(
    no_args_is_help=True,
    help="Settings: list the experiments, show one to copy and edit, check a file, compare two.",
)


@app.command()
def ls() -> None:
    """List the experiments that come with zsseg."""
    table = Table("name", "protocol", "what it is", box=None)
    for name in builtin_names("experiments"):
        protocol = build(RunConfig, read_experiment(name), where=name).protocol
        title = header(experiment_text(name)).split("\n", 1)[0].removeprefix("#").strip()
        table.add_row(name, protocol, title)
    console.print_whole(table)


@app.command()
def show(
    name: Source,
    settings: Settings = None,
    changed: Annotated[
        bool, typer.Option("--changed", help="Only the settings that are not the default.")
    ] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Values without their meanings.")] = False,
) -> None:
    """Print settings as YAML, each with its meaning, unit, source and default.

    `zsseg config show sdd_rst > mine.yaml` makes a file to edit, for `zsseg train --config`.
    Experiments that come with zsseg state only what is not the default; `--config` takes both.

    `zsseg config show precompute > stage_one.yaml` does the same for `zsseg precompute --config`.
    """
    checked, text = _read(name, settings or [])
    values = checked.model_dump(mode="json", exclude_defaults=changed)
    sys.stdout.write(text)
    if plain:
        sys.stdout.write(yaml_text(values))
        return
    sys.stdout.write("\n" if text else "")
    sys.stdout.write(explained_yaml(type(checked), values))


@app.command()
def validate(
    files: Annotated[
        list[Path], typer.Argument(help="YAML files for `zsseg train` or `precompute --config`.")
    ],
) -> None:
    """Check files of settings without using them; each mistake is a line that names the setting.

    Exit code 2 where one has a mistake: `zsseg config validate experiments/*.yaml`.
    """
    faults: list[str] = []
    for file in files:
        try:
            checked, _ = _read(str(file), [])
        except UserError as error:
            faults += error.args
            continue
        number = counted(_leaves(checked.model_dump(exclude_defaults=True)), "setting")
        text = f"{file}: fine, for `zsseg {STAGES[type(checked)]}`; {number} not the default"
        console.out.print(text, soft_wrap=True)
    if faults:
        raise UserError(*faults)


@app.command("schema")
def print_schema(
    stage: Annotated[
        Literal["train", "precompute"], typer.Argument(help="Whose settings.")
    ] = "train",
) -> None:
    """Print a JSON schema of a settings file, by which editors complete and check names.

    `zsseg config schema > train.schema.json`; an editor with a YAML language server reads the line
    `# yaml-language-server: $schema=train.schema.json` at the top of a file.
    """
    model = next(model for model, name in STAGES.items() if name == stage)
    sys.stdout.write(json.dumps(schema(model), indent=2, ensure_ascii=False) + "\n")


@app.command()
def diff(one: Source, other: Source) -> None:
    """Print in which settings two experiments, files or runs differ, defaults included.

    `zsseg config diff best runs/first` says what a run did otherwise.
    """
    (left, _), (right, _) = _read(one, []), _read(other, [])
    if type(left) is not type(right):
        raise UserError(
            f"{one} has settings of `zsseg {STAGES[type(left)]}`, {other} of `zsseg "
            f"{STAGES[type(right)]}`: they have none in common. Give two of one kind"
        )
    values = [each.model_dump(mode="json") for each in (left, right)]
    lines = differing_fields(*values, sides=(Path(one).name, Path(other).name))
    for line in lines or [f"{one} and {other} have the same settings"]:
        console.out.print(line, soft_wrap=True)


def _read(source: str, settings: Sequence[str]) -> tuple[BaseModel, str]:
    """Checked settings, and the comment at the top of their file."""
    if source == STAGE_ONE:
        values = apply_settings({}, settings)
        return build(PrecomputeConfig, values, where="--set" if settings else source), ""
    if is_run(Path(source)):
        recorded = read_record(Path(source)).config.model_dump(mode="json")
        return build(RunConfig, apply_settings(recorded, settings), where=source), ""
    given = apply_settings(read_experiment(source), settings)
    if "classes" in given:
        raise UserError(
            f"{source}: describes a data set. Check it with `zsseg dataset verify {source}`"
        )
    return build(model_of(given), given, where=source), header(experiment_text(source))


def _leaves(values: dict[str, Any]) -> int:
    return sum(_leaves(each) if isinstance(each, dict) else 1 for each in values.values())
