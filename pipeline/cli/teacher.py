"""`zsseg teacher`: the group of its subcommands."""

import typer

from zsseg.pipeline.cli.teacher_check import check

app = typer.Typer(no_args_is_help=True, help="Teachers: try one before it is used.")


@app.callback()
def teacher() -> None:
    """Teachers: try one before it is used."""


app.command()(check)
