"""Writes a report as one HTML file that loads nothing else."""

import base64
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zsseg.pipeline.demo.curves import curves
from zsseg.pipeline.html_page import render_page
from zsseg.pipeline.report.shown_images import Gallery, ReportImage
from zsseg.pipeline.report.shown_run import ShownRun
from zsseg.pipeline.report.training_images import TrainingImage
from zsseg.pipeline.tables import checkpoint_text, percent
from zsseg.stages.cache.disk.durable import write_durably
from zsseg.stages.data.images import jpeg_bytes, resize_image
from zsseg.stages.evaluate.colours import name_colours
from zsseg.stages.evaluate.overlay import overlay
from zsseg.stages.evaluate.result import EvaluationResult, class_rows
from zsseg.stages.train.run.run_folder import PLAN_FILE

_WIDE = 640
"""Pixels of a picture's longer side in the page."""
_SCORES = ("hIoU", "sIoU", "uIoU", "mIoU", "pAcc")


def write_run_report(
    out: Path,
    runs: Sequence[ShownRun],
    images: Mapping[str, Gallery],
    missing: Sequence[str],
) -> None:
    """Write the page of some runs to `out`; it appears whole or not at all.

    `images`: by the folder of a run; `missing`: what could not be shown and
    why, a sentence each.
    """
    first = next((each.results[0] for each in runs if each.results), None)
    missing = [*_peeked(runs), *missing]
    names = ", ".join(each.name for each in runs)
    values = {
        "title": f"{names}: {', '.join(dict.fromkeys(run.record.dataset.name for run in runs))}",
        "hero": _hero(runs, images),
        "costs": [line for run in runs for line in _costs(run, images.get(str(run.path)))],
        "figures": _figures(runs[0], first),
        "missing": missing,
        "columns": _SCORES,
        "rows": [row for run in runs for row in _rows(run)],
        "bars": _bars(runs),
        "runs": [run.name for run in runs if run.results],
        "confusion": None if first is None else _confusion(first),
        "charts": _charts(runs),
        "validations": [
            f"{run.name}: {run.validation.sentence}" for run in runs if run.validation is not None
        ],
        "galleries": [
            _gallery(run, images[str(run.path)]) for run in runs if str(run.path) in images
        ],
        "settings": [_settings(run) for run in runs],
        "commands": [line for run in runs for line in _commands(run)],
    }
    write_durably(out, render_page("zsseg.pipeline.report", "run_report.html", values))


def _hero(runs: Sequence[ShownRun], images: Mapping[str, Gallery]) -> dict[str, object] | None:
    """The first screen's picture: an image, its label, and what the first run with images says."""
    return next(
        (_pictures(run, images[str(run.path)].first) for run in runs if str(run.path) in images),
        None,
    )


def _costs(run: ShownRun, gallery: Gallery | None) -> list[dict[str, str]]:
    """A line of the table of costs for the student of a run and one for its teacher."""
    if gallery is None:
        return []
    costs = {run.name: gallery.cost, f"{run.name}: its teacher": gallery.teacher_cost}
    return [
        {
            "name": name,
            "milliseconds": _rounded(cost.milliseconds),
            "megabytes": _rounded(cost.megabytes),
            "how": cost.how,
        }
        for name, cost in costs.items()
        if cost is not None
    ]


