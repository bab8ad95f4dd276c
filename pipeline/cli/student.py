"""`zsseg student`: what students cost: parameters, multiply-adds, speed."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from zsseg.pipeline import console

if TYPE_CHECKING:
    from zsseg.stages.train.students.student_info import StudentInfo

app = typer.Typer(no_args_is_help=True, help="Students: what each of them costs.")


@app.command()
def info(
    students: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ARCHITECTURE/ENCODER",
            help="Which students; without: SegFormer, SETR and SegNeXt, as in the papers.",
            show_default=False,
        ),
    ] = None,
    size: Annotated[int, typer.Option(min=1, help="Side of the square image in pixels.")] = 512,
    width: Annotated[int, typer.Option(min=1, help="D, CLIP's width: channels out.")] = 512,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="Where the speed is measured.")
    ] = "auto",
    speed: Annotated[
        bool, typer.Option("--speed/--no-speed", help="Measure images per second.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Count parameters and multiply-adds of students, and measure their speed.

    Random weights, nothing is downloaded. One multiply-add counts as one, as in the papers; the
    projection to D channels is included, class scores are not. FPS: one image at a time in
    float32, median of up to five runs after one to warm up.
    """
    from zsseg.stages.device import choose_device
    from zsseg.stages.train.students.student_info import PAPERS, named_student, student_info

    configs = [named_student(name) for name in students or PAPERS]
    where = choose_device(device) if speed else None
    measured = []
    with console.progress("students") as advance:
        for config in configs:
            measured.append(student_info(config, width=width, size=size, device=where))
            advance(len(measured), len(configs), "")
    if as_json:
        rows = [asdict(each) | {"device": where and str(where)} for each in measured]
        sys.stdout.write(json.dumps(rows) + "\n")
        return
    console.out.print(_table(measured))
    on = f"; FPS: one image at a time, float32, {where}" if where else ""
    console.out.print(
        f"{size} x {size} pixels, projection to {width} channels included; G: 10^9 multiply-adds, "
        f"one multiplication and one addition counted as one{on}",
        soft_wrap=True,
    )


def _table(measured: "list[StudentInfo]") -> Table:
    """One line per student."""
    columns = ["architecture", "encoder", "parameters M", "multiply-adds G", "stride px"]
    speed = any(each.images_per_second for each in measured)
    table = Table(*columns, *(["FPS"] if speed else []), box=None)
    for each in measured:
        table.add_row(
            each.architecture,
            each.encoder,
            f"{each.parameters / 1e6:.1f}",
            f"{each.multiply_adds / 1e9:.1f}",
            str(each.stride),
            *([f"{each.images_per_second:.2f}"] if each.images_per_second else []),
        )
    return table
