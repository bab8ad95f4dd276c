"""A table's figures beside the paper's, as Markdown, JSON and CSV.

All figures are in percent, as the papers print them.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zsseg.pipeline.ablate.orders import Ordering, Statistic, orderings
from zsseg.pipeline.ablate.table_plan import (
    AblationRequest,
    AblationTable,
    Figures,
    PlannedRow,
)
from zsseg.stages.cache.disk.durable import write_durably
from zsseg.stages.cache.reader import Store
from zsseg.stages.evaluate.result import EvaluationResult
from zsseg.stages.printable import counted

MEANS = ("hIoU", "sIoU", "uIoU")
_OF_ALL = ("mIoU",)
"""What is defined where all classes are seen, or all unseen."""


@dataclass(frozen=True)
class Header:
    """The facts above a table: what its figures were made with."""

    table: str
    experiment: str
    dataset: str
    split: str
    seeds: int
    store: str
    store_fingerprint: str
    revisions: tuple[str, ...]
    """git revisions of the code that trained the runs."""
    command: str


def header_of(table: str, request: AblationRequest, store: Store, *, command: str) -> Header:
    """The header of a table that none of whose runs is trained yet."""
    return Header(
        table=table,
        experiment=request.experiment,
        dataset=store.info["spec"]["name"],
        split=request.split,
        seeds=request.seeds,
        store=store.path.name,
        store_fingerprint=store.fingerprint,
        revisions=(),
        command=command,
    )


@dataclass(frozen=True)
class MeasuredRow:
    """A row of the table with the scores that are there so far."""

    name: str
    paper: Figures | None
    notes: str
    settings: tuple[str, ...]
    seeds: int
    """How many seeds are scored."""
    folders: tuple[str, ...]
    scores: Mapping[float, Mapping[str, Statistic]]
    """gamma -> hIoU, sIoU, uIoU (mIoU alone where these are not defined) -> figures over seeds."""
    trained_on: int
    """Images that were scored and trained on: the most of a seed."""
    failures: Mapping[int, str]
    """Seed -> why it has no figures."""


def measured(
    planned: Sequence[PlannedRow],
    results: Mapping[Path, Sequence[EvaluationResult]],
    failures: Mapping[Path, str],
    *,
    gammas: Sequence[float],
) -> list[MeasuredRow]:
    """The rows with the results of their runs, by run folder; one result per gamma, in order."""
    grouped = all(result.has_groups for each in results.values() for result in each)
    means = MEANS if grouped else _OF_ALL
    rows = []
    for row in planned:
        scored = {
            run.config.train.seed: results[run.folder] for run in row.runs if run.folder in results
        }
        scores = {
            gamma: {
                name: _statistic({seed: each[i] for seed, each in scored.items()}, name)
                for name in means
            }
            for i, gamma in enumerate(gammas)
        }
        rows.append(
            MeasuredRow(
                name=row.row.name,
                paper=row.row.paper,
                notes=row.row.notes,
                settings=row.row.set,
                seeds=len(scored),
                folders=tuple(str(run.folder) for run in row.runs),
                scores=scores,
                trained_on=max((each[0].trained_on or 0 for each in scored.values()), default=0),
                failures={
                    run.config.train.seed: failures[run.folder]
                    for run in row.runs
                    if run.folder in failures
                },
            )
        )
    return rows


def _statistic(results: Mapping[int, EvaluationResult], name: str) -> Statistic:
    values = {seed: 100 * getattr(each.scores, name.lower()) for seed, each in results.items()}
    defined = {seed: value for seed, value in values.items() if not math.isnan(value)}
    return Statistic(tuple(defined.values()), tuple(defined))


def table_orderings(rows: Sequence[MeasuredRow], gamma: float) -> list[Ordering]:
    """The orderings of a table's rows under one gamma; none where hIoU is not defined."""
    if "hIoU" not in rows[0].scores[gamma]:
        return []
    paper = {row.name: row.paper.hIoU for row in rows if row.paper is not None}
    means = {row.name: row.scores[gamma]["hIoU"] for row in rows}
    return orderings(
        paper,
        {name: dict(zip(each.seeds, each.values, strict=True)) for name, each in means.items()},
    )


def markdown(header: Header, table: AblationTable, rows: Sequence[MeasuredRow]) -> str:
    """The table and its orderings as Markdown, padded so that it also reads well as plain text."""
    gammas = list(rows[0].scores)
    facts = {
        "Source": table.source,
        "Base": f"`{header.experiment}`",
        "Data": f"{header.dataset}, trained on the store `{header.store}` (fingerprint "
        f"{header.store_fingerprint}), scored on `{header.split}`",
        "Seeds": f"{header.seeds}; mean ± standard deviation (n - 1) of those that are scored",
        "Code": ", ".join(header.revisions) or "-",
        "Command": f"`{header.command}`",
    }
    lines = [f"# Table {header.table}: {table.title}", ""]
    lines += [f"- {name}: {text}" for name, text in facts.items()]
    lines += [f"- {note}" for note in table.notes]
    labels = ["" if len(gammas) == 1 else f", gamma {gamma:g}" for gamma in gammas]
    names = tuple(rows[0].scores[gammas[0]])
    columns = ["row", "seeds", *(f"{name}{label}" for label in labels for name in names)]
    columns += [f"paper {name}" for name in MEANS]
    lines += ["", "Percent.", "", *grid_lines(columns, [_cells(row, header.seeds) for row in rows])]
    lines += _remarks(rows)
    for gamma, label in zip(gammas, labels, strict=True):
        lines += ["", f"## Orderings by hIoU{label}", ""]
        if pairs := table_orderings(rows, gamma):
            columns = ["the paper's order", "paper", "ours", "spread", "verdict"]
            lines += grid_lines(columns, [_ordering_cells(pair) for pair in pairs])
            lines += ["", "Points. Spread: that of a difference of two runs, √(s₁² + s₂²)."]
        elif names != MEANS:
            lines.append("None: hIoU is not defined where all classes are seen, or all unseen.")
        elif any(row.paper for row in rows):
            lines.append("None yet: fewer than two rows are scored.")
        else:
            lines.append("None: there are no figures of the paper to compare with.")
    return "\n".join(lines) + "\n"


