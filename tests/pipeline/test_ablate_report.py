"""The text of an ablation's table, and which orders it finds to hold."""

import json
import math
from dataclasses import replace

import pytest

from zsseg.pipeline.ablate.orders import Statistic, orderings
from zsseg.pipeline.ablate.table_plan import AblationTable, Figures, TableRow
from zsseg.pipeline.ablate.table_report import Header, MeasuredRow, as_csv, as_json, markdown

HEADER = Header(
    table="II",
    experiment="sdd_rst",
    dataset="tiny-world",
    split="val",
    seeds=2,
    store="tiny",
    store_fingerprint="ab" * 16,
    revisions=("1234567", "89abcde-dirty"),
    command="zsseg ablate II",
)
PAPER = {
    "B": Figures(hIoU=58.0, sIoU=52.6, uIoU=64.5),
    "B + SDD": Figures(hIoU=59.3, sIoU=53.4, uIoU=66.9),
}
TABLE = AblationTable(
    title="Parts",
    source="paper 1, Table II",
    base="sdd_rst",
    notes=("Not under one setting.",),
    rows=tuple(TableRow(name=name, paper=figures) for name, figures in PAPER.items()),
)


def row(
    name: str, *hious: float, paper: bool = True, failures: dict[int, str] | None = None
) -> MeasuredRow:
    each = Statistic(hious, tuple(range(len(hious))))
    figures = {"hIoU": each, "sIoU": each, "uIoU": Statistic(())}
    return MeasuredRow(
        name=name,
        paper=PAPER[name] if paper else None,
        notes="",
        settings=(),
        seeds=len(hious),
        folders=(),
        scores={0.0: figures},
        trained_on=0,
        failures=failures or {},
    )


@pytest.mark.parametrize(
    ("lower", "higher", "ours", "spread", "verdict"),
    [
        ((10.0, 12.0), (30.0, 30.0), 19.0, math.sqrt(2), "holds"),
        ((10.0, 12.0), (12.0, 12.0), 1.0, math.sqrt(2), "holds within the spread"),
        ((30.0, 30.0), (10.0, 12.0), -19.0, math.sqrt(2), "reversed"),
        ((12.0, 12.0), (10.0, 12.0), -1.0, math.sqrt(2), "reversed within the spread"),
        ((3.0, 4.0, 5.0), (10.0, 13.0, 16.0), 9.0, math.sqrt(10), "holds"),
        ((1.0,), (2.0, 3.0), 1.0, None, "holds, spread unknown"),  # the seed that both have
        ((2.0,), (1.0,), -1.0, None, "reversed, spread unknown"),
        ((0.0, 0.0), (0.0, 0.0), 0.0, 0.0, "equal"),
    ],
)
def test_an_order_holds_or_not(
    lower: tuple[float, ...],
    higher: tuple[float, ...],
    ours: float,
    spread: float | None,
    verdict: str,
) -> None:
    by_seed = {"low": dict(enumerate(lower)), "high": dict(enumerate(higher))}
    (pair,) = orderings({"high": 60.0, "low": 50.0}, by_seed)
    assert (pair.lower, pair.higher, pair.paper) == ("low", "high", 10.0)
    assert pair.ours == pytest.approx(ours)
    assert pair.spread == (spread if spread is None else pytest.approx(spread))
    assert pair.verdict == verdict


def test_every_pair_that_the_paper_orders_is_compared() -> None:
    paper = {"a": 1.0, "b": 3.0, "c": 2.0, "equal to a": 1.0, "not run": 9.0}
    ours = {name: {0: 1.0} for name in ("a", "b", "c", "equal to a", "ours")} | {"not run": {}}
    found = [(pair.lower, pair.higher) for pair in orderings(paper, ours)]
    assert found == [("a", "b"), ("a", "c"), ("c", "b"), ("equal to a", "b"), ("equal to a", "c")]


def test_rows_are_compared_on_the_seeds_that_both_have() -> None:
    paper = {"low": 1.0, "high": 2.0, "other": 3.0}
    ours = {"low": {0: 10.0, 1: 50.0}, "high": {0: 20.0, 2: 0.0}, "other": {3: 5.0}}
    (pair,) = orderings(paper, ours)
    assert (pair.lower, pair.higher, pair.ours) == ("low", "high", 10.0)


def test_the_table_as_markdown() -> None:
    text = markdown(HEADER, TABLE, [row("B", 10.0, 12.0), row("B + SDD", 30.0)])
    grid = """\
| row     | seeds  | hIoU       | sIoU       | uIoU | paper hIoU | paper sIoU | paper uIoU |
| ------- | ------ | ---------- | ---------- | ---- | ---------- | ---------- | ---------- |
| B       | 2 of 2 | 11.0 ± 1.4 | 11.0 ± 1.4 | -    | 58.0       | 52.6       | 64.5       |
| B + SDD | 1 of 2 | 30.0       | 30.0       | -    | 59.3       | 53.4       | 66.9       |
"""
    assert grid in text
    assert "| B < B + SDD       | +1.3  | +20.0 | -      | holds, spread unknown |" in text
    for fact in ("paper 1, Table II", "`sdd_rst`", "ab" * 16, "1234567, 89abcde-dirty", "`val`"):
        assert fact in text
    assert "- Not under one setting." in text


def test_failures_and_missing_figures_in_every_form() -> None:
    bare = row("B", paper=False, failures={0: "step 3: nan", 1: "step 4: inf"})
    text = markdown(HEADER, TABLE, [bare, row("B + SDD", 30.0, 32.0, paper=False)])
    assert "| B       | 0 of 2 | failed     | failed     | failed | -  " in text
    assert "- B, seed 1: failed. step 4: inf" in text
    assert "no figures of the paper" in text
    values = as_json(HEADER, TABLE, [bare])
    json.dumps(values, allow_nan=False)
    assert values["rows"][0]["failures"] == {"0": "step 3: nan", "1": "step 4: inf"}
    assert values["rows"][0]["scores"][0]["hIoU"] == {"mean": None, "deviation": None, "seeds": []}
    assert as_csv([bare]).splitlines()[1] == "B,0,0,,,,,,,,,"


def test_one_group_of_classes_has_its_mean_over_all_only() -> None:
    """Where no class is seen hIoU is not defined: no column, no order, no 0."""
    figures = {0.0: {"mIoU": Statistic((30.0, 32.0), (0, 1))}}
    rows = [replace(row("B"), scores=figures), replace(row("B + SDD"), scores=figures)]
    text = markdown(HEADER, TABLE, rows)
    assert "| row     | seeds  | mIoU       | paper hIoU |" in text
    assert "| B       | 0 of 2 | 31.0 ± 1.4 | 58.0       |" in text
    assert "hIoU is not defined" in text
    assert as_json(HEADER, TABLE, rows)["orderings"] == []
    assert as_csv(rows).splitlines()[:2] == [
        "row,gamma,seeds,mIoU mean,mIoU deviation,mIoU paper",
        "B,0,0,31.00,1.41,",
    ]
