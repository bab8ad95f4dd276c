"""The result of an evaluation and its two files: everything as JSON, one line per class as CSV.

Legend: C classes.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.cache.disk.durable import write_durably
from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.metrics import Scores, scores

BY_UNSEEN = "by-unseen-labels"
"""In a result's variant: labels of unseen classes have chosen the checkpoint that was scored."""


@dataclass(frozen=True)
class EvaluationResult:
    """What was scored, how, and the scores."""

    subject: Literal["student", "teacher"]
    source: str
    """Path or URL of the run or the store."""
    dataset: str
    split: str
    classes: tuple[str, ...]
    unseen: tuple[str, ...]
    images: int
    """Images that were scored."""
    left_out: int
    """Images without a label, or that the store has no tokens of."""
    trained_on: int | None
    """How many of `images` the run was trained on; None where it is not known."""
    settings: dict[str, Any]
    """What else decides the scores: checkpoint step, limit, sizes, calibration."""
    variant: tuple[str, ...]
    """How it differs from an evaluation with the run's or the store's own settings, as words for a
    file name."""
    scores: Scores
    confusion_CC: NDArray[np.int64]
    """Pixels by label (row) and prediction (column)."""

    @property
    def has_groups(self) -> bool:
        """Are some classes seen and others unseen? hIoU, sIoU and uIoU are defined only then."""
        return 0 < len(self.unseen) < len(self.classes)

    @property
    def means(self) -> dict[str, float]:
        """The scores of the whole by name, less those of groups where all classes are one group."""
        of_groups = () if self.has_groups else ("hIoU", "sIoU", "uIoU")
        return {name: value for name, value in self.scores.means.items() if name not in of_groups}


def variant(
    *,
    dataset: str,
    own_dataset: str,
    renamed: bool = False,
    chosen: Sequence[str] = (),
    limit: int | None = None,
    settings: Mapping[str, Any],
    own_settings: Mapping[str, Any],
) -> tuple[str, ...]:
    """How an evaluation differs from one with the run's or store's own settings, for file names.

    Another data set by its name; other names of the classes as `renamed`; how the
    checkpoint was chosen in its own words (`chosen`); a limit as `first10`; a
    calibration, whenever there is one, as `gamma0.1`; every other setting that differs by name and
    value, as `mode-whole`.
    """
    words = [] if dataset == own_dataset else [dataset]
    if renamed:
        words.append("renamed")
    words += chosen
    if limit is not None:
        words.append(f"first{limit}")
    if gamma := settings["calibration"]:
        words.append(f"gamma{gamma:g}")
    for name, value in settings.items():
        if name != "calibration" and value != own_settings[name]:
            words.append(f"{name}-{value}".lower())
    return tuple(words)


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
        "source": result.source,
        "dataset": result.dataset,
        "split": result.split,
        "images": result.images,
        "left_out": result.left_out,
        "trained_on": result.trained_on,
        "settings": result.settings,
        "variant": list(result.variant),
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


def read_result(path: Path) -> EvaluationResult:
    """The result that `save_result` wrote as JSON; its scores follow from the confusion matrix.

    Raises UserError for a file that is damaged.
    """
    try:
        return _result(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise UserError(
            f"{path}: damaged, or of another version ({error!r}). Delete it, and run `zsseg "
            "evaluate`, or the `zsseg ablate` that it belongs to, again"
        ) from error


def _result(stored: dict[str, Any]) -> EvaluationResult:
    unseen = [i for i, row in enumerate(stored["classes"]) if row["unseen"]]
    confusion_CC = np.array(stored["confusion"], dtype=np.int64)
    if confusion_CC.sum(1).tolist() != [row["pixels"] for row in stored["classes"]]:
        raise ValueError("its counts of pixels do not agree")
    return EvaluationResult(
        subject=stored["subject"],
        source=stored["source"],
        dataset=stored["dataset"],
        split=stored["split"],
        classes=tuple(row["name"] for row in stored["classes"]),
        unseen=tuple(stored["classes"][i]["name"] for i in unseen),
        images=stored["images"],
        left_out=stored["left_out"],
        trained_on=stored.get("trained_on"),  # files of zsseg 0.1 do not have it
        settings=stored["settings"],
        variant=tuple(stored["variant"]),
        scores=scores(confusion_CC, unseen),
        confusion_CC=confusion_CC,
    )


def file_stem(subject: Literal["student", "teacher"], split: str, words: Sequence[str] = ()) -> str:
    """Name of a result's files without suffix; `words` is its variant."""
    teacher = ["teacher"] if subject == "teacher" else []
    return "-".join(["evaluation", *teacher, split.replace("/", "-"), *words])


def save_result(folder: Path, result: EvaluationResult) -> tuple[Path, Path]:
    """Write `evaluation-<split>.json` and `.csv` into a folder, whole or not at all.

    The teacher's files begin with `evaluation-teacher-`, and those of another data set, of the
    first images only or with other settings than the run's own end in its `variant`, as in
    `evaluation-val-first10`: a result replaces only an earlier one of its own kind.
    """
    stem = file_stem(result.subject, result.split, result.variant)
    text = json.dumps(to_json(result), ensure_ascii=False, allow_nan=False)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["class", "group", "IoU", "accuracy", "pixels", "trained on"])
    share = "" if result.trained_on is None else f"{result.trained_on} of {result.images} images"
    for row in class_rows(result):
        group = "unseen" if row.unseen else "seen"
        writer.writerow([row.name, group, _cell(row.iou), _cell(row.accuracy), row.pixels, share])
    json_path, csv_path = folder / f"{stem}.json", folder / f"{stem}.csv"
    # A path that is not UTF-8 is kept by JSON's own escapes.
    write_durably(json_path, f"{text}\n".encode(errors="backslashreplace"))
    write_durably(csv_path, table.getvalue().encode())
    return json_path, csv_path


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"
