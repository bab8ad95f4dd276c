"""`zsseg run`: from a data set to a scored student in one command."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from zsseg.pipeline import console
from zsseg.pipeline.cli.options import CacheFolder, DatasetRoot, Quiet
from zsseg.pipeline.cli.precompute import Teacher
from zsseg.pipeline.cli.train import Minutes
from zsseg.pipeline.face.make_store import DEFAULT_TEACHER
from zsseg.stages.errors import UserError


def run(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(help="Data set by name, or a YAML description.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; run again to go on.")] = Path(
        "runs/first"
    ),
    root: DatasetRoot = None,
    teacher: Teacher = DEFAULT_TEACHER,
    minutes: Minutes = None,
    cache: CacheFolder = Path("data_cache"),
    quiet: Quiet = False,
) -> None:
    """Precompute, plan, train and evaluate: all stages, each told as the command it is.

    Run it again to go on: a store that is there is used, and a run goes on where it ended. A data
    set needs no labels; it is scored where a split other than `train` has some.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "zsseg run: is one process, and several were launched (WORLD_SIZE). Start `zsseg "
            "train` and `zsseg evaluate` with torchrun instead; `zsseg run` prints their commands"
        )
    console.configure_logging(quiet=quiet)
    from zsseg.pipeline.whole_run.run_stages import run_stages
    from zsseg.pipeline.whole_run.stage_commands import WholeRunRequest
    from zsseg.stages.data.spec import chosen_root

    def call(words: Sequence[str]) -> int:
        main = context.find_root().command.main
        # Where there was Ctrl-C or typer.Exit, their exit code is returned, not raised.
        return int(main(list(words), prog_name="zsseg", standalone_mode=False) or 0)

    request = WholeRunRequest(dataset, chosen_root(dataset, root), teacher, cache, out, minutes)
    if code := run_stages(request, call, quiet=quiet):
        raise typer.Exit(code)