def _rounded(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _peeked(runs: Sequence[ShownRun]) -> list[str]:
    """A sentence for each run whose validations looked at labels of unseen classes."""
    return [
        f"{run.name}: {text}."
        for run in runs
        if (text := next(filter(None, map(checkpoint_text, run.results)), None))
    ]


def _charts(runs: Sequence[ShownRun]) -> list[str]:
    """The losses, and the validations of each kind."""
    charts = [curves("loss", {run.name: run.losses for run in runs if run.losses})]
    watched = [(run.name, run.validation) for run in runs if run.validation is not None]
    for score in dict.fromkeys(each.score for _, each in watched):
        series = {name: each.points for name, each in watched if each.score == score}
        charts.append(curves(f"validation: {score}, percent", series))
    return [chart for chart in charts if chart]


def _figures(run: ShownRun, result: EvaluationResult | None) -> dict[str, object] | None:
    if result is None:
        return None
    means = result.means
    named = ("hIoU", "sIoU", "uIoU") if result.has_groups else ("mIoU", "pAcc")
    gamma = result.settings.get("calibration") or 0
    return {
        "numbers": [{"name": name, "value": percent(means[name])} for name in named],
        "what": f"{result.images} images of {result.dataset} {result.split}, "
        f"{run.record.config.protocol}, gamma {gamma:g}, {_steps(run, result)}; "
        "in percent, all classes in one argmax",
    }


def _steps(run: ShownRun, result: EvaluationResult) -> str:
    """How long the student was trained, and which checkpoint it is where there is a choice."""
    steps, which = run.record.config.train.steps, result.settings.get("checkpoint")
    if which is None:
        return f"{steps} steps"
    return f"the {which} checkpoint, of step {result.settings['step']} of {steps}"


def _rows(run: ShownRun) -> list[dict[str, object]]:
    """A line of the table of scores for each result of a run, and of its teacher."""
    rows: list[dict[str, object]] = []
    for result in (*run.results, *run.teacher):
        means = result.means
        cells = [percent(means[name]) if name in means else "-" for name in _SCORES]
        gamma = f"{result.settings.get('calibration') or 0:g}"
        name = run.name if result.subject == "student" else f"{run.name}: its teacher alone"
        rows.append(
            {
                "name": name,
                "about": f"{run.record.experiment}, {run.record.config.protocol}, seed "
                f"{run.record.config.train.seed}",
                "split": f"{result.dataset} {result.split}, {result.images} images",
                "gamma": gamma,
                "cells": cells,
            }
        )
    return rows


def _bars(runs: Sequence[ShownRun]) -> list[dict[str, object]]:
    """IoU of each class by run, unseen classes first; runs of the first one's classes only."""
    scored = [run for run in runs if run.results]
    if not scored:
        return []
    classes = scored[0].results[0].classes
    spec = scored[0].record.dataset
    palette = name_colours(classes, spec)
    of_run = [
        {row.name: row for row in class_rows(run.results[0])}
        for run in scored
        if run.results[0].classes == classes
    ]
    order = sorted(range(len(classes)), key=lambda i: not of_run[0][classes[i]].unseen)
    return [
        {
            "name": classes[i],
            "unseen": of_run[0][classes[i]].unseen,
            "colour": "#{:02x}{:02x}{:02x}".format(*palette[i]),
            "values": [
                {"text": percent(rows[classes[i]].iou), "width": _width(rows[classes[i]].iou)}
                for rows in of_run
            ],
        }
        for i in order
    ]


def _width(share: float) -> str:
    return "0" if np.isnan(share) else f"{100 * share:.1f}"


def _confusion(result: EvaluationResult) -> dict[str, object]:
    """Shares of each class's pixels by what they are called, unseen classes first."""
    unseen = set(result.unseen)
    order = sorted(range(len(result.classes)), key=lambda i: result.classes[i] not in unseen)
    count_CC = result.confusion_CC[np.ix_(order, order)].astype(np.float64)
    share_CC = count_CC / np.maximum(count_CC.sum(1, keepdims=True), 1)
    names = [result.classes[i] for i in order]
    return {
        "names": names,
        "rows": [
            {
                "name": name,
                "unseen": name in unseen,
                "cells": [
                    {"text": f"{100 * share:.0f}" if share >= 0.005 else "", "ink": f"{share:.2f}"}
                    for share in share_C
                ],
            }
            for name, share_C in zip(names, share_CC, strict=True)
        ],
    }


def _gallery(run: ShownRun, gallery: Gallery) -> dict[str, object]:
    """The images of a split, and those of training where they are there."""
    rows = [_pictures(run, each) for each in gallery.images]
    teacher = f"; the teacher's labels are from its {gallery.teacher}" if gallery.teacher else ""
    training = gallery.training
    return {
        "name": run.name,
        "how": f"{gallery.how}; without gamma{teacher}",
        "rows": rows,
        "training": None
        if training is None
        else {
            "how": training.how,
            "rows": [_training(run, each) for each in training.images],
        },
    }


def _training(run: ShownRun, shown: TrainingImage) -> dict[str, object]:
    maps = {
        "labels that training sees": shown.visible_HW,
        "pseudo labels": shown.pseudo_HW,
        "teacher": shown.teacher_HW,
    }
    return _cells(run, shown.id, shown.image_HW3, maps)


def _pictures(run: ShownRun, shown: ReportImage) -> dict[str, object]:
    """The image, its label, the teacher's and the student's; what there is not is left out."""
    maps = {"label": shown.truth_HW, "teacher": shown.teacher_HW, "student": shown.label_HW}
    right = "" if np.isnan(shown.right) else f"{100 * shown.right:.1f} % of the pixels are right"
    return {**_cells(run, shown.id, shown.image_HW3, maps), "right": right}


def _cells(
    run: ShownRun,
    name: str,
    image_HW3: NDArray[np.uint8],
    label_maps: Mapping[str, NDArray[np.uint8] | None],
) -> dict[str, object]:
    """The image alone, and under each of the label maps that there are."""
    spec = run.record.dataset
    palette = name_colours(spec.classes, spec)
    maps = {what: each for what, each in label_maps.items() if each is not None}
    present = np.unique(np.concatenate([label_HW.ravel() for label_HW in maps.values()]))
    return {
        "id": name,
        "cells": [
            {"name": "image", "jpeg": _jpeg(image_HW3)},
            *(
                {"name": what, "jpeg": _jpeg(overlay(image_HW3, each, palette, alpha=0.6))}
                for what, each in maps.items()
            ),
        ],
        "keys": [
            {"name": label, "colour": "#{:02x}{:02x}{:02x}".format(*palette[i])}
            for i, label in enumerate(spec.classes)
            if i in present
        ],
    }


def _jpeg(image_HW3: NDArray[np.uint8]) -> str:
    scale = min(1.0, _WIDE / max(image_HW3.shape[:2]))
    size = tuple(max(1, round(side * scale)) for side in image_HW3.shape[:2])
    return base64.b64encode(jpeg_bytes(resize_image(image_HW3, (size[0], size[1])))).decode()


def _settings(run: ShownRun) -> dict[str, object]:
    return {
        "name": run.name,
        "experiment": run.record.experiment,
        "teacher": run.record.teacher,
        "changes": run.changes,
    }


def _commands(run: ShownRun) -> list[str]:
    record = run.record
    plan = run.path / PLAN_FILE
    config = str(plan) if plan.is_file() else record.experiment
    words = ["zsseg", "train", "--cache", record.store, "--config", config]
    split = run.results[0].split if run.results else "val"
    return [
        shlex.join([*words, "--out", str(run.path)]),
        shlex.join(["zsseg", "evaluate", "--run", str(run.path), "--split", split]),
        f"{shlex.join(['zsseg', 'predict', '--run', str(run.path)])} IMAGES --out predictions",
    ]
