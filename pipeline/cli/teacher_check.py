"""`zsseg teacher check`: tries a teacher on a few images."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from zsseg.pipeline import console
from zsseg.pipeline.cli.options import Exit
from zsseg.pipeline.run_options import read_names
from zsseg.stages.errors import UserError
from zsseg.stages.printable import counted

if TYPE_CHECKING:
    from zsseg.stages.precompute.check.teacher_contract import Finding, ShownImage


def check(
    name: Annotated[str, typer.Argument(metavar="TEACHER", help="As in --teacher.")],
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of images; without: drawn ones. Not for tokens:FOLDER."),
    ] = None,
    number: Annotated[int, typer.Option(min=2, max=256, help="Images at most.")] = 4,
    names: Annotated[
        str | None, typer.Option(help="Class names, separated by commas, or @FILE.")
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="Where the teacher runs.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Try a teacher on a few images: shapes, consistency, text and image in one space.

    Exit code 3 where it fails. Drawn images have labels: there names must fit what they name. A
    teacher of photographs may not know drawings; then look at what it says of your --images.
    """
    console.configure_logging(quiet=as_json)
    from zsseg.stages.precompute.check.teacher_contract import check_teacher
    from zsseg.stages.precompute.teacher.token_files import PREFIX

    if name.startswith(PREFIX):
        if images is not None:
            raise UserError(f"{name}: has its own images. Leave --images out")
        shown, known = _of_maps(name, number)
    else:
        shown, known = _drawn(number) if images is None else _of_folder(images, number)
    asked = read_names(names, "--names")
    if asked:
        shown = [_without_label(each) for each in shown]
    found = check_teacher(name, shown, asked or known, device=device)
    if as_json:
        sys.stdout.write(json.dumps([asdict(each) for each in found]) + "\n")
    else:
        console.print_whole(_table(found))
        failed = [each.what for each in found if each.passed is False]
        result = f"fails: {', '.join(failed)}" if failed else "keeps what stage one relies on"
        console.out.print(f"{name}: {result}, on {counted(len(shown), 'image')}", soft_wrap=True)
    if any(each.passed is False for each in found):
        raise typer.Exit(Exit.SKIPPED)


def _drawn(number: int) -> "tuple[list[ShownImage], list[str]]":
    from zsseg.stages.demo.scenes import CLASSES, draw_scene
    from zsseg.stages.precompute.check.teacher_contract import ShownImage

    scenes = [(f"scene_{index}", draw_scene(0, index)) for index in range(number)]
    return [ShownImage(id_, each.image_HW3, each.label_HW) for id_, each in scenes], list(CLASSES)


def _of_folder(folder: Path, number: int) -> "tuple[list[ShownImage], list[str]]":
    from zsseg.stages.data.folders import IMAGE_EXTENSIONS, is_leftover
    from zsseg.stages.data.images import read_image
    from zsseg.stages.demo.scenes import CLASSES
    from zsseg.stages.precompute.check.teacher_contract import ShownImage

    files = sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in IMAGE_EXTENSIONS and not is_leftover(file.name)
    )
    if not files:
        raise UserError(f"--images {folder}: holds no image. Give a folder that does")
    return [ShownImage(file.stem, read_image(file)) for file in files[:number]], list(CLASSES)


def _of_maps(name: str, number: int) -> "tuple[list[ShownImage], list[str]]":
    """By the ids that have a map; the pixels of images are not looked at."""
    import numpy as np

    from zsseg.stages.precompute.check.teacher_contract import ShownImage
    from zsseg.stages.precompute.teacher.token_files import TokenFiles

    maps = TokenFiles(name)
    grey_HW3 = np.full((512, 512, 3), 127, np.uint8)
    shown = [ShownImage(each, grey_HW3) for each in maps.images()[:number]]
    if not shown:
        raise UserError(f"{name}: there is no .npz file in {maps.folder / 'images'}. Write them")
    return shown, list(maps.embeddings)


def _without_label(shown: "ShownImage") -> "ShownImage":
    from dataclasses import replace

    return replace(shown, label_HW=None)


def _table(found: "list[Finding]") -> Table:
    table = Table("what", "", "found", box=None)
    words = {True: "pass", False: "FAIL", None: "-"}
    for each in found:
        table.add_row(each.what, words[each.passed], each.said)
    return table
