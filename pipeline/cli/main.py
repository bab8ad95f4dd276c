"""The `zsseg` command.

Each command parses, calls and prints. Heavy imports stay inside the command that needs them, so
`zsseg --help` loads no torch.
"""

import platform
import sys
import traceback
from importlib.metadata import version as installed
from typing import Annotated

import typer
from pydantic import ValidationError
from typer._click.exceptions import ClickException, NoArgsIsHelpError

from zsseg.pipeline import console
from zsseg.pipeline.cli import cache, config, dataset, student, teacher
from zsseg.pipeline.cli.ablate import ablate
from zsseg.pipeline.cli.app import app as show_app
from zsseg.pipeline.cli.compare import compare
from zsseg.pipeline.cli.demo import demo
from zsseg.pipeline.cli.doctor import doctor
from zsseg.pipeline.cli.evaluate import evaluate
from zsseg.pipeline.cli.examples import add_examples
from zsseg.pipeline.cli.export import export
from zsseg.pipeline.cli.init import init
from zsseg.pipeline.cli.names import names
from zsseg.pipeline.cli.options import Exit
from zsseg.pipeline.cli.parameter_extras import add_panels_and_completion
from zsseg.pipeline.cli.precompute import precompute
from zsseg.pipeline.cli.predict import predict
from zsseg.pipeline.cli.preview import preview
from zsseg.pipeline.cli.push import push
from zsseg.pipeline.cli.report import report
from zsseg.pipeline.cli.run import run
from zsseg.pipeline.cli.train import train
from zsseg.pipeline.cli.tune import tune
from zsseg.stages.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Zero-shot semantic segmentation: run CLIP once into a cache (precompute), then train "
    "any student against it (train). CLIP is not needed afterwards.",
)


def _version(asked: bool) -> None:
    """Print the versions that a report of a fault needs; torch is not loaded for that."""
    if not asked:
        return
    with_what = f"Python {platform.python_version()}, torch {installed('torch')}"
    console.out.print(f"zsseg {installed('zsseg')} ({with_what})", soft_wrap=True)
    raise typer.Exit


@app.callback()
def _before_all(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and stop."
        ),
    ] = False,
) -> None:
    del version  # its callback has done it


for command in (
    doctor,
    demo,
    init,
    preview,
    run,
    precompute,
    train,
    evaluate,
    report,
    predict,
    show_app,
    export,
    names,
    push,
    compare,
    ablate,
    tune,
):
    app.command()(command)
app.add_typer(dataset.app, name="dataset")
app.add_typer(cache.app, name="cache")
app.add_typer(config.app, name="config")
app.add_typer(student.app, name="student")
app.add_typer(teacher.app, name="teacher")
add_examples(app)
add_panels_and_completion(app)


_TO_GO_ON = {
    **dict.fromkeys(("run", "precompute", "ablate", "tune", "demo"), "run the same command again"),
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
            # Not `standalone`: typer's own panels would print names raw, and cut paths in pieces.
            code = app(standalone_mode=False)
        finally:
            console.flush()
    except NoArgsIsHelpError as error:  # printed already, if it is not the text of this error
        if error.message:
            error.show()
        sys.exit(error.exit_code)
    except ClickException as error:
        _print_error(_usage_error(error))
        sys.exit(error.exit_code)
    except UserError as error:
        if debug:
            traceback.print_exc()
        _print_error(str(error).split("\n"))
        sys.exit(error.exit_code)
    except BrokenPipeError:  # such as `zsseg cache ls | head -1`: nobody reads on
        sys.exit(1)
    except OSError as error:
        if debug:
            traceback.print_exc()
        where = f" ({error.filename})" if error.filename else ""
        text = f"{error.strerror or error}{where}. When this is mended, {_to_go_on()}"
        _print_error([text])
        sys.exit(Exit.RESOURCES)
    except SystemExit as stop:
        _say_if_interrupted(stop.code)
        raise
    _say_if_interrupted(code)
    sys.exit(code or 0)


def _say_if_interrupted(code: object) -> None:
    # typer turns Ctrl-C into an exit code without a message.
    if code in (Exit.INTERRUPTED, Exit.TERMINATED):
        console.err.print(f"interrupted; to go on, {_to_go_on()}", soft_wrap=True)


def _print_error(lines: list[str]) -> None:
    console.err.print(f"error: {lines[0]}", *lines[1:], sep="\n", style="bold red", soft_wrap=True)


def _usage_error(error: ClickException) -> list[str]:
    """A wrong call as lines: what typer says, or what our own parser of the option says."""
    given = ""
    if isinstance(error.__cause__, ValidationError):
        mistake = error.__cause__.errors()[0]
        if isinstance(own := mistake.get("ctx", {}).get("error"), UserError):
            return str(own).split("\n")
        given = f" (got {mistake['input']!r})"
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "zsseg"
    text = f"{error.format_message().rstrip('.')}{given}"
    return [f"{text}{'' if text.endswith('?') else '.'} `{command} --help` lists what it takes"]


def _to_go_on() -> str:
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    if command in _TO_GO_ON:
        return f"{_TO_GO_ON[command]}: what was finished is kept"
    return "run the command again"
