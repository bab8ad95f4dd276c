"""`zsseg precompute`: stage one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zsseg.pipeline import console
from zsseg.pipeline.cli.options import CacheFolder, DatasetRoot, Exit, Quiet, Settings
from zsseg.pipeline.cli.signals import ended_by_sigterm
from zsseg.pipeline.face.make_store import DEFAULT_TEACHER, precompute_config, store_request
from zsseg.pipeline.face.make_store import precompute as run
from zsseg.stages.printable import counted

if TYPE_CHECKING:
    from zsseg.stages.precompute.plan.request import PrecomputeRequest
    from zsseg.stages.precompute.run import PrecomputeResult

Teacher = Annotated[
    str,
    typer.Option(
        help="CLIP: NAME/PRETRAINED of open_clip, hf-hub:ORG/REPO, local-dir:DIR, NAME@FILE. "
        "Others: tokens:FOLDER, maps that another system wrote; python:FILE.py:NAME, your own "
        "object, whose code runs (docs/teachers.md)."
    ),
]
Views = Annotated[
    int | None,
    typer.Option(
        min=0, help="Random crops per image with a CLS token each; the setting views.number."
    ),
]
Update = Annotated[
    bool,
    typer.Option("--update", help="Recompute in place what new settings or changed files affect."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would run, why, and what it would cost.")
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Processes on this machine, one per GPU where there are any."),
]
Scheduler = Annotated[
    str | None, typer.Option(help="A running dask cluster to join: tcp://HOST:PORT.")
]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Try again the images that could not be used.")
]
MaxFailures = Annotated[
    int | None, typer.Option(min=0, help="Stop when more than N images cannot be used.")
]


def precompute(
    dataset: Annotated[str, typer.Option(help="Data set by name, or a YAML description.")],
    root: DatasetRoot = None,
    split: Annotated[str, typer.Option(help="Split of the data set.")] = "train",
    teacher: Teacher = DEFAULT_TEACHER,
    cache: CacheFolder = Path("data_cache"),
    config: Annotated[Path | None, typer.Option(help="YAML file of precompute settings.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N images.")] = None,
    views: Views = None,
    update: Update = False,
    dry_run: DryRun = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    retry_failed: RetryFailed = False,
    max_failures: MaxFailures = None,
    settings: Settings = None,
    quiet: Quiet = False,
) -> None:
    """Stage one: run CLIP once over a split and write the store. Run it again to resume."""
    console.configure_logging(quiet=quiet)
    changes = [*(settings or []), *([] if views is None else [f"views.number={views}"])]
    if dry_run:
        request = store_request(
            dataset,
            root=root,
            split=split,
            teacher=teacher,
            cache=cache,
            config=precompute_config(config, changes),
            limit=limit,
        )
        _forecast(request, retry_failed=retry_failed, quiet=quiet)
        return
    with ended_by_sigterm(), console.progress("precompute", quiet=quiet) as advance:
        result = run(
            dataset,
            root=root,
            split=split,
            teacher=teacher,
            cache=cache,
            config=config,
            limit=limit,
            update=update,
            workers=workers,
            scheduler=scheduler,
            retry_failed=retry_failed,
            max_failures=max_failures,
            set=changes,
            progress=advance,
        )
    _print_result(result)
    then = ("train",) if split == "train" else ("evaluate", "--teacher-alone", "--split", split)
    console.say_next("zsseg", *then, "--cache", result.path, quiet=quiet)
    if result.failed:
        raise typer.Exit(Exit.SKIPPED)


def _forecast(request: "PrecomputeRequest", *, retry_failed: bool, quiet: bool) -> None:
    """Print what would run, why, and what it would cost."""
    from zsseg.pipeline.cli.forecast_text import print_forecast
    from zsseg.pipeline.tables import precompute_words
    from zsseg.stages.precompute.run import forecast

    with console.progress("precompute", quiet=quiet) as advance:
        found = forecast(
            request,
            retry_failed=retry_failed,
            progress=lambda now: advance(now.done, now.total, precompute_words(now)),
        )
    print_forecast(found)


def _print_result(result: "PrecomputeResult") -> None:
    from zsseg.pipeline.tables import loss_line, shares

    for name, reason in result.failed.items():
        console.err.print(f"{name}: left out: {reason}", soft_wrap=True)
    if result.written:
        rows = ", ".join(f"{name} {count}" for name, count in result.written.items())
        console.out.print(f"computed: {rows}", soft_wrap=True)
        if kept := result.kept.get("local"):
            encoded = result.forwards.get("local", 0)
            console.out.print(f"crops: {encoded} encoded, {kept} reused with their stored token")
        console.out.print(f"time: {shares(result.seconds)}", soft_wrap=True)
    elif result.kept:
        console.out.print("nothing to compute: all rows were copied from the earlier store")
    else:
        console.out.print("nothing to do: every artifact of every image is there")
    if result.loss is not None:
        console.out.print(loss_line(result.loss), soft_wrap=True)
    good = result.images - len(result.failed)
    console.out.print(
        f"{result.path}: {good} of {counted(result.images, 'image')}, complete", soft_wrap=True
    )
