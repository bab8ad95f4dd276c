"""A comparison of runs as tables for the screen, as JSON and as CSV.

On the screen scores are in percent; in JSON and CSV they, and the published figures, are fractions
of 1.
"""

import csv
import io
import math
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from zsseg.pipeline.compare.comparison import Comparison, MeanRow, ResultRow, shown_scores
from zsseg.pipeline.compare.published import PublishedFigure
from zsseg.pipeline.tables import percent
from zsseg.stages.evaluate.result import EvaluationResult

SCORES = ("hIoU", "sIoU", "uIoU", "mIoU", "pAcc")
_FACTS = (
    "experiment",
    "protocol",
    "student",
    "steps",
    "seed",
    "gamma",
    "variant",
    "images",
    "trained_on",
)


def run_table(comparison: Comparison) -> Table:
    """One line per result of a run, one per mean over seeds, one per teacher; in percent."""

    def shares(hiou: float) -> list[str]:
        return [percent(share) for share in comparison.shares(hiou).values()]

    table = Table(box=None)
    of_ceilings = [f"of {name}" for name in comparison.ceilings]
    for name in ("run", *_FACTS[:-1], *SCORES, *of_ceilings):
        table.add_column(name, no_wrap=True)
    for row in comparison.rows:
        scores = [percent(row.scores[name]) for name in SCORES]
        table.add_row(str(row.run), *_shown(_facts(row)), *scores, *shares(row.scores["hIoU"]))
    table.add_section()
    for mean in comparison.means:
        facts = _facts(mean.rows[0]) | {"seed": " ".join(map(str, _seeds(mean)))}
        scores = [_spread(mean.mean[name], mean.deviation[name]) for name in SCORES]
        scores += shares(mean.mean["hIoU"])
        table.add_row(f"mean, n = {len(mean.rows)}", *_shown(facts), *scores)
    table.add_section()
    for teacher in comparison.teachers:
        cells = dict.fromkeys(_FACTS[:-1], "-") | {"images": str(teacher.images)}
        means = shown_scores(teacher)
        scores = [*map(percent, means.values()), *shares(means["hIoU"])]
        name = ", ".join(["teacher alone", *_of_what(teacher), teacher.source])
        table.add_row(name, *cells.values(), *scores)
    return table


def _of_what(teacher: EvaluationResult) -> list[str]:
    """What of the teacher was scored, where its store has more than dense tokens."""
    return [str(teacher.settings["from"])] if "from" in teacher.settings else []


def _spread(mean: float, deviation: float) -> str:
    return "-" if math.isnan(mean) else f"{percent(mean)} ± {percent(deviation)}"


