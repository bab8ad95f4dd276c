"""The demo's report: one HTML file with tables, pictures and charts that loads nothing else."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zsseg.pipeline.demo.curves import Points, curves
from zsseg.pipeline.html_page import render_page
from zsseg.pipeline.tables import percent
from zsseg.stages.cache.disk.durable import write_durably
from zsseg.stages.data.images import png_bytes
from zsseg.stages.evaluate.overlay import overlay
from zsseg.stages.evaluate.result import EvaluationResult, class_rows


@dataclass(frozen=True)
class ReportContent:
    """What the report shows; results and label maps are in the same order of methods."""

    title: str
    about: str
    results: Mapping[str, EvaluationResult]
    """Method -> its scores; those without gamma first."""
    ours: str
    """How the names of our own rows begin."""
    teacher: str
    """The row that the classes of the others are compared with."""
    notes: Sequence[str]
    """Below the scores: where ours is worse than the teacher, where a gamma was chosen."""
    pictures: Sequence[tuple[NDArray[np.uint8], Mapping[str, NDArray[np.uint8]]]]
    """Images (H, W, 3), each with its true label map (H, W) and one of every method, by name."""
    colours: NDArray[np.uint8]
    """(256, 3) RGB of the class ids."""
    charts: Mapping[str, Mapping[str, Points]]
    """Curves by chart title and series."""
    commands: Sequence[str]
    made: str
    """A sentence: how long it took, with which versions."""


def write_report(path: Path, shown: ReportContent) -> None:
    """Write the report; the file appears whole or not at all."""
    first = next(iter(shown.results.values()))
    unseen_ids = [first.classes.index(name) for name in first.unseen]
    values = {
        "title": shown.title,
        "about": shown.about,
        "unseen": first.unseen,
        "methods": [_method(name, result, shown.ours) for name, result in shown.results.items()],
        "notes": shown.notes,
        "scored": f"{first.images} images of {first.dataset} {first.split}; all "
        f"{len(first.classes)} classes in one argmax, IoU accumulated over the split.",
        "keys": [
            {"name": first.classes[i], "colour": "#{:02x}{:02x}{:02x}".format(*shown.colours[i])}
            for i in unseen_ids
        ],
        "columns": ["image", *(shown.pictures[0][1] if shown.pictures else ())],
        "grid": [
            _cells(image, labels, unseen_ids, shown.colours) for image, labels in shown.pictures
        ],
        "charts": [curves(title, series) for title, series in shown.charts.items()],
        "teacher": shown.teacher,
        "classes": _classes(shown.results, shown.teacher),
        "commands": shown.commands,
        "made": shown.made,
    }
    write_durably(path, render_page("zsseg.pipeline.demo", "report.html", values))


def _method(name: str, result: EvaluationResult, ours: str) -> dict[str, object]:
    means = result.scores
    own = [row.iou for row in class_rows(result) if row.unseen]
    return {
        "name": name,
        "ours": name.startswith(ours),
        "figures": [percent(value) for value in (means.hiou, means.siou, means.uiou, *own)],
    }


def _classes(results: Mapping[str, EvaluationResult], teacher: str) -> list[dict[str, object]]:
    """A line per class; `below`: where it is worse than the teacher has it."""
    place = list(results).index(teacher)
    rows = zip(*(class_rows(result) for result in results.values()), strict=True)
    return [
        {
            "name": row[0].name,
            "unseen": row[0].unseen,
            "figures": [
                {"value": percent(each.iou), "below": each.iou < row[place].iou} for each in row
            ],
        }
        for row in rows
    ]


def _cells(
    image_HW3: NDArray[np.uint8],
    labels: Mapping[str, NDArray[np.uint8]],
    unseen_ids: Sequence[int],
    colours: NDArray[np.uint8],
) -> list[dict[str, str]]:
    """The image, then for each label map the image in grey with the unseen classes in colour."""
    grey_HW1 = image_HW3.mean(axis=2, keepdims=True)
    pale_HW3 = np.repeat(np.rint(0.6 * grey_HW1 + 90), 3, axis=2).astype(np.uint8)
    cells = [_cell(image_HW3, "image")]
    for name, label_HW in labels.items():
        shown_HW = np.where(np.isin(label_HW, unseen_ids), label_HW, 255).astype(np.uint8)
        cells.append(_cell(overlay(pale_HW3, shown_HW, colours, alpha=0.75), name))
    return cells


def _cell(picture_HW3: NDArray[np.uint8], alt: str) -> dict[str, str]:
    return {"png": base64.b64encode(png_bytes(picture_HW3)).decode(), "alt": alt}
