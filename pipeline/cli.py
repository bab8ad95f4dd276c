"""The `zsseg` command.

Each command parses, calls and prints. Heavy imports stay inside the command that needs them, so
`zsseg --help` loads no torch.
"""

import sys
import traceback

import typer

from pipeline import cli_cache, cli_config, cli_dataset, cli_student, console
from pipeline.cli_ablate import ablate
from pipeline.cli_compare import compare
from pipeline.cli_demo import demo
from pipeline.cli_stages import precompute, train
from pipeline.cli_use import evaluate, predict
from pipeline.options import Exit
from stages.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Zero-shot semantic segmentation: run CLIP once into a cache (precompute), then train "
    "any student against it (train). CLIP is not needed afterwards.",
)
for command in (demo, precompute, train, evaluate, predict, compare, ablate):
    app.command()(command)
app.add_typer(cli_dataset.app, name="dataset")
app.add_typer(cli_cache.app, name="cache")
app.add_typer(cli_config.app, name="config")
app.add_typer(cli_student.app, name="student")


def main() -> None:
    """Run the command; a user's mistake is one message and its exit code, never a traceback."""
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
        # typer turns Ctrl-C into the first of these exit codes and says nothing.
        if stop.code in (Exit.INTERRUPTED, Exit.TERMINATED):
            console.err.print(
                "interrupted; what was finished is kept. To go on, run `zsseg precompute` or "
                "`zsseg ablate` again as it was, or `zsseg train` with --resume",
                soft_wrap=True,
            )
        raise
