"""`zsseg preview`: what the teacher alone makes of the names, before anything is stored."""

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from zsseg.pipeline import console
from zsseg.pipeline.cli.options import DatasetRoot, Exit, Quiet, Settings
from zsseg.pipeline.cli.precompute import Teacher
from zsseg.pipeline.face.make_store import DEFAULT_TEACHER
from zsseg.pipeline.run_options import read_names
from zsseg.pipeline.settings import apply_settings, build, read_values
from zsseg.stages.data.class_names import naming_faults
from zsseg.stages.data.spec import chosen_root, described_root, load_spec
from zsseg.stages.errors import UserError
from zsseg.stages.printable import counted

if TYPE_CHECKING:
    from zsseg.pipeline.preview.preview_page import PageText
    from zsseg.stages.data.spec import DatasetSpec
    from zsseg.stages.precompute.preview import NameFigures, PreviewRequest, TeacherPreview


def preview(
    dataset: Annotated[str, typer.Argument(help="Data set by name, or a YAML description.")],
    out: Annotated[Path, typer.Option(help="Folder for the page and the pictures.")] = Path(
        "preview"
    ),
    root: DatasetRoot = None,
    split: Annotated[str, typer.Option(help="Split of the data set.")] = "train",
    teacher: Teacher = DEFAULT_TEACHER,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES|@FILE",
            help="Other names to try: 'car|van, tree' (a bar between several names of a class), or "
            "@names.txt with one class in a line. \\[default: the data set's]",
        ),
    ] = None,
    images: Annotated[
        int, typer.Option(min=1, help="Images to look at, spread over the split.")
    ] = 6,
    config: Annotated[Path | None, typer.Option(help="YAML file of precompute settings.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    settings: Settings = None,
    quiet: Quiet = False,
) -> None:
    """Show what the teacher alone makes of the names on a few images; no label is read."""
    quiet = quiet or as_json
    console.configure_logging(quiet=quiet)
    from zsseg.stages.precompute.precompute_config import PrecomputeConfig

    folder = chosen_root(dataset, root)
    _check_place(out, folder)
    spec = load_spec(dataset)
    if names := read_names(classes, "--classes"):
        spec = _renamed(spec, names)
    values = apply_settings(read_values(config) if config else {}, settings or [])
    resolved = build(PrecomputeConfig, values, where=str(config) if config else "preview")

    from zsseg.pipeline.preview.preview_page import write_preview
    from zsseg.stages.precompute.preview import PreviewRequest, name_figures, preview_names

    request = PreviewRequest(
        spec=spec, root=folder, split=split, teacher=teacher, config=resolved, images=images
    )
    with console.progress("preview", quiet=quiet) as advance:
        seen = preview_names(request, progress=lambda done, total: advance(done, total, "images"))
    text = _text(request, seen, dataset, settings or [], classes=classes)
    page = write_preview(out, seen, text, spec=spec)
    figures = name_figures([each.map_4yx for each in seen.images], seen.classes)
    if as_json:
        sys.stdout.write(json.dumps(_json(request, seen, figures, page), allow_nan=False) + "\n")
    else:
        _print(figures, seen, page)
        where = ["--root", root] if root else []
        console.say_next("zsseg", "run", dataset, *where, "--teacher", teacher, quiet=quiet)
    if seen.failures:
        raise typer.Exit(Exit.SKIPPED)


def _check_place(out: Path, root: Path) -> None:
    """Raise UserError for a folder that cannot be made, or lies in the data set's."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file. Give --out a folder, which may be a new one")
    if out.resolve().is_relative_to(root.resolve()):
        raise UserError(
            f"{out}: lies in the data set's folder {root}, which is never written to. Give another "
            "--out"
        )


def _renamed(spec: "DatasetSpec", names: "list[str]") -> "DatasetSpec":
    """The description with other classes, for its images alone."""
    if faults := naming_faults(names, names):
        raise UserError("--classes:", *map("  {}".format, faults), "Give every class its own name")
    if len(names) < 2:
        raise UserError(f"--classes {names[0]}: one name is everywhere the best. Give two or more")
    return spec.model_copy(update={"classes": tuple(names), "names": {}, "unseen": ()})


def _text(
    request: "PreviewRequest",
    seen: "TeacherPreview",
    dataset: str,
    settings: "list[str]",
    *,
    classes: str | None,
) -> "PageText":
    """What the page says, with the command that stores what it shows."""
    from zsseg.pipeline.preview.preview_page import PageText

    spec, config = request.spec, request.config
    height, width = seen.size
    refined = config.pixel_names.refinement
    names = "" if classes is None else "  # after these names are written into its description"
    command = ["zsseg", "precompute", "--dataset", dataset]
    if described_root(dataset) != request.root:
        command += ["--root", str(request.root)]
    command += ["--split", request.split, "--teacher", request.teacher]
    for each in (*settings, "pixel_names.enabled=true"):
        command += ["--set", each]
    return PageText(
        title=f"{spec.name}: what the teacher alone makes of {len(seen.classes)} names",
        about=f"{len(seen.images)} of the {seen.in_split:,} images of split '{request.split}', "
        f"named by {request.teacher}; nothing is trained, and no label was read.",
        settings=f"dense.size {height} x {width}, path {seen.dense_path}; passes per image: "
        f"{seen.passes}; refinement: {refined}; templates: {config.text.templates}; "
        f"several names: {config.text.synonyms}.",
        command=shlex.join(command) + names,
    )


def _json(
    request: "PreviewRequest",
    seen: "TeacherPreview",
    figures: "tuple[NameFigures, ...]",
    page: Path,
) -> dict[str, object]:
    return {
        "dataset": request.spec.name,
        "split": request.split,
        "teacher": request.teacher,
        "page": str(page),
        "images": [each.id for each in seen.images],
        "left_out": seen.failures,
        "names": [asdict(each) for each in figures],
        "nowhere": [each.name for each in figures if each.confidence is None],
    }


def _print(figures: "tuple[NameFigures, ...]", seen: "TeacherPreview", page: Path) -> None:
    from zsseg.pipeline.tables import percent

    table = Table("name", "pixels %", "images", "confidence %", box=None)
    for each in sorted(figures, key=lambda each: -each.share):
        if each.confidence is not None:
            confidence = percent(each.confidence)
            table.add_row(each.name, percent(each.share), str(each.images), confidence)
    console.print_whole(table)
    for reason in seen.failures.values():
        console.err.print(f"left out: {reason}", soft_wrap=True)
    if nowhere := [f"'{each.name}'" for each in figures if each.confidence is None]:
        console.err.print(
            f"found nowhere: {', '.join(nowhere)}. Where the images show them, try other words "
            "with --classes",
            soft_wrap=True,
        )
    console.out.print(f"{page}: {counted(len(seen.images), 'image')}", soft_wrap=True)
