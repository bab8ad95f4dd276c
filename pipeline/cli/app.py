"""`zsseg app`: a page in the browser that asks students for any names."""

from typing import TYPE_CHECKING, Annotated

import typer

from zsseg.pipeline import console
from zsseg.pipeline.cli.options import Quiet
from zsseg.pipeline.cli.signals import ended_by_sigterm

if TYPE_CHECKING:
    from zsseg.pipeline.app.app_server import AppServer


def app(
    runs: Annotated[
        list[str],
        typer.Option("--run", help="Folder of a run; several (--run A --run B): chosen in a list."),
    ],
    teacher: Annotated[
        str | None,
        typer.Option(help="Where the runs' CLIP is now: for new names, and to see it beside them."),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of 127.0.0.1; 0: a free one.")
    ] = 7860,
    quiet: Quiet = False,
) -> None:
    """Show students in the browser: drop an image, type names, switch them on and off.

    zsseg app --run runs/first --run runs/second

    Served on this machine alone (127.0.0.1), nothing is sent anywhere. Ctrl-C ends it.
    """
    console.configure_logging(quiet=quiet)
    from zsseg.pipeline.app.app_server import AppServer

    # Before torch is loaded: a port that is taken is told at once.
    with AppServer(port) as server, ended_by_sigterm():
        try:
            _prepare(server, runs, teacher)
            console.out.print(f"{server.url} shows it; Ctrl-C here ends it", soft_wrap=True)
            console.flush()
            server.serve_forever()
        except KeyboardInterrupt:
            console.err.print("ended")
        finally:
            # An answer that is under way is finished: no thread is cut off inside torch.
            server.answering.acquire(timeout=30)


def _prepare(server: "AppServer", runs: list[str], teacher: str | None) -> None:
    """Load what answers, and make the page."""
    from zsseg.pipeline.app.answers import Students
    from zsseg.pipeline.app.app_page import app_page, asking
    from zsseg.pipeline.face.model import load

    models = {run: load(run, teacher=teacher) for run in dict.fromkeys(runs)}
    lone = None
    if teacher is not None:
        from zsseg.stages.precompute.preview import lone_teacher

        lone = lone_teacher(teacher)
    students = Students(models, lone)
    server.page, server.answer = app_page(students), asking(students)
