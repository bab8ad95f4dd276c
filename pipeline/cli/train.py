"""`zsseg train`: stage two."""

from pathlib import Path
from typing import Annotated

import typer

from zsseg.pipeline import console
from zsseg.pipeline.cli.options import CacheFolder, MovedRoot, Quiet, Settings
from zsseg.pipeline.settings import apply_settings, build, read_experiment
from zsseg.stages.cache.disk.store_path import StorePath

DEFAULT_EXPERIMENT = "sdd_rst"


def train(
    cache: CacheFolder = Path("data_cache"),
    config: Annotated[
        str, typer.Option(help="Experiment by name (`zsseg config ls`), or a YAML file.")
    ] = DEFAULT_EXPERIMENT,
    root: MovedRoot = None,
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
    from zsseg.stages.train.processes import joined_processes, launched

    first = launched()[0] == 0
    quiet = quiet or not first
    console.configure_logging(quiet=quiet, first=first)
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
    from zsseg.pipeline.named_stores import dataset_root, stored_spec, training_store
    from zsseg.stages.cache.reader import Store
    from zsseg.stages.train.loop import train as run
    from zsseg.stages.train.processes import processes
    from zsseg.stages.train.run_config import RunConfig

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
    from zsseg.stages.errors import NonFiniteError
    from zsseg.stages.train.capture import read_capture
    from zsseg.stages.train.capture import replay as run
    from zsseg.stages.train.run_config import RunConfig

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
