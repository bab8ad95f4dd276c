"""The labels of a folder, in whichever form they are: every form is asked, the best is taken."""

import re
from collections.abc import Sequence
from dataclasses import replace

from zsseg.stages.errors import DatasetError
from zsseg.stages.importing.annotated import MOST_CLASSES, Findings
from zsseg.stages.importing.colour_masks import read_colour_masks
from zsseg.stages.importing.index_masks import read_index_masks
from zsseg.stages.importing.name_files import NameTable, name_tables
from zsseg.stages.importing.sources import PictureGroup, Sources

_OF_INSTANCES = re.compile(r"instance|object|panoptic|depth", re.IGNORECASE)
"""In the names of folders and files of numbers that are no classes."""


def read_labels(sources: Sources, names: Sequence[str]) -> tuple[Findings | None, list[str]]:
    """The labels of most images, and what else to say; None where there are none.

    `names`: classes that the user gives, for labels that say none. Raises DatasetError where all
    labels that there are cannot be used.
    """
    tables = name_tables(sources.documents)
    found, errors = _of_pictures(sources.label_pictures, tables, names)
    usable = [each for each in found if each.count and len(each.classes) <= MOST_CLASSES]
    if not usable:
        if errors:
            raise errors[0]
        return None, []
    # Of several, the one for most images; then one that says what its classes are called.
    best = max(usable, key=lambda each: (each.count, each.named))
    also = sorted({each.form for each in usable} - {best.form})
    told = (
        f"The labels used are {best.form}; there are {', '.join(also)} too, which --labels FOLDER "
        "takes instead."
    )
    return best, [told] if also else []


def _of_pictures(
    groups: Sequence[PictureGroup], tables: Sequence[NameTable], names: Sequence[str]
) -> tuple[list[Findings], list[DatasetError]]:
    """Findings of the pictures, those of classes before those of instances; numbers before
    colours."""
    found: list[Findings] = []
    errors = []
    for kind in _kinds(groups):
        try:
            numbers = read_index_masks(kind, tables, names)
        except DatasetError as error:
            numbers = None
            errors.append(error)
        where = ", ".join(dict.fromkeys(group.folder.name for group in kind))
        for each in filter(None, (numbers, read_colour_masks(kind, tables))):
            found.append(replace(each, form=f"{each.form} in {where}"))
    return found, errors


def _kinds(groups: Sequence[PictureGroup]) -> list[list[PictureGroup]]:
    """Groups that go together: of one ending or in one folder, for different images."""
    kinds: list[list[PictureGroup]] = []
    for group in sorted(groups, key=lambda each: (each.ending, each.folder)):
        for kind in kinds:
            images = {image for each in kind for image in each.image_of.values()}
            alike = any(each.ending == group.ending or each.folder == group.folder for each in kind)
            if alike and images.isdisjoint(group.image_of.values()):
                kind.append(group)
                break
        else:
            kinds.append([group])
    return sorted(kinds, key=_is_of_instances)


def _is_of_instances(kind: Sequence[PictureGroup]) -> bool:
    return any(_OF_INSTANCES.search(f"{each.folder.name} {each.ending}") for each in kind)
