"""The `zsseg` command.

Each command parses, calls and prints. Heavy imports stay inside the command that needs them, so
`zsseg --help` loads no torch.
"""

import sys
import traceback

import typer

from zsseg.pipeline import console
from zsseg.pipeline.cli import cache, config, dataset, student
from zsseg.pipeline.cli.ablate import ablate
from zsseg.pipeline.cli.compare import compare
from zsseg.pipeline.cli.demo import demo
from zsseg.pipeline.cli.evaluate import evaluate
from zsseg.pipeline.cli.options import Exit
from zsseg.pipeline.cli.precompute import precompute
from zsseg.pipeline.cli.predict import predict
from zsseg.pipeline.cli.train import train
from zsseg.stages.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Zero-shot semantic segmentation: run CLIP once into a cache (precompute), then train "
    "any student against it (train). CLIP is not needed afterwards.",
)
for command in (demo, precompute, train, evaluate, predict, compare, ablate):
    app.command()(command)
app.add_typer(dataset.app, name="dataset")
app.add_typer(cache.app, name="cache")
app.add_typer(config.app, name="config")
app.add_typer(student.app, name="student")


def main() -> None:
    """Run a command; a user's mistake gives one message and an exit code, never a traceback."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        app()
    except UserError as error:
        if debug:
            traceback.print_exc()
        console.err.print(f"error: {error}", style="bold red", markup=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if debug:
            traceback.print_exc()
        where = f" ({error.filename})" if error.filename else ""
        console.err.print(
            f"error: {error.strerror or error}{where}. What was finished is kept; when this is "
            "mended, run the command again (`zsseg train` with --resume)",
            style="bold red",
            markup=False,
            soft_wrap=True,
        )
        sys.exit(Exit.RESOURCES)
    except SystemExit as stop:
        # typer turns Ctrl-C into exit code 130 without a message.
        if stop.code in (Exit.INTERRUPTED, Exit.TERMINATED):
            console.err.print(
                "interrupted; what was finished is kept. To go on, run `zsseg precompute` or "
                "`zsseg ablate` again as it was, or `zsseg train` with --resume",
                soft_wrap=True,
            )
        raise
