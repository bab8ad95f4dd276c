"""`zsseg compare`: results of several runs side by side, with published figures."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from zsseg.pipeline import console


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs that were evaluated.")],
    split: Annotated[str, typer.Option(help="Split whose results are compared.")] = "val",
    mean: Annotated[
        bool,
        typer.Option(
            "--mean",
            help="Also mean ± standard deviation (n - 1) of runs that differ in their seed only.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Also write everything as CSV.")
    ] = None,
) -> None:
    """Put results of `zsseg evaluate` side by side, above those of published systems."""
    console.configure_logging(quiet=as_json)
    from zsseg.pipeline.compare.comparison import compare_runs
    from zsseg.pipeline.compare.comparison_tables import (
        comparison_csv,
        comparison_json,
        published_table,
        run_table,
    )
    from zsseg.pipeline.tables import percent
    from zsseg.stages.cache.disk.durable import write_durably

    comparison = compare_runs(runs, split, mean=mean)
    if as_json:
        sys.stdout.write(json.dumps(comparison_json(comparison), allow_nan=False) + "\n")
    else:
        console.out.print(f"{comparison.dataset} {split}, in percent", "", sep="\n")
        console.print_whole(run_table(comparison))
        for name, ceiling in comparison.ceilings.items():
            console.out.print(
                f"of {name}: share of its hIoU {percent(ceiling)}, where no class is unseen in "
                "training",
                soft_wrap=True,
            )
        for protocol, figures in comparison.published.items():
            task = f"{comparison.dataset} {split}, {protocol}"
            if figures:
                console.out.print("", f"published for {task} (≈: inferred)", "", sep="\n")
                console.print_whole(published_table(figures), widest=120)
            else:
                console.out.print("", f"no published figures for {task}", sep="\n")
        if mean and not comparison.means:
            text = "no mean: no two of these results differ in their seed only"
            console.out.print("", text, sep="\n")
    # Printed before it is written: the comparison is not lost if the file cannot be written.
    if csv_file is not None:
        write_durably(csv_file, comparison_csv(comparison).encode(errors="backslashreplace"))
        if not as_json:
            console.out.print(f"written: {csv_file}", soft_wrap=True)
