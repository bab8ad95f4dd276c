"""`zsseg precompute` and `zsseg train`: the two stages."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline import console
from pipeline.config import apply_settings, build, read_experiment, read_values
from pipeline.options import CacheFolder, Exit, Quiet, Settings
from pipeline.signals import ended_by_sigterm
from stages.cache.place import StorePath

DEFAULT_TEACHER = "ViT-B-16-quickgelu/openai"
DEFAULT_EXPERIMENT = "sdd_rst"


def precompute(
    dataset: Annotated[str, typer.Option(help="Data set by name, or a YAML description.")],
    root: Annotated[Path, typer.Option(help="Folder of the data set; never written to.")],
    split: Annotated[str, typer.Option(help="Split of the data set.")] = "train",
    teacher: Annotated[
        str,
        typer.Option(
            help="CLIP: NAME/PRETRAINED of open_clip, hf-hub:ORG/REPO, local-dir:DIR, NAME@FILE."
        ),
    ] = DEFAULT_TEACHER,
    cache: CacheFolder = Path("data_cache"),
    config: Annotated[Path | None, typer.Option(help="YAML file of precompute settings.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N images.")] = None,
    views: Annotated[
        int | None,
        typer.Option(
            min=0, help="Random crops per image with a CLS token each; the setting views.number."
        ),
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Compute in place what was made otherwise.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run, why, and what it would cost.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes on this machine, one per GPU where there are any."),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="A running dask cluster to join: tcp://HOST:PORT.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try images again that could not be used.")
    ] = False,
    max_failures: Annotated[
        int | None, typer.Option(min=0, help="Stop when more images cannot be used.")
    ] = None,
    settings: Settings = None,
    quiet: Quiet = False,
) -> None:
    """Stage one: run CLIP once over a split and write the store. Run it again to resume."""
    console.configure_logging(quiet=quiet)
    from pipeline.foretold import print_forecast
    from pipeline.tables import loss_line, precompute_words, shares
    from stages.data.spec import load_spec
    from stages.precompute.config import PrecomputeConfig
    from stages.precompute.run import foretell
    from stages.precompute.run import precompute as run

    number = [] if views is None else [f"views.number={views}"]
    values = apply_settings(read_values(config) if config else {}, [*(settings or []), *number])
    checked = build(PrecomputeConfig, values, where=str(config) if config else "precompute")
    if dry_run:
        with console.progress("precompute", quiet=quiet) as advance:
            found = foretell(
                load_spec(dataset),
                root=root,
                split=split,
                teacher=teacher,
                cache=cache,
                config=checked,
                limit=limit,
                retry_failed=retry_failed,
                progress=lambda now: advance(now.done, now.total, precompute_words(now)),
            )
        print_forecast(found)
        return
    with ended_by_sigterm(), console.progress("precompute", quiet=quiet) as advance:
        result = run(
            load_spec(dataset),
            root=root,
            split=split,
            teacher=teacher,
            cache=cache,
            config=checked,
            limit=limit,
            update=update,
            progress=lambda now: advance(now.done, now.total, precompute_words(now)),
            retry_failed=retry_failed,
            max_failures=max_failures,
            workers=workers,
            scheduler=scheduler,
        )
    for name, reason in result.failed.items():
        console.err.print(f"{name}: left out: {reason}", markup=False, soft_wrap=True)
    if result.written:
        rows = ", ".join(f"{name} {count}" for name, count in result.written.items())
        console.out.print(f"computed: {rows}", soft_wrap=True)
        if kept := result.kept.get("local"):
            encoded = result.forwards.get("local", 0)
            console.out.print(f"crops: {encoded} encoded, {kept} with the token that they had")
        console.out.print(f"time: {shares(result.seconds)}", soft_wrap=True)
    elif result.kept:
        console.out.print("nothing to compute: every row was there, and is copied")
    else:
        console.out.print("nothing to do: every artifact of every image is there")
    if result.loss is not None:
        console.out.print(loss_line(result.loss), soft_wrap=True)
    good = result.images - len(result.failed)
    console.out.print(f"{result.path}: {good} of {result.images} images, complete", soft_wrap=True)
    if result.failed:
        raise typer.Exit(Exit.SKIPPED)


def train(
    cache: CacheFolder = Path("data_cache"),
    config: Annotated[
        str, typer.Option(help="Experiment by name (`zsseg config ls`), or a YAML file.")
    ] = DEFAULT_EXPERIMENT,
    root: Annotated[
        Path | None, typer.Option(help="Folder of the data set, if it has moved.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run. \\[default: runs/EXPERIMENT]")
    ] = None,
    settings: Settings = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint.")
    ] = False,
    replay: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Do a step again whose loss was not finite, as a run kept it."
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Stage two: train a student against a store. CLIP is not loaded.

    For several GPUs or machines, start it with `torchrun --no-python --nproc-per-node N -- zsseg
    train ...` or `accelerate launch`: batch, sample order and losses stay what they are.
    """
    from stages.train.processes import joined_processes

    quiet = console.others_are_silent(quiet=quiet)
    console.configure_logging(quiet=quiet)
    if replay is not None:
        _replay(replay, settings or [])
        return
    with joined_processes():
        _train(cache, config, root=root, out=out, settings=settings, resume=resume, quiet=quiet)