def published_table(figures: tuple[PublishedFigure, ...]) -> Table:
    """One line per published system, in percent; ≈ marks inferred figures."""
    table = Table("system", box=None)
    for name in SCORES:
        table.add_column(name, no_wrap=True)
    for name in ("source", "note"):
        table.add_column(name)
    for figure in figures:
        about = "≈" if figure.inferred else ""
        values = [getattr(figure, name) for name in SCORES]
        shown = ["-" if value is None else f"{about}{value:.1f}" for value in values]
        table.add_row(figure.system, *shown, figure.source, "; ".join(figure.notes))
    return table


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain JSON values; null stands for what is not defined or not published."""
    return {
        "dataset": comparison.dataset,
        "split": comparison.split,
        "ceilings": dict(comparison.ceilings),
        "runs": [
            {
                "run": str(row.run),
                **_facts(row),
                "scores": _defined(row.scores),
                "of_ceilings": _defined(comparison.shares(row.scores["hIoU"])),
            }
            for row in comparison.rows
        ],
        "means": [
            {
                **{name: value for name, value in _facts(mean.rows[0]).items() if name != "seed"},
                "runs": [str(row.run) for row in mean.rows],
                "seeds": _seeds(mean),
                "n": len(mean.rows),
                "mean": _defined(mean.mean),
                "deviation": _defined(mean.deviation),
                "of_ceilings": _defined(comparison.shares(mean.mean["hIoU"])),
            }
            for mean in comparison.means
        ],
        "teachers": [
            {
                "store": each.source,
                "from": each.settings.get("from"),
                "images": each.images,
                "scores": _defined(shown_scores(each)),
                "of_ceilings": _defined(comparison.shares(shown_scores(each)["hIoU"])),
            }
            for each in comparison.teachers
        ],
        "published": {
            protocol: [
                {
                    "system": figure.system,
                    "scores": _defined(_shares(figure)),
                    "inferred": figure.inferred,
                    "source": figure.source,
                    "notes": list(figure.notes),
                }
                for figure in figures
            ]
            for protocol, figures in comparison.published.items()
        },
    }


def comparison_csv(comparison: Comparison) -> str:
    """Runs, means, teachers and published figures, told apart by the column `kind`."""

    def shares(hiou: float) -> dict[str, str]:
        return _cells({f"of {name}": share for name, share in comparison.shares(hiou).items()})

    of_ceilings = tuple(f"of {name}" for name in comparison.ceilings)
    deviations = tuple(f"{name} deviation" for name in SCORES)
    table = io.StringIO()
    columns = ("kind", "name", *_FACTS, *SCORES, *of_ceilings, "n", *deviations, "source", "notes")
    writer = csv.DictWriter(table, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in comparison.rows:
        cells = _cells(row.scores) | shares(row.scores["hIoU"])
        writer.writerow({"kind": "run", "name": row.run, **_joined(_facts(row)), **cells})
    for mean in comparison.means:
        named = {f"{name} deviation": value for name, value in mean.deviation.items()}
        writer.writerow(
            {
                "kind": "mean",
                "name": mean.rows[0].record.experiment,
                **_joined(_facts(mean.rows[0])),
                "seed": " ".join(map(str, _seeds(mean))),
                "n": len(mean.rows),
                **_cells(mean.mean),
                **shares(mean.mean["hIoU"]),
                **_cells(named),
            }
        )
    for teacher in comparison.teachers:
        writer.writerow(_teacher_cells(teacher) | shares(shown_scores(teacher)["hIoU"]))
    for protocol, figures in comparison.published.items():
        for figure in figures:
            notes = (*figure.notes, "inferred") if figure.inferred else figure.notes
            writer.writerow(
                {
                    "kind": "published",
                    "name": figure.system,
                    "protocol": protocol,
                    **_cells(_shares(figure)),
                    "source": figure.source,
                    "notes": "; ".join(notes),
                }
            )
    return table.getvalue()


def _teacher_cells(teacher: EvaluationResult) -> dict[str, Any]:
    scores = _cells(shown_scores(teacher))
    name = " ".join([teacher.source, *_of_what(teacher)])
    return {"kind": "teacher", "name": name, "images": teacher.images, **scores}


def _facts(row: ResultRow) -> dict[str, Any]:
    """Settings and facts that tell one row from another, by column."""
    config, result = row.record.config, row.result
    return {
        "experiment": row.record.experiment,
        "protocol": config.protocol,
        "student": f"{config.student.architecture}/{config.student.encoder}",
        "steps": result.settings["step"],
        "seed": config.train.seed,
        "gamma": result.settings["calibration"],
        "variant": list(result.variant),
        "images": result.images,
        "trained_on": result.trained_on,
    }


def _joined(facts: dict[str, Any]) -> dict[str, Any]:
    return facts | {"variant": " ".join(facts["variant"])}


def _shown(facts: dict[str, Any]) -> list[str]:
    """Cells in the order of the columns; gamma has one of its own, images trained on have none."""
    words = [word for word in facts["variant"] if not word.startswith("gamma")]
    shown = facts | {"variant": " ".join(words), "gamma": f"{facts['gamma']:g}"}
    if facts["trained_on"]:
        shown["images"] = f"{facts['images']}, {facts['trained_on']} trained on"
    return [str(shown[name]) for name in _FACTS[:-1]]


def _seeds(mean: MeanRow) -> list[int]:
    return [row.record.config.train.seed for row in mean.rows]


def _shares(figure: PublishedFigure) -> dict[str, float]:
    """Published figures as fractions of 1; NaN where there is none."""
    values = {name: getattr(figure, name) for name in SCORES}
    # Rounded: 51.9 / 100 must not become 0.5189999.
    return {n: math.nan if value is None else round(value / 100, 5) for n, value in values.items()}


def _defined(scores: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in scores.items()}


def _cells(scores: Mapping[str, float]) -> dict[str, str]:
    return {name: "" if math.isnan(value) else f"{value:.4f}" for name, value in scores.items()}
