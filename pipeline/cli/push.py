"""`zsseg push`: a student's folder to the Hugging Face Hub."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from zsseg.pipeline import console
from zsseg.pipeline.cli.options import Quiet
from zsseg.stages.errors import UserError


def push(
    run: Annotated[Path, typer.Argument(help="A run, or a folder of `zsseg export`.")],
    name: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Repository on the Hub.")],
    public: Annotated[bool, typer.Option("--public", help="Everybody may read it.")] = False,
    quiet: Quiet = False,
) -> None:
    """Send a student to the Hugging Face Hub, as weights, names, settings and a model card.

    Log in first (`hf auth login`). The card names the licences that apply; no image is sent unless
    the folder of `zsseg export --format safetensors --images IMAGE` has one.
    """
    console.configure_logging(quiet=quiet)
    from zsseg.stages.train.run.pretrained import is_pretrained
    from zsseg.stages.train.run.run_folder import is_run

    if not (is_run(run) or is_pretrained(run)):
        raise UserError(f"{run}: no run and no folder of a student. Give one of them")
    from zsseg.stages.evaluate.trained_run import load_run
    from zsseg.stages.share import hub
    from zsseg.stages.share.save_pretrained import save_pretrained

    if is_pretrained(run):
        console.out.print(hub.push(run, name, private=not public), soft_wrap=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "student"
        save_pretrained(load_run(run, device="cpu"), made)
        console.out.print(hub.push(made, name, private=not public), soft_wrap=True)
