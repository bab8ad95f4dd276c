"""`zsseg ablate`: the tables of the papers, from one cache."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from zsseg.pipeline import console
from zsseg.pipeline.cli.options import CacheFolder, Exit, MovedRoot, Quiet, Settings


def ablate(
    table: Annotated[
        str, typer.Argument(help="II, III, IV or V of paper 1, or c2s: the parts of paper 2.")
    ],
    cache: CacheFolder = Path("data_cache"),
    config: Annotated[
        str | None,
        typer.Option(
            help="Experiment that the rows change: a name or a file. \\[default: the table's]"
        ),
    ] = None,
    root: MovedRoot = None,
    split: Annotated[str, typer.Option(help="Split to score.")] = "val",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0 to N - 1 of every row.")] = 3,
    calibration: Annotated[
        float | None,
        typer.Option(
            min=0, help="gamma of every row, beside gamma 0. \\[default: the experiment's]"
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder of the runs and of the tables.", show_default=True)
    ] = Path("runs/ablations"),
    settings: Settings = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the runs and how far they are, and stop.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Run the rows of a paper's table, and set what they give beside what the paper has.

    Start it again to go on where it stopped. Started twice at the same time, both share the work.
    Rows that several tables have in common are trained once.
    """
    console.configure_logging(quiet=quiet)
    from zsseg.pipeline.ablate.runs import (
        Bench,
        check_split,
        check_stores,
        state_of,
        update_table,
        work_on,
    )
    from zsseg.pipeline.ablate.table_plan import (
        elsewhere,
        plan,
        read_table,
        table_name,
        table_stem,
        unique_runs,
    )
    from zsseg.pipeline.ablate.table_report import Header, markdown
    from zsseg.pipeline.named_stores import dataset_root, stored_spec, training_store
    from zsseg.stages.cache.reader import Store
    from zsseg.stages.yaml_files import builtin_names

    name = table_name(table)
    chosen = read_table(name)
    experiment, changes = config or chosen.base, settings or []
    rows = plan(
        chosen,
        experiment=experiment,
        settings=changes,
        calibration=calibration,
        seeds=seeds,
        out=out,
    )
    runs = unique_runs(rows)
    store = Store.open(training_store(cache))
    check_stores(list(runs), store)
    if dry_run:
        others = [each for each in builtin_names("ablations") if each != name]
        shared = elsewhere(others, experiment=experiment, settings=changes, seeds=seeds, out=out)
        for run, names in runs.items():
            also = f"; also {', '.join(found)}" if (found := shared.get(run.folder)) else ""
            text = f"{run.folder}  {state_of(run, split)}  {' = '.join(names)}{also}"
            console.out.print(text, markup=False, soft_wrap=True)
        return
    spec = stored_spec(store)
    bench = Bench(store, spec, dataset_root(root, store), split, Path(experiment).stem)
    check_split(bench)
    header = Header(
        table=name,
        experiment=experiment,
        dataset=spec.name,
        split=split,
        seeds=seeds,
        store=store.path.name,
        store_fingerprint=store.fingerprint,
        revisions=(),
        command=_command(
            name,
            {
                "cache": cache,
                "config": experiment,
                "root": root,
                "split": split,
                "seeds": seeds,
                "calibration": calibration,
                "out": out,
            },
            changes,
        ),
    )
    stem = out / table_stem(
        name, chosen, experiment=experiment, split=split, calibration=calibration, settings=changes
    )
    update_table(stem, header, chosen, rows, {})
    failures = work_on(
        rows,
        bench,
        after_run=lambda failed: update_table(stem, header, chosen, rows, failed),
        quiet=quiet,
    )
    header, measured = update_table(stem, header, chosen, rows, failures)
    console.out.print(markdown(header, chosen, measured), markup=False, soft_wrap=True)
    console.out.print(f"written: {stem}.md, .json, .csv", soft_wrap=True)
    if failures:
        raise typer.Exit(Exit.SKIPPED)


def _command(table: str, options: Mapping[str, object], settings: Sequence[str]) -> str:
    """The command that makes the table again; options of None are left out."""
    words = ["zsseg", "ablate", table]
    for name, value in options.items():
        words += [] if value is None else [f"--{name}", str(value)]
    for setting in settings:
        words += ["--set", setting]
    return shlex.join(words)
