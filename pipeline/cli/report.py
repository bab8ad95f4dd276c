"""`zsseg report`: a page with the scores, pictures and settings of trained runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zsseg.pipeline import console
from zsseg.pipeline.cli.options import MovedRoot, Quiet
from zsseg.stages.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zsseg.pipeline.report.shown_images import Gallery
    from zsseg.pipeline.report.shown_run import ShownRun


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs; several: side by side.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write. \\[default: RUN/report.html]")
    ] = None,
    root: MovedRoot = None,
    split: Annotated[
        str | None, typer.Option(help="Split of the pictures. \\[default: the scored one]")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write one HTML file: scores, IoU by class, confusions, loss, pictures, settings, commands."""
    console.configure_logging(quiet=quiet)
    from zsseg.pipeline.report.shown_run import shown_run

    shown = [shown_run(path) for path in dict.fromkeys(runs)]
    page = out or runs[0] / "report.html"
    if page.is_dir():
        raise UserError(f"{page}: is a folder. Give --out the name of a file")
    from zsseg.pipeline.report.report_page import write_run_report

    missing = [
        f"{run.name} has no scores: zsseg evaluate --run {run.path} --split val makes them."
        for run in shown
        if not run.results
    ]
    images, without = _images(shown, root, split, quiet=quiet)
    write_run_report(page, shown, images, [*missing, *without])
    console.out.print(f"written: {page}", soft_wrap=True)


def _images(
    runs: "Sequence[ShownRun]", root: Path | None, split: str | None, *, quiet: bool
) -> "tuple[dict[str, Gallery], list[str]]":
    """Images of each run, and a sentence for each that has none to show."""
    from zsseg.pipeline.report.shown_images import shown_images

    images, without = {}, []
    for run in runs:
        wanted = split or (run.results[0].split if run.results else "val")
        try:
            with console.progress("report", quiet=quiet) as advance:
                images[str(run.path)] = shown_images(
                    run.path,
                    root,
                    wanted,
                    progress=lambda done, total: advance(done, total, ""),
                )
        except UserError as error:
            without.append(f"{run.name} has no pictures: {str(error).splitlines()[0]}")
    return images, without
