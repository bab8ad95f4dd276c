"""Two further label formats of PASCAL Context, decoded to the class ids of the description.

Both are mapped by class name, so a description with another class order or with fewer classes is
decoded correctly.

`masks`: trainval_merged.json of PASCAL in Detail: run-length masks with ids of the 459-name list.
`59`: the 59_context_labels PNGs of the data set's authors: their own class order, 0 = none.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.data.run_lengths import decoded_runs, mask_of_runs
from zsseg.stages.data.spec import VOID
from zsseg.stages.errors import DatasetError

# Ids in the 459-name list of the 59 classes; 0 and every other id carry no class.
_ID_459 = {
    "aeroplane": 2, "bag": 9, "bed": 18, "bedclothes": 19, "bench": 22, "bicycle": 23, "bird": 25,
    "boat": 31, "book": 33, "bottle": 34, "building": 44, "bus": 45, "cabinet": 46, "car": 59,
    "cat": 65, "ceiling": 68, "chair": 72, "cloth": 80, "computer": 85, "cow": 98, "cup": 104,
    "curtain": 105, "dog": 113, "door": 115, "fence": 144, "floor": 158, "flower": 159,
    "food": 162, "grass": 187, "ground": 189, "horse": 207, "keyboard": 220, "light": 232,
    "motorbike": 258, "mountain": 259, "mouse": 260, "person": 284, "plate": 295, "platform": 296,
    "pottedplant": 308, "road": 324, "rock": 326, "sheep": 347, "shelves": 349, "sidewalk": 354,
    "sign": 355, "sky": 360, "snow": 366, "sofa": 368, "table": 397, "track": 415, "train": 416,
    "tree": 420, "truck": 424, "tvmonitor": 427, "wall": 440, "water": 445, "window": 454,
    "wood": 458,
}  # fmt: skip

# Class of pixel value 1, 2, ... 59 in the 59_context_labels PNGs.
_ORDER_59 = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "table",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
    "bag", "bed", "bench", "book", "building", "cabinet", "ceiling", "cloth", "computer", "cup",
    "door", "fence", "floor", "flower", "food", "grass", "ground", "keyboard", "light", "mountain",
    "mouse", "curtain", "platform", "sign", "plate", "road", "rock", "shelves", "sidewalk", "sky",
    "snow", "bedclothes", "track", "tree", "truck", "wall", "water", "window", "wood",
)  # fmt: skip


@dataclass(frozen=True)
class RunLengthMasks:
    """One image's label as run-length masks, each with its id in the 459-name list."""

    height: int
    width: int
    segments: tuple[tuple[int, str], ...]


def encoding_459(classes: Sequence[str]) -> dict[int, int]:
    """Id in the 459-name list -> class id, or VOID for what is not one of `classes`."""
    by_id = {number: name for name, number in _ID_459.items()}
    return {v: _class_id(classes, by_id.get(v)) for v in range(460)}


def encoding_59(classes: Sequence[str]) -> dict[int, int]:
    """Pixel value of a 59_context_labels PNG -> class id, or VOID for what is not a class."""
    encoding = {v: _class_id(classes, name) for v, name in enumerate(_ORDER_59, start=1)}
    return encoding | {0: VOID, VOID: VOID}


def _class_id(classes: Sequence[str], name: str | None) -> int:
    return classes.index(name) if name in classes else VOID


def read_masks(path: Path, split: str) -> dict[Path, RunLengthMasks]:
    """Labels of one split ('train', 'val') by image file, from trainval_merged.json."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        segments: dict[int, list[tuple[int, str]]] = {
            image["image_id"]: [] for image in content["images"] if image["phase"] == split
        }
        for segment in content["annos_segmentation"]:
            if segment["image_id"] in segments:
                counts = str(segment["segmentation"]["counts"])
                segments[segment["image_id"]].append((int(segment["category_id"]), counts))
        return {
            Path(image["file_name"]): RunLengthMasks(
                int(image["height"]), int(image["width"]), tuple(segments[image["image_id"]])
            )
            for image in content["images"]
            if image["phase"] == split
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path}: not PASCAL in Detail's trainval_merged.json ({type(error).__name__}: "
            f"{error}). Download it again"
        ) from error


def paint(masks: RunLengthMasks) -> NDArray[np.int64]:
    """(H, W) ids of the 459-name list; 0 where no mask lies; a later mask covers an earlier one.

    Raises ValueError when a mask is damaged.
    """
    raw_HW = np.zeros((masks.height, masks.width), dtype=np.int64)
    for category, counts in masks.segments:
        raw_HW[mask_of_runs(decoded_runs(counts), masks.height, masks.width)] = category
    return raw_HW
