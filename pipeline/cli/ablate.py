"""`zsseg ablate`: the tables of the papers, from one cache."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zsseg.pipeline import console
from zsseg.pipeline.cli.options import CacheFolder, Exit, MovedRoot, Quiet, Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zsseg.pipeline.ablate.table_plan import AblationRequest, PlannedRow

Config = Annotated[
    str | None,
    typer.Option(
        help="Experiment that the rows change: a name or a file. \\[default: the table's]"
    ),
]
Calibration = Annotated[
    float | None,
    typer.Option(min=0, help="gamma of every row, beside gamma 0. \\[default: the experiment's]"),
]


def ablate(
    table: Annotated[
        str, typer.Argument(help="II, III, IV or V of paper 1, or c2s: the parts of paper 2.")
    ],
    cache: CacheFolder = Path("data_cache"),
    config: Config = None,
    root: MovedRoot = None,
    split: Annotated[str, typer.Option(help="Split to score.")] = "val",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0 to N - 1 of every row.")] = 3,
    calibration: Calibration = None,
    out: Annotated[
        Path, typer.Option(help="Folder of the runs and of the tables.", show_default=True)
    ] = Path("runs/ablations"),
    settings: Settings = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the runs and how far they are, and stop.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Train and score the rows of a paper's table, and print our figures beside the paper's.

    Start it again to go on where it stopped. Started twice at the same time, both share the work.
    Rows that several tables have in common are trained once.
    """
    console.configure_logging(quiet=quiet)
    from zsseg.pipeline.ablate import runs, table_plan, table_report
    from zsseg.pipeline.named_stores import dataset_root, stored_spec, training_store
    from zsseg.stages.cache.reader import Store

    name = table_plan.table_name(table)
    chosen = table_plan.read_table(name)
    request = table_plan.AblationRequest(
        experiment=config or chosen.base,
        settings=tuple(settings or ()),
        calibration=calibration,
        seeds=seeds,
        split=split,
        out=out,
    )
    rows = table_plan.plan(chosen, request)
    store = Store.open(training_store(cache))
    runs.check_stores(list(table_plan.unique_runs(rows)), store)
    if dry_run:
        _print_runs(name, request, rows)
        return
    spec = stored_spec(store)
    inputs = runs.RunInputs(store, spec, dataset_root(root, store), split, request.stem)
    runs.check_split(inputs)
    command = _command(name, request, cache=cache, root=root)
    header = table_report.header_of(name, request, store, command=command)
    stem = out / table_plan.table_stem(name, chosen, request)
    made, measured, failures = runs.make_table(stem, header, chosen, rows, inputs, quiet=quiet)
    lines = table_report.markdown(made, chosen, measured).split("\n")
    console.out.print(*lines, sep="\n", soft_wrap=True)
    console.out.print(f"written: {stem}.md, .json, .csv", soft_wrap=True)
    if failures:
        raise typer.Exit(Exit.SKIPPED)


def _print_runs(name: str, request: "AblationRequest", rows: "Sequence[PlannedRow]") -> None:
    """One line per run: its folder, how far it is, and the rows that need it."""
    from zsseg.pipeline.ablate.run_state import state_of
    from zsseg.pipeline.ablate.table_plan import elsewhere, unique_runs
    from zsseg.stages.yaml_files import builtin_names

    shared = elsewhere([each for each in builtin_names("ablations") if each != name], request)
    for run, names in unique_runs(rows).items():
        also = f"; also {', '.join(found)}" if (found := shared.get(run.folder)) else ""
        text = f"{run.folder}  {state_of(run, request.split)}  {' = '.join(names)}{also}"
        console.out.print(text, soft_wrap=True)


def _command(table: str, request: "AblationRequest", *, cache: object, root: object) -> str:
    """The command that makes the table again; options that are None are left out."""
    options = {
        "cache": cache,
        "config": request.experiment,
        "root": root,
        "split": request.split,
        "seeds": request.seeds,
        "calibration": request.calibration,
        "out": request.out,
    }
    words = ["zsseg", "ablate", table]
    for name, value in options.items():
        words += [] if value is None else [f"--{name}", str(value)]
    for setting in request.settings:
        words += ["--set", setting]
    return shlex.join(words)
