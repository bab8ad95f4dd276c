"""`zsseg export`: a trained student as one ONNX file, or as a folder that zsseg loads."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zsseg.pipeline import console
from zsseg.pipeline.cli.options import Quiet, Settings
from zsseg.pipeline.run_options import evaluate_config, read_names, text_encoder
from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.confidence_measure import Measure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zsseg.stages.export.export_run import Exported

FixedClasses = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES|@FILE",
        help="Fix these class names in the file. \\[default: any names, given as embeddings]",
    ),
]
FixedBackground = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES|@FILE", help="With --classes: names of what else is there; it becomes void."
    ),
]
Confidence = Annotated[
    Measure,
    typer.Option(help="What the output confidence is: p1 - p2, p1, or the best cosine."),
]

TextTower = Annotated[
    bool,
    typer.Option(
        "--text-tower", help="Also the teacher's text tower and tokenizer, for names elsewhere."
    ),
]


def export(
    run: Annotated[Path, typer.Option(help="Folder of a run.")],
    out: Annotated[
        Path, typer.Option(help="File to write, such as model.onnx, or a folder of safetensors.")
    ],
    form: Annotated[
        Literal["onnx", "torch-export", "safetensors"],
        typer.Option(
            "--format",
            help="One ONNX file, a program for torch alone (.pt2), or a folder that `zsseg.load` "
            "and --run take.",
        ),
    ] = "onnx",
    classes: FixedClasses = None,
    background: FixedBackground = None,
    teacher: Annotated[
        str | None, typer.Option(help="Where the run's CLIP is now, for new class names.")
    ] = None,
    scores: Annotated[bool, typer.Option("--scores", help="Also give scores, on a grid.")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Compute in 16-bit floats.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Convolutions in 8-bit integers.")] = False,
    confidence: Confidence = "margin",
    images: Annotated[
        Path | None, typer.Option(help="Images to try it on. \\[default: the run's data set]")
    ] = None,
    text_tower: TextTower = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    settings: Settings = None,
    quiet: Quiet = False,
) -> None:
    """Write a student as one ONNX file for any class names, and a script that runs it (run.py)."""
    console.configure_logging(quiet=quiet)
    given, others = read_names(classes, "--classes"), read_names(background, "--background")
    if others and not given:
        raise UserError("--background belongs to fixed names: give --classes too")
    if form != "onnx":
        given_too = {"--classes": classes, "--fp16": fp16, "--int8": int8, "--scores": scores}
        _check_for_onnx_only([option for option, value in given_too.items() if value])
        write = _save_folder if form == "safetensors" else _export_program
        write(run, out, images, settings or [], force=force)
        return
    if fp16 and int8:
        raise UserError("--fp16 and --int8 exclude each other. Give one of them")
    config = evaluate_config(run, None, settings or [])
    # Here torch is loaded: mistakes in the options are told before.
    from zsseg.stages.evaluate.asked_names import ask_names, default_background
    from zsseg.stages.evaluate.trained_run import load_run
    from zsseg.stages.export.export_run import ExportOptions, export_run

    student, fixed = load_run(run, device="cpu", evaluate=config), None
    if given:
        encode = text_encoder(student, teacher)
        others = others or [*default_background(student, given)]
        fixed = ask_names(student, given, others, encode=encode, teacher=teacher)
    precision: Literal["fp32", "fp16", "int8"] = "fp16" if fp16 else "int8" if int8 else "fp32"
    options = ExportOptions(precision, scores, confidence, images, force)
    _say(export_run(student, out, fixed=fixed, options=options))
    if text_tower:
        _export_tower(teacher or student.record.teacher, out.parent, force=force)


def _check_for_onnx_only(given: "Sequence[str]") -> None:
    if given:
        raise UserError(
            f"{', '.join(given)}: for ONNX files only. Leave it out, or use --format onnx"
        )


def _save_folder(
    run: Path, out: Path, image: Path | None, settings: "Sequence[str]", *, force: bool
) -> None:
    config = evaluate_config(run, None, settings)
    if image is not None and not image.is_file():
        raise UserError(f"--images {image}: give one image file, for the picture of the model card")
    from zsseg.stages.evaluate.trained_run import load_run
    from zsseg.stages.share.save_pretrained import save_pretrained

    student = load_run(run, device="cpu", evaluate=config)
    for path in save_pretrained(student, out, image=image, force=force):
        console.out.print(f"{path}: {console.size_text(path.stat().st_size)}", soft_wrap=True)
    console.out.print(
        f"next: zsseg predict --run {out} IMAGES --out predictions  or  zsseg push {out} ORG/NAME",
        soft_wrap=True,
    )


def _export_program(
    run: Path, out: Path, images: Path | None, settings: "Sequence[str]", *, force: bool
) -> None:
    config = evaluate_config(run, None, settings)
    from zsseg.stages.evaluate.trained_run import load_run
    from zsseg.stages.export.torch_program import export_program

    student = load_run(run, device="cpu", evaluate=config)
    done = export_program(student, out, images=images, force=force)
    program, own = (1000 * each for each in done.seconds)
    console.out.print(f"{done.path}: {console.size_text(done.size)}", soft_wrap=True)
    console.out.print(
        f"tried on {done.images}: {done.labels:.3%} of the labels are the run's, scores within "
        f"{done.score_difference:.1e}; {program:.0f} ms an image, the run's network {own:.0f} ms",
        soft_wrap=True,
    )


def _say(done: "Exported") -> None:
    found, apart = done.agreement, done.agreement.score_difference
    scored = "" if apart is None else f", scores within {apart:.1e}"
    lines = (
        f"{done.path}: {console.size_text(done.size)}; run it with {done.script}",
        f"tried on {done.images}: {found.labels:.3%} of the labels are PyTorch's{scored}; "
        f"{1000 * found.seconds:.0f} ms an image, PyTorch {1000 * found.torch_seconds:.0f} ms",
    )
    for line in lines:
        console.out.print(line, soft_wrap=True)


def _export_tower(teacher: str, folder: Path, *, force: bool) -> None:
    from zsseg.stages.export.text_tower import export_text_tower

    for path in export_text_tower(teacher, folder, force=force):
        console.out.print(f"{path}: {console.size_text(path.stat().st_size)}", soft_wrap=True)