def _train(
    cache: StorePath,
    config: str,
    *,
    root: Path | None,
    out: Path | None,
    settings: list[str] | None,
    resume: bool,
    quiet: bool,
) -> None:
    from pipeline.stores import dataset_root, stored_spec, training_store
    from stages.cache.reader import Store
    from stages.train.config import RunConfig
    from stages.train.loop import train as run
    from stages.train.processes import processes

    name = Path(config).stem
    checked = build(
        RunConfig, apply_settings(read_experiment(config), settings or []), where=config
    )
    store = Store.open(training_store(cache))
    folder = out or Path("runs") / name
    if not quiet:
        console.err.print(f"{name} from {store.path} into {folder}", soft_wrap=True)
    with console.progress("train", quiet=quiet) as advance:
        result = run(
            checked,
            store=store,
            spec=stored_spec(store),
            root=dataset_root(root, store),
            out=folder,
            resume=resume,
            experiment=name,
            progress=lambda now: advance(now.step, now.steps, _words(now.metrics)),
        )
    if processes()[0] > 0:
        return
    console.out.print(f"{result.steps} steps, student in {result.checkpoint}", soft_wrap=True)
    console.out.print(
        f"next: zsseg evaluate --run {folder} --split val  or  zsseg predict --run {folder} "
        "IMAGES --out predictions",
        soft_wrap=True,
    )


def _replay(file: Path, settings: list[str]) -> None:
    """Print every loss of a captured step; NonFiniteError when one is not finite again."""
    from stages.errors import NonFiniteError
    from stages.train.capture import read_capture
    from stages.train.capture import replay as run
    from stages.train.config import RunConfig

    written, _ = read_capture(file)
    values = apply_settings(written.config.model_dump(mode="json"), settings)
    done = run(file, build(RunConfig, values, where=str(file)))
    console.out.print(f"step {done.step}, images {', '.join(done.images)}", soft_wrap=True)
    for name, value in done.losses.items():
        console.out.print(f"{name} {value:.6g}  (then {written.losses.get(name, '-')})")
    if done.bad:
        raise NonFiniteError(
            f"step {done.step}: {', '.join(done.bad)} again, with the images "
            f"{', '.join(done.images)}. Try other settings with --set, such as train.precision=fp32"
        )
    console.out.print("finite: with these settings the step can be made")


def _words(metrics: dict[str, float]) -> str:
    """The last log line, short: what a person watches."""
    shown = {
        "loss": "loss {:.3f}",
        "pseudo_label_share": "pseudo labels {:.0%}",
        "images_per_second": "{:.1f} images/s",
        "cache_mb_per_second": "cache {:.1f} MB/s",
        "data_wait": "waiting for data {:.0%}",
    }
    return ", ".join(text.format(metrics[key]) for key, text in shown.items() if key in metrics)
