"""The labels of a folder, in whichever form they are: every form is asked, the best is taken."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zsseg.stages.errors import DatasetError
from zsseg.stages.file_bytes import read_file
from zsseg.stages.importing.annotated import MOST_CLASSES, Findings
from zsseg.stages.importing.coco import is_coco, read_coco
from zsseg.stages.importing.coco_panoptic import is_panoptic, read_panoptic
from zsseg.stages.importing.colour_masks import read_colour_masks
from zsseg.stages.importing.cvat_xml import read_cvat
from zsseg.stages.importing.index_masks import read_index_masks
from zsseg.stages.importing.label_studio import is_label_studio, read_label_studio
from zsseg.stages.importing.labelme import is_labelme, read_labelme
from zsseg.stages.importing.matching import ImagesByName
from zsseg.stages.importing.name_files import NameTable, name_tables
from zsseg.stages.importing.sources import PictureGroup, Sources
from zsseg.stages.importing.yolo import read_yolo

_OF_INSTANCES = re.compile(r"instance|object|panoptic|depth", re.IGNORECASE)
"""In the names of folders and files of numbers that are no classes."""

_JSON_BYTES = 4 << 30  # that of COCO's training images has 0.45 GB


def read_labels(sources: Sources, names: Sequence[str]) -> tuple[Findings | None, list[str]]:
    """The labels of most images, and what else to say; None where there are none.

    `names`: classes that the user gives, for labels that say none. Raises DatasetError where all
    labels that there are cannot be used.
    """
    tables = name_tables(sources.name_files)
    found, told = _of_json(sources)
    xml = [path for path in sources.documents if path.suffix.lower() == ".xml"]
    texts = [path for path in sources.documents if path.suffix.lower() == ".txt"]
    others = (
        read_cvat(xml, ImagesByName(sources.images)),
        read_yolo(texts, sources.images, tables, names),
    )
    found += [each for each in others if each]
    pictures, errors = _of_pictures(sources.label_pictures, tables, names)
    found += pictures
    usable = [each for each in found if each.count and 0 < len(each.classes) <= MOST_CLASSES]
    if not usable:
        if errors:
            raise errors[0]
        return None, [*told, *(doubt for each in found for doubt in each.doubts)]
    # Of several, the one for most images; then one that says what its classes are called.
    best = max(usable, key=lambda each: (each.count, each.named))
    if also := sorted({each.form for each in usable} - {best.form}):
        told.append(
            f"The labels used are {best.form}; there are {', '.join(also)} too, which --labels "
            "takes instead."
        )
    return best, told


def _of_json(sources: Sources) -> tuple[list[Findings], list[str]]:
    """Findings of the JSON documents, and which of them cannot be read."""
    images = ImagesByName(sources.images)
    values, told = _json(sources.documents)
    found = []
    if panoptic := {path: each for path, each in values.items() if is_panoptic(each)}:
        found.append(read_panoptic(panoptic, images, sources.pictures))
    if coco := [each for each in values.values() if is_coco(each)]:
        found.append(read_coco(coco, images))
    if labelme := {path: each for path, each in values.items() if is_labelme(each)}:
        found.append(read_labelme(labelme, images))
    if studio := [each for each in values.values() if is_label_studio(each)]:
        found.append(read_label_studio(studio, images))
    return found, told


def _json(documents: Sequence[Path]) -> tuple[dict[Path, Any], list[str]]:
    values, told = {}, []
    for path in documents:
        if path.suffix.lower() == ".json":
            try:
                values[path] = json.loads(read_file(path, at_most=_JSON_BYTES))
            except (OSError, ValueError, RecursionError) as error:
                told.append(f"{path} is left out: it cannot be read as JSON ({error}).")
    return values, told


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
