"""`zsseg demo`: the whole pipeline on a small drawn world, with nothing to download."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from zsseg.pipeline import console
from zsseg.pipeline.cli.options import Quiet, Settings


def demo(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder of the demo; run again to go on.")] = Path(
        "demo"
    ),
    method: Annotated[
        str, typer.Option(help="Experiment to compare with the baseline: demo_NAME.")
    ] = "best",
    seed: Annotated[int, typer.Option(min=0, max=999, help="Of scenes and trainings.")] = 0,
    scenes: Annotated[int, typer.Option(min=1, max=9999, help="Scenes to train on.")] = 200,
    settings: Settings = None,
    quiet: Quiet = False,
) -> None:
    """Draw scenes, precompute, train a baseline and ours, compare: some minutes on a CPU."""
    console.configure_logging(quiet=quiet)
    from zsseg.pipeline.demo.demo_run import run_demo

    def run(words: Sequence[str]) -> None:
        main = context.find_root().command.main
        # Where there was Ctrl-C or typer.Exit, their exit code is returned, not raised.
        if code := main(list(words), prog_name="zsseg", standalone_mode=False):
            raise typer.Exit(code)

    run_demo(
        out, run, method=method, seed=seed, scenes=scenes, settings=settings or [], quiet=quiet
    )
