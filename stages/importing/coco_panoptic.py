"""COCO panoptic: a PNG per image whose colours are ids of segments, and a JSON of their classes.

    {"images": [{"id", "file_name"}], "categories": [{"id", "name"}],
     "annotations": [{"image_id", "file_name", "segments_info": [{"id", "category_id"}]}]}

The id of a pixel is R + 256 G + 65536 B; 0 has no class.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zsseg.stages.data.class_names import normal_form
from zsseg.stages.data.images import read_image
from zsseg.stages.data.spec import VOID
from zsseg.stages.importing.annotated import (
    Findings,
    Label,
    check_size,
    tidy_name,
    unique_names,
    without_void,
)
from zsseg.stages.importing.coco import rows
from zsseg.stages.importing.matching import ImagesByName


def is_panoptic(values: Any) -> bool:
    """Is it COCO panoptic's form?"""
    if not isinstance(values, dict) or not isinstance(values.get("annotations"), list):
        return False
    first = values["annotations"][:1]
    return any(isinstance(each, dict) and "segments_info" in each for each in first)


def read_panoptic(
    documents: Mapping[Path, Mapping[str, Any]], images: ImagesByName, pictures: Iterable[Path]
) -> Findings:
    """The labels of several documents, by path. `pictures`: where their PNGs are among."""
    by_name = ImagesByName(pictures)
    segments: dict[Path, tuple[Path, dict[int, str]]] = {}
    names: list[str] = []
    missing: Counter[str] = Counter()
    for document, values in documents.items():
        categories = {c["id"]: str(c["name"]) for c in rows(values.get("categories"), "id", "name")}
        names += categories.values()
        files = {each["id"]: each for each in rows(values.get("images"), "id", "file_name")}
        for each in rows(values["annotations"], "image_id", "file_name"):
            listed = files.get(each["image_id"], each)
            image = images.find(str(listed["file_name"]))
            # The PNGs of a document lie in a folder of its name.
            png = by_name.find(f"{document.stem}/{each['file_name']}")
            if image is None or png is None or png == image:
                missing["images" if image is None else "PNGs of segments"] += 1
                continue
            ids = {
                s["id"]: categories[s["category_id"]]
                for s in rows(each.get("segments_info"), "id", "category_id")
                if isinstance(s["id"], int) and s["category_id"] in categories
            }
            segments[image] = (png, ids)
    doubts = [
        f"{count} {what} that the JSON names are not there." for what, count in missing.items()
    ]
    return _findings(segments, names, doubts)


def _findings(
    segments: Mapping[Path, tuple[Path, Mapping[int, str]]],
    names: Sequence[str],
    doubts: Sequence[str],
) -> Findings:
    used = {normal_form(tidy_name(name)) for _, ids in segments.values() for name in ids.values()}
    classes = without_void([name for name in unique_names(names) if normal_form(name) in used])
    number = {normal_form(name): index for index, name in enumerate(classes)}
    makers = {
        image: partial(
            label_of_segments,
            png,
            {each: number.get(normal_form(tidy_name(name)), VOID) for each, name in ids.items()},
        )
        for image, (png, ids) in segments.items()
    }
    return Findings(
        form="COCO panoptic", classes=tuple(classes), makers=makers, doubts=tuple(doubts)
    )


def label_of_segments(png: Path, ids: Mapping[int, int], size: tuple[int, int]) -> Label:
    """(H, W) class ids of a PNG of segments; `ids`: id of a segment -> class id.

    Raises ValueError where it is not of the image's size.
    """
    code_HW3 = read_image(png).astype(np.int64)
    code_HW = code_HW3[..., 0] + 256 * code_HW3[..., 1] + 65536 * code_HW3[..., 2]
    check_size(code_HW.shape, size)
    code_V, index_HW = np.unique(code_HW, return_inverse=True)
    class_V = np.array([ids.get(code, VOID) for code in code_V.tolist()], dtype=np.uint8)
    label_HW: Label = class_V[index_HW].reshape(code_HW.shape)
    return label_HW
