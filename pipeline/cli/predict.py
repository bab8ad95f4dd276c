"""`zsseg predict`: label maps and overlays of any images."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zsseg.pipeline import console
from zsseg.pipeline.cli.options import Checkpoint, Exit, Quiet, Settings
from zsseg.pipeline.run_options import (
    evaluate_config,
    fixed_settings,
    read_names,
    read_palette,
    text_encoder,
)
from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.confidence_measure import Measure
from zsseg.stages.printable import counted

if TYPE_CHECKING:
    from zsseg.stages.evaluate.prediction_results import Predictions
    from zsseg.stages.evaluate.predictor import Predictor

_NAMES = "NAMES|@FILE"

Classes = Annotated[
    str | None,
    typer.Option(
        metavar=_NAMES,
        help="Any class names: 'car|van, tree, \"bed, double\"' (a bar between several names "
        "of a class), or @names.txt with one class in a line. \\[default: the run's]",
    ),
]
Add = Annotated[
    str | None, typer.Option(metavar=_NAMES, help="More names, beside the run's or --classes.")
]
Background = Annotated[
    str | None,
    typer.Option(
        metavar=_NAMES,
        help="Names of what else is there; it becomes void. "
        "\\[default: the run's evaluate.background]",
    ),
]
NamesFile = Annotated[
    Path | None, typer.Option("--names", help="Names and embeddings of `zsseg names`.")
]
TeacherNow = Annotated[
    str | None, typer.Option(help="Where the run's CLIP is now, for new class names.")
]
Unsure = Annotated[
    float, typer.Option(min=0, max=1, help="Least confidence; pixels below it become void.")
]
Confidence = Annotated[
    Measure, typer.Option(help="What confidence is: p1 - p2, p1, or the best cosine.")
]
ConfidenceMap = Annotated[
    bool, typer.Option("--confidence-map", help="Also write each image's confidence, grey.")
]
Palette = Annotated[
    str,
    typer.Option(
        metavar="dataset|names|FILE",
        help="Colours: the data set's own where it has them, or all by their names, or a YAML or "
        "JSON file with '#rrggbb' by name.",
    ),
]
Alpha = Annotated[
    float, typer.Option(min=0, max=1, help="Share of the class colour in an overlay.")
]
Legend = Annotated[bool, typer.Option("--legend/--no-legend", help="Names below each overlay?")]


def predict(
    images: Annotated[list[Path], typer.Argument(help="Images, folders of images, videos.")],
    run: Annotated[Path, typer.Option(help="Folder of a run.")],
    out: Annotated[Path, typer.Option(help="Folder for label maps and overlays.")],
    classes: Classes = None,
    add: Add = None,
    background: Background = None,
    names_file: NamesFile = None,
    teacher: TeacherNow = None,
    unsure: Unsure = 0.0,
    confidence: Confidence = "margin",
    confidence_map: ConfidenceMap = False,
    palette: Palette = "dataset",
    alpha: Alpha = 0.5,
    legend: Legend = False,
    checkpoint: Checkpoint = None,
    settings: Settings = None,
    quiet: Quiet = False,
) -> None:
    """Write a label map (palette PNG) and an overlay for each image."""
    console.configure_logging(quiet=quiet)
    given, added = read_names(classes, "--classes"), read_names(add, "--add")
    others = read_names(background, "--background")
    if names_file and (given or added or others):
        raise UserError("--names has names of its own: leave --classes, --add, --background out")
    colours = read_palette(palette)
    config = evaluate_config(run, None, settings or [])
    # Here torch is loaded: mistakes in the options are told before.
    from zsseg.pipeline.sheet.contact_sheet import check_page
    from zsseg.stages.evaluate.asked_names import ask_names, default_background
    from zsseg.stages.evaluate.predict import predict_files
    from zsseg.stages.evaluate.prediction import Look
    from zsseg.stages.evaluate.predictor import Predictor
    from zsseg.stages.evaluate.trained_run import load_run

    opened = load_run(run, evaluate=config, checkpoint=checkpoint)
    student = replace(opened, fixed=fixed_settings(settings or []))
    if names_file:
        from zsseg.stages.export.names_file import read_names_file

        asked = read_names_file(names_file, student, colours=colours)
    else:
        own, encode = [*(given or student.spec.classes), *added], text_encoder(student, teacher)
        others = others or [*default_background(student, own)]
        asked = ask_names(student, own, others, encode=encode, teacher=teacher, colours=colours)
    predictor = Predictor(student, asked, unsure, confidence)
    check_page(out)
    with console.progress("predict", quiet=quiet) as advance:
        result = predict_files(
            predictor,
            images,
            out,
            look=Look(alpha, legend, confidence_map),
            progress=lambda done, total: advance(done, total, ""),
        )
    _end(out, _write_page(out, predictor, result), result)


def _end(out: Path, page: Path, result: "Predictions") -> None:
    """Say what was written; exit code 3 where an image has no label map."""
    written = counted(len(result.labels), "label map")
    console.out.print(f"{written} and overlays in {out}. Look at {page}", soft_wrap=True)
    if result.failures:
        failed = counted(len(result.failures), "image has", "images have")
        console.err.print(f"{failed} no label map (named above)")
        raise typer.Exit(Exit.SKIPPED)


def _write_page(out: Path, predictor: "Predictor", found: "Predictions") -> Path:
    from zsseg.pipeline.sheet.contact_sheet import SheetText, write_sheet

    asked, run = predictor.asked, predictor.run
    number = counted(len(asked.classes), "class", "classes")
    about = f"Labelled by {run.path} (step {run.step}) as {number}"
    if asked.background:
        words = " or ".join(f"'{word}'" for word in asked.background)
        about += f"; void where {words} is the best name"
    if predictor.unsure:
        about += f"; void below a confidence of {predictor.unsure:g}"
    frames = " and frames" if any(each.frame is not None for each in found.results) else ""
    title = f"{counted(len(found.results), 'image')}{frames}, named pixel by pixel"
    about = f"{about}. Confidence: the mean {predictor.measure}."
    return write_sheet(out, found, asked.classes, asked.palette, text=SheetText(title, about))
