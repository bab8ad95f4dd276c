"""`zsseg config`: which experiments there are, and what one consists of."""

import sys
from typing import Annotated

import typer
import yaml
from rich.table import Table

from zsseg.pipeline import console
from zsseg.pipeline.settings import (
    apply_settings,
    build,
    experiment_names,
    experiment_title,
    read_experiment,
)
from zsseg.stages.train.run_config import RunConfig

app = typer.Typer(no_args_is_help=True, help="Experiments: list them, show one to copy and edit.")


@app.command()
def ls() -> None:
    """List the experiments that come with zsseg."""
    table = Table("name", "protocol", "what it is", box=None)
    for name in experiment_names():
        table.add_row(name, str(read_experiment(name)["protocol"]), experiment_title(name))
    console.print_whole(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Experiment by name, or a YAML file.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change one setting.")
    ] = None,
) -> None:
    """Print a complete experiment as YAML, checked: `zsseg config show sdd_rst > mine.yaml`."""
    checked = build(RunConfig, apply_settings(read_experiment(name), settings or []), where=name)
    sys.stdout.write(yaml.safe_dump(checked.model_dump(mode="json"), sort_keys=False))
