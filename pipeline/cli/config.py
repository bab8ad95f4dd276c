"""`zsseg config`: lists the experiments, and prints all settings of one."""

import sys
from typing import Annotated

import typer
from rich.table import Table

from zsseg.pipeline import console
from zsseg.pipeline.cli.options import Settings
from zsseg.pipeline.settings import (
    apply_settings,
    build,
    experiment_text,
    header,
    read_experiment,
)
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.yaml_files import builtin_names, yaml_text

app = typer.Typer(no_args_is_help=True, help="Experiments: list them, show one to copy and edit.")


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
    name: Annotated[str, typer.Argument(help="Experiment by name, or a YAML file.")],
    settings: Settings = None,
    changed: Annotated[
        bool, typer.Option("--changed", help="Only the settings that are not the default.")
    ] = False,
) -> None:
    """Print an experiment as YAML with every setting: `zsseg config show sdd_rst > mine.yaml`.

    Experiments that come with zsseg state only what is not the default. `--config` takes both.
    """
    checked = build(RunConfig, apply_settings(read_experiment(name), settings or []), where=name)
    sys.stdout.write(header(experiment_text(name)))
    sys.stdout.write(yaml_text(checked.model_dump(mode="json", exclude_defaults=changed)))
