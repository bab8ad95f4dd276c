"""`zsseg names`: text embeddings of class names in a file, for a machine without CLIP."""

from pathlib import Path
from typing import Annotated

import typer

from zsseg.pipeline import console
from zsseg.pipeline.cli.options import Quiet
from zsseg.pipeline.run_options import read_names, text_encoder
from zsseg.stages.errors import UserError
from zsseg.stages.printable import counted


def names(
    classes: Annotated[
        str,
        typer.Argument(metavar="NAMES|@FILE", help="Class names: 'car|van, tree', or @names.txt."),
    ],
    run: Annotated[Path, typer.Option(help="Folder of a run.")],
    out: Annotated[Path, typer.Option(help="File to write, such as names.npz.")],
    background: Annotated[
        str | None,
        typer.Option(metavar="NAMES|@FILE", help="Names of what else is there; it becomes void."),
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="Where the run's CLIP is now.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    quiet: Quiet = False,
) -> None:
    """Write the embeddings of class names, for `zsseg predict --names` and exported students."""
    console.configure_logging(quiet=quiet)
    given, others = read_names(classes, "NAMES"), read_names(background, "--background")
    if out.suffix != ".npz" or out.is_dir():
        raise UserError(f"{out}: give --out the name of a new file that ends in .npz")
    if out.exists() and not force:
        raise UserError(f"{out}: is there already. Give another --out, or add --force")
    from zsseg.stages.train.run.run_folder import read_record

    read_record(run)  # no run: told before torch is loaded
    from zsseg.stages.cache.disk.disk_errors import disk_errors
    from zsseg.stages.evaluate.asked_names import ask_names
    from zsseg.stages.evaluate.trained_run import load_run
    from zsseg.stages.export.names_file import write_names

    student = load_run(run, device="cpu")
    encode = text_encoder(student, teacher)
    asked = ask_names(student, given, others, encode=encode, teacher=teacher)
    with disk_errors(out.parent, out.name):
        write_names(out, student, asked)
    console.out.print(f"{counted(len(asked.names), 'name')} in {out}", soft_wrap=True)
    console.say_next("zsseg", "predict", "--run", run, "--names", out, "IMAGES", quiet=quiet)
