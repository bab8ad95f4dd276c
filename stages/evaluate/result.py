"""The result of an evaluation and its two files: everything as JSON, one line per class as CSV.

Legend: C classes.
"""

import csv
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stages.cache.files import write_durably
from stages.evaluate.metrics import Scores


@dataclass(frozen=True)
class EvaluationResult:
    """What was scored, how, and the scores."""

    subject: Literal["student", "teacher"]
    source: Path
    """The run or the store."""
    dataset: str
    split: str
    classes: tuple[str, ...]
    unseen: tuple[str, ...]
    images: int
    """Images that were scored."""
    left_out: int
    """Images without a label, or that the store has no tokens of."""
    settings: dict[str, Any]
    """What else decides the scores: checkpoint step, sizes, calibration."""
    scores: Scores
    confusion_CC: NDArray[np.int64]
    """Pixels by label (row) and prediction (column)."""


@dataclass(frozen=True)
class ClassRow:
    """The line of one class in a table; NaN where the split does not show the class."""

    name: str
    unseen: bool
    iou: float
    accuracy: float
    pixels: int
    """Labelled pixels of the class."""


def class_rows(result: EvaluationResult) -> list[ClassRow]:
    """One row per class, in class order."""
    return [
        ClassRow(name, name in result.unseen, iou, accuracy, int(pixels))
        for name, iou, accuracy, pixels in zip(
            result.classes,
            result.scores.iou,
            result.scores.accuracy,
            result.confusion_CC.sum(1),
            strict=True,
        )
    ]


def to_json(result: EvaluationResult) -> dict[str, Any]:
    """The result as plain JSON values; null stands for a score that is not defined."""
    means = result.scores
    return {
        "subject": result.subject,
        "source": str(result.source),
        "dataset": result.dataset,
        "split": result.split,
        "images": result.images,
        "left_out": result.left_out,
        "settings": result.settings,
        "scores": {
            "sIoU": _defined(means.siou),
            "uIoU": _defined(means.uiou),
            "hIoU": _defined(means.hiou),
            "mIoU": _defined(means.miou),
            "pAcc": _defined(means.pacc),
        },
        "classes": [
            {
                "name": row.name,
                "unseen": row.unseen,
                "IoU": _defined(row.iou),
                "accuracy": _defined(row.accuracy),
                "pixels": row.pixels,
            }
            for row in class_rows(result)
        ],
        "confusion": result.confusion_CC.tolist(),
    }


def save_result(folder: Path, result: EvaluationResult) -> tuple[Path, Path]:
    """Write `evaluation-<split>.json` and `.csv` into a folder, whole or not at all.

    The teacher's files begin with `evaluation-teacher-`, and those of a calibrated evaluation end
    in its gamma, so a result never replaces one of another kind.
    """
    parts = ["evaluation", result.split.replace("/", "-")]
    if result.subject == "teacher":
        parts.insert(1, "teacher")
    if gamma := result.settings["calibration"]:
        parts.append(f"gamma{gamma:g}")
    stem = "-".join(parts)
    text = json.dumps(to_json(result), ensure_ascii=False, allow_nan=False)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["class", "group", "IoU", "accuracy", "pixels"])
    for row in class_rows(result):
        group = "unseen" if row.unseen else "seen"
        writer.writerow([row.name, group, _cell(row.iou), _cell(row.accuracy), row.pixels])
    json_path, csv_path = folder / f"{stem}.json", folder / f"{stem}.csv"
    write_durably(json_path, f"{text}\n".encode())
    write_durably(csv_path, table.getvalue().encode())
    return json_path, csv_path


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"
