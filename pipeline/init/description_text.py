"""The description that `zsseg init` writes: YAML, with comments on what may be changed."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zsseg.stages.importing.import_folder import ImportedFolder
from zsseg.stages.printable import one_line
from zsseg.stages.yaml_files import yaml_text


def data_set_name(stem: str) -> str:
    """A name that stores and reports can have, from that of a file."""
    return re.sub(r"[^a-z0-9_-]+", "-", stem.casefold()).strip("-_") or "photos"


def description_text(imported: ImportedFolder, *, name: str, source: Path, folder: str) -> str:
    """The text of a description. `source`: the user's folder; `folder`: where the new one is."""
    images = sum(count for count, _ in imported.splits.values())
    labelled = sum(count for _, count in imported.splits.values())
    about = f"{images} images of {source.name or source}"
    if imported.form:
        about += f", labels: {imported.form}"
    lines = [
        f"# Written by `zsseg init {one_line(source)}`; change what is not right.",
        _line("name", name, "part of the names of stores and reports"),
        _line("about", one_line(about)),
        _line("root", folder, "links to the images, and labels; relative to this file"),
        "# Class ids are places in this list. Rename freely (words that CLIP knows), but keep the",
        "# order; new classes go to the end, and into `unseen`.",
        _line("classes", list(imported.names.classes)),
        *_unseen(imported),
    ]
    if imported.form and labelled < images:
        lines.append(_line("labelled", "some", f"{labelled} of {images} images have a label"))
    lines += [
        "# What the prompt says instead of the class name; several names of one class with bars:",
        "# car|van|lorry.",
        _line("names", imported.names.prompts),
    ]
    lines += _values(imported)
    lines.append("patterns:")
    lines += _splits(imported)
    return "\n".join(lines) + "\n"


def _line(key: str, value: Any, comment: str = "") -> str:
    text = yaml_text({key: value}).rstrip("\n")
    return f"{text}  # {comment}" if comment else text


def _unseen(imported: ImportedFolder) -> list[str]:
    if imported.form is None:
        return [_line("unseen", "all", "no labels: every class by its name alone")]
    return [
        "# No label of these is used in training; a class moved here is learned by its name alone.",
        _line("unseen", list(imported.names.unseen)),
    ]


def _values(imported: ImportedFolder) -> list[str]:
    if imported.form is None:
        return []
    lines = []
    if imported.encoding is not None:
        lines += [
            "# Pixel value of the label files: class id.",
            f"encoding: {_flow(imported.encoding)}",
        ]
    return [*lines, _line("ignore", list(imported.ignore), "pixel values without a class")]


def _flow(values: Mapping[int, int]) -> str:
    return "{" + ", ".join(f"{value}: {number}" for value, number in values.items()) + "}"


def _splits(imported: ImportedFolder) -> list[str]:
    counts = ", ".join(f"{split} {count}" for split, (count, _) in imported.splits.items())
    how = "as the folders say" if imported.from_folders else "by chance"
    lines = [_line("images", "images/{split}", f"{counts}; divided {how}")]
    if imported.form:
        lines.append(_line("labels", "labels/{split}"))
    return [f"  {line}" for line in lines]
