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


_TO_GO_ON = {
    **dict.fromkeys(("precompute", "ablate", "demo"), "run the same command again"),
    "train": "run the same command again with --resume",
}
"""How a command goes on that has been ended, of those that keep what they have finished."""


def main() -> None:
    """Run a command; a user's mistake gives one message and an exit code, never a traceback."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    console.open_streams()
    try:
        try:
            app()
        finally:
            console.flush()
    except UserError as error:
        if debug:
            traceback.print_exc()
        _print_error(str(error))
        sys.exit(error.exit_code)
    except BrokenPipeError:  # such as `zsseg cache ls | head -1`: nobody reads on
        sys.exit(1)
    except OSError as error:
        if debug:
            traceback.print_exc()
        where = f" ({error.filename})" if error.filename else ""
        _print_error(f"{error.strerror or error}{where}. When this is mended, {_to_go_on()}")
        sys.exit(Exit.RESOURCES)
    except SystemExit as stop:
        # typer turns Ctrl-C into exit code 130 without a message.
        if stop.code in (Exit.INTERRUPTED, Exit.TERMINATED):
            console.err.print(f"interrupted; to go on, {_to_go_on()}", soft_wrap=True)
        raise


def _print_error(text: str) -> None:
    """Print an error; names that the command line gives stay in their line."""
    for word in filter(lambda word: "\n" in word, sys.argv[1:]):
        text = text.replace(word, console.one_line(word))
    console.err.print(f"error: {text}", style="bold red", soft_wrap=True)


def _to_go_on() -> str:
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    if command in _TO_GO_ON:
        return f"{_TO_GO_ON[command]}: what was finished is kept"
    return "run the command again"