def _cells(row: MeasuredRow, seeds: int) -> list[str]:
    nothing = "failed" if len(row.failures) == seeds else "-"
    shown = [
        _figure(statistic, nothing)
        for figures in row.scores.values()
        for statistic in figures.values()
    ]
    paper = [f"{getattr(row.paper, name):.1f}" if row.paper else "-" for name in MEANS]
    return [row.name, f"{row.seeds} of {seeds}", *shown, *paper]


def _figure(statistic: Statistic, nothing: str) -> str:
    if statistic.mean is None:
        return nothing
    if statistic.deviation is None:
        return f"{statistic.mean:.1f}"
    return f"{statistic.mean:.1f} ± {statistic.deviation:.1f}"


def _remarks(rows: Sequence[MeasuredRow]) -> list[str]:
    remarks = [f"- {row.name}: {row.notes}" for row in rows if row.notes]
    remarks += [
        f"- {row.name}: scored on {counted(row.trained_on, 'image')} that it was trained on."
        for row in rows
        if row.trained_on
    ]
    remarks += [
        f"- {row.name}, seed {seed}: failed. {reason}"
        for row in rows
        for seed, reason in row.failures.items()
    ]
    return ["", *remarks] if remarks else []


def _ordering_cells(pair: Ordering) -> list[str]:
    spread = "-" if pair.spread is None else f"{pair.spread:.1f}"
    order = f"{pair.lower} < {pair.higher}"
    return [order, f"{pair.paper:+.1f}", f"{pair.ours:+.1f}", spread, pair.verdict]


def grid_lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table whose columns are padded to one width."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    lines = [columns, ["-" * width for width in widths], *rows]
    return [
        "| " + " | ".join(f"{cell:<{w}}" for cell, w in zip(cells, widths, strict=True)) + " |"
        for cells in lines
    ]


def as_json(header: Header, table: AblationTable, rows: Sequence[MeasuredRow]) -> dict[str, Any]:
    """The whole table as plain JSON values; null where there is no figure."""
    return {
        **asdict(header),
        "title": table.title,
        "source": table.source,
        "notes": list(table.notes),
        "rows": [
            {
                "name": row.name,
                "set": list(row.settings),
                "notes": row.notes,
                "paper": row.paper.model_dump() if row.paper else None,
                "folders": list(row.folders),
                "trained_on": row.trained_on,
                "failures": {str(seed): reason for seed, reason in row.failures.items()},
                "scores": [
                    {
                        "gamma": gamma,
                        **{
                            name: {
                                "mean": statistic.mean,
                                "deviation": statistic.deviation,
                                "seeds": list(statistic.values),
                            }
                            for name, statistic in figures.items()
                        },
                    }
                    for gamma, figures in row.scores.items()
                ],
            }
            for row in rows
        ],
        "orderings": [
            {"gamma": gamma, **asdict(pair)}
            for gamma in rows[0].scores
            for pair in table_orderings(rows, gamma)
        ],
    }


def as_csv(rows: Sequence[MeasuredRow]) -> str:
    """One line per row and gamma; a cell is empty where there is no figure."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = tuple(next(iter(rows[0].scores.values())))
    figures = [f"{name} {kind}" for name in names for kind in ("mean", "deviation", "paper")]
    writer.writerow(["row", "gamma", "seeds", *figures])
    for row in rows:
        for gamma, scores in row.scores.items():
            values: list[float | None] = []
            for name in names:
                paper = getattr(row.paper, name, None)
                values += [scores[name].mean, scores[name].deviation, paper]
            cells = ["" if value is None else f"{value:.2f}" for value in values]
            writer.writerow([row.name, f"{gamma:g}", row.seeds, *cells])
    return text.getvalue()


def write_table(
    stem: Path, header: Header, table: AblationTable, rows: Sequence[MeasuredRow]
) -> None:
    """Write `stem` with .md, .json and .csv, each whole or not at all."""
    text = json.dumps(as_json(header, table, rows), ensure_ascii=False, allow_nan=False, indent=1)
    contents = {
        ".md": markdown(header, table, rows),
        ".json": f"{text}\n",
        ".csv": as_csv(rows),
    }
    for suffix, content in contents.items():
        write_durably(stem.with_name(stem.name + suffix), content.encode(errors="backslashreplace"))
