"""`zsseg tune`: chooses settings without a label of an unseen class."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zsseg.pipeline import console
from zsseg.pipeline.cli.options import CacheFolder, Exit, MovedRoot, MovedTeacher, Quiet, Settings
from zsseg.pipeline.cli.signals import ended_by_sigterm
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.printable import counted

if TYPE_CHECKING:
    from zsseg.pipeline.tune.candidates import TuneRequest
    from zsseg.pipeline.tune.tune_plan import Hiding, TunePlan

Configs = Annotated[
    list[str] | None,
    typer.Option("--config", help="Experiment by name, or a YAML file; several are compared."),
]
Tries = Annotated[
    list[str] | None,
    typer.Option(
        "--try",
        metavar="A.B=C,D",
        help="Values of a setting. Of several settings, every combination is tried.",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(min=1, help="Steps of every training. \\[default: the experiment's]"),
]
Hide = Annotated[
    list[str] | None,
    typer.Option(metavar="CLASS,CLASS", help="Seen classes that a fold hides; once for each fold."),
]
HoldOut = Annotated[
    float,
    typer.Option(min=0, max=1, help="Share of the store's images to score; the last ones."),
]


def tune(
    cache: CacheFolder = Path("data_cache"),
    config: Configs = None,
    tries: Tries = None,
    root: MovedRoot = None,
    teacher: MovedTeacher = None,
    steps: Steps = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0 to N - 1 of every training.")] = 1,
    folds: Annotated[int, typer.Option(min=1, help="How many groups are hidden in turn.")] = 3,
    hide: Hide = None,
    hold_out: HoldOut = 0.25,
    out: Annotated[
        Path, typer.Option(help="Folder of stores, runs and results.", show_default=True)
    ] = Path("runs/tune"),
    settings: Settings = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the trainings and how far they are, and stop.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Choose settings on seen classes that are hidden in turn, as if they were unseen.

    Each fold hides some seen classes, trains, and scores them on images of the store that are held
    out. Labels of unseen classes are never looked at. Start it again to go on where it stopped.
    """
    console.configure_logging(quiet=quiet)
    from zsseg.pipeline.tune.candidates import TuneRequest
    from zsseg.pipeline.tune.fold_stores import StoreOrigin, fold_stores
    from zsseg.pipeline.tune.tune_plan import Hiding, plan_tuning
    from zsseg.pipeline.tune.tune_report import TuneHeader, make_report, markdown

    request = TuneRequest(
        experiments=tuple(config or ()),
        settings=tuple(settings or ()),
        tries=tuple(tries or ()),
        steps=steps,
        seeds=seeds,
        out=out,
    )
    hiding = Hiding(folds, tuple(hide or ()), hold_out)
    plan = plan_tuning(request, cache, root=root, hiding=hiding)
    if dry_run:
        _print_plan(plan)
        return
    header = TuneHeader(plan, _command(request, hiding, cache, root, teacher))
    origin = StoreOrigin(plan.store, plan.root, teacher, out / "stores", plan.uses_local)
    with ended_by_sigterm():
        stores = fold_stores(origin, plan.folds, quiet=quiet)
    table, written = make_report(header, stores, quiet=quiet)
    console.out.print(*markdown(header, table).split("\n"), sep="\n", soft_wrap=True)
    console.out.print(f"written: {', '.join(map(str, written))}", soft_wrap=True)
    if table.failures:
        raise typer.Exit(Exit.SKIPPED)


def _print_plan(plan: "TunePlan") -> None:
    """What each fold hides, the stores, and one line per training; nothing is written."""
    from zsseg.pipeline.tune.trials import training_state, trainings

    held = plan.folds[0].held_out
    share = held.trained / len(plan.store.index)
    runs = trainings(plan.trials)
    steps = sum(each[0].run.config.train.steps for each in runs.values())
    lines = [
        f"fold {number} hides {', '.join(fold.hidden)}"
        for number, fold in enumerate(plan.folds, start=1)
    ]
    lines.append(
        f"{len(plan.folds)} stores of {counted(held.trained, 'image')}, each of about {share:.0%} "
        f"of the size of {plan.store.path}: dense tokens, CLS tokens and text are copied, regions "
        "and local tokens made again"
    )
    lines.append(
        f"{counted(len(runs), 'training')}, {counted(steps, 'step')} in all; each scored on "
        f"{counted(len(held.samples), 'image')}"
    )
    for path, each in runs.items():
        names = " = ".join(trial.candidate.name for trial in each)
        lines.append(f"{path}  {training_state(each)}  {names}")
    console.out.print(*lines, sep="\n", soft_wrap=True)


def _command(
    request: "TuneRequest",
    hiding: "Hiding",
    cache: StorePath,
    root: Path | None,
    teacher: str | None,
) -> str:
    """The command that does the same again; options that are not given are left out."""
    options: dict[str, Sequence[object]] = {
        "cache": [cache],
        "root": [root] if root else [],
        "teacher": [teacher] if teacher else [],
        "config": request.experiments,
        "try": request.tries,
        "set": request.settings,
        "folds": [] if hiding.groups else [hiding.folds],
        "hide": hiding.groups,
        "hold-out": [hiding.hold_out],
        "steps": [] if request.steps is None else [request.steps],
        "seeds": [request.seeds],
        "out": [request.out],
    }
    words = [
        str(word) for name, values in options.items() for v in values for word in (f"--{name}", v)
    ]
    return shlex.join(["zsseg", "tune", *words])
