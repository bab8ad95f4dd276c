"""`zsseg init`: a description, and what it needs, of a folder of images and labels."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zsseg.pipeline import console
from zsseg.pipeline.cli.options import Exit, Quiet
from zsseg.pipeline.run_options import read_names
from zsseg.stages.data.class_names import naming_faults
from zsseg.stages.errors import UserError

if TYPE_CHECKING:
    from zsseg.stages.importing.import_folder import ImportedFolder

PAGE = "check.html"

_SHOWN = 5  # files left out, named on the screen


Classes = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES|@FILE",
        help="Classes: 'road, car, traffic cone', or @names.txt with one in a line. Those that no "
        "label has are unseen. Where labels are numbers without names, the names of the values in "
        "ascending order.",
    ),
]
Labels = Annotated[
    Path | None, typer.Option(help="Folder or file of the labels. \\[default: looked for in DIR]")
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.yaml",
        help="The description. \\[default: named after DIR, in the current folder]",
    ),
]


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of images; never written to.")
    ],
    classes: Classes = None,
    labels: Labels = None,
    out: Out = None,
    seed: Annotated[int, typer.Option(help="Which images are held out of training.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was made as JSON.")] = False,
    quiet: Quiet = False,
) -> None:
    """Make a data set of a folder: find images and labels, write a description and a page to check.

    Labels may be grey, palette or colour masks, COCO (instances, stuff, panoptic), LabelMe, CVAT's
    XML, YOLO's polygons, Label Studio's exports; all, some or none of the images may have one.
    """
    quiet = quiet or as_json
    console.configure_logging(quiet=quiet)
    from zsseg.pipeline.init.check_page import CheckText, write_check
    from zsseg.pipeline.init.description_text import data_set_name, description_text
    from zsseg.stages.cache.disk.durable import write_durably
    from zsseg.stages.data.spec import load_spec
    from zsseg.stages.importing.import_folder import ImportRequest, import_folder

    names = read_names(classes, "--classes")
    if faults := naming_faults(names, names):
        raise UserError("--classes:", *map("  {}".format, faults), "Give every class its own name")
    file = out or Path(f"{data_set_name(folder.resolve().name)}.yaml")
    made = file.with_name(f"{file.stem}-zsseg")
    _check_place(file, folder, labels)
    request = ImportRequest(root=folder, folder=made, labels=labels, names=tuple(names), seed=seed)
    with console.progress("init", quiet=quiet) as advance:
        imported = import_folder(request, progress=lambda done, total: advance(done, total, ""))
    text = description_text(
        imported, name=data_set_name(file.stem), source=folder, folder=made.name
    )
    write_durably(file, text.encode())
    console.configure_logging(quiet=True)  # how many have labels is said below
    page = made / PAGE
    write_check(page, imported, load_spec(str(file)), made, CheckText(file, folder))
    if as_json:
        sys.stdout.write(json.dumps(_json(imported, file, made, page)) + "\n")
    else:
        _print(imported, file, made, page)
    if imported.problems:
        raise typer.Exit(Exit.SKIPPED)


def _check_place(file: Path, folder: Path, labels: Path | None) -> None:
    """Raise UserError for a description that is there already, or would lie in the user's data."""
    if file.suffix not in {".yaml", ".yml"}:
        raise UserError(f"--out {file}: a description is a YAML file. Give a name such as a.yaml")
    if file.exists():
        raise UserError(
            f"{file}: is there already, and is not overwritten. Remove it, or give another --out"
        )
    for data in filter(None, (folder, labels)):
        if data.is_dir() and file.resolve().is_relative_to(data.resolve()):
            raise UserError(
                f"{file}: lies in {data}, which is never written to. Give --out, a file in another "
                "folder, or call zsseg from one"
            )


def _json(imported: "ImportedFolder", file: Path, made: Path, page: Path) -> dict[str, object]:
    return {
        "description": str(file),
        "folder": str(made),
        "page": str(page),
        "form": imported.form,
        "classes": [*imported.names.classes],
        "unseen": [*imported.names.unseen],
        "splits": {
            name: {"images": images, "labelled": labelled}
            for name, (images, labelled) in imported.splits.items()
        },
        "pixels": imported.pixels[:-1].tolist(),
        "void": int(imported.pixels[-1]),
        "doubts": [*imported.doubts],
        "left_out": {str(each.path): each.reason for each in imported.problems},
    }


def _print(imported: "ImportedFolder", file: Path, made: Path, page: Path) -> None:
    from zsseg.pipeline.init.check_page import next_commands, summary

    for line in summary(imported):
        console.out.print(line, soft_wrap=True)
    for each in imported.problems[:_SHOWN]:
        console.err.print(f"left out: {each.path}: {each.reason}", soft_wrap=True)
    if (more := len(imported.problems) - _SHOWN) > 0:
        console.err.print(f"left out: {more} more, named in {page}", soft_wrap=True)
    for doubt in imported.doubts:
        console.err.print(f"look: {doubt}", soft_wrap=True)
    commands = [f"  {each}" for each in next_commands(file)]
    lines = ["", f"written: {file}, {made}/", f"look at: {page}", "next:", *commands]
    console.out.print(*lines, sep="\n", soft_wrap=True)
