"""`zsseg predict`: label maps and overlays of any images."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from zsseg.pipeline import console
from zsseg.pipeline.cli.options import Exit, Quiet, Settings
from zsseg.pipeline.cli.run_options import evaluate_config, fixed_settings, read_names, text_encoder
from zsseg.stages.errors import UserError
from zsseg.stages.printable import counted


def predict(
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    run: Annotated[Path, typer.Option(help="Folder of a run.")],
    out: Annotated[Path, typer.Option(help="Folder for label maps and overlays.")],
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES|@FILE",
            help="Any class names: 'car|van, tree, \"bed, double\"' (a bar between several names "
            "of a class), or @names.txt with one class in a line. \\[default: the run's]",
        ),
    ] = None,
    background: Annotated[
        str | None,
        typer.Option(metavar="NAMES|@FILE", help="Names of what else is there; it becomes void."),
    ] = None,
    names_file: Annotated[
        Path | None, typer.Option("--names", help="Names and embeddings of `zsseg names`.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Where the run's CLIP is now, for new class names.")
    ] = None,
    settings: Settings = None,
    quiet: Quiet = False,
) -> None:
    """Write a label map (palette PNG) and an overlay for each image."""
    console.configure_logging(quiet=quiet)
    given, others = read_names(classes, "--classes"), read_names(background, "--background")
    if names_file and (given or others):
        raise UserError("--names has names of its own: leave --classes and --background out")
    config = evaluate_config(run, None, settings or [])
    # Here torch is loaded: mistakes in the options are told before.
    from zsseg.stages.evaluate.predict import predict_files
    from zsseg.stages.evaluate.trained_run import load_run
    from zsseg.stages.evaluate.vocabulary import class_text

    student = replace(load_run(run, evaluate=config), fixed=fixed_settings(settings or []))
    given = given or [*student.spec.classes]
    if names_file:
        from zsseg.stages.export.names_file import read_names_file

        given, others, text_CD = read_names_file(names_file, student)
    else:
        encode = text_encoder(student, teacher)
        text_CD = class_text(student, [*given, *others], encode=encode, teacher=teacher)
    with console.progress("predict", quiet=quiet) as advance:
        result = predict_files(
            student,
            images,
            out,
            text_CD=text_CD,
            classes=given,
            background=others,
            progress=lambda done, total: advance(done, total, ""),
        )
    console.out.print(f"{len(result.labels)} label maps and overlays in {out}", soft_wrap=True)
    if result.failures:
        failed = counted(len(result.failures), "image has", "images have")
        console.err.print(f"{failed} no label map (named above)")
        raise typer.Exit(Exit.SKIPPED)
