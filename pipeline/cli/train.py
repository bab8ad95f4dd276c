"""`zsseg train`: stage two."""

from pathlib import Path
from typing import Annotated

import typer

from zsseg.pipeline import console
from zsseg.pipeline.cli.options import PLACE, MovedRoot, Quiet, Settings
from zsseg.pipeline.cli.train_options import LogTo, Patience, ValidateEvery, ValidateUnseen
from zsseg.pipeline.face.asked_training import AskedTraining, named_settings
from zsseg.pipeline.settings import apply_settings, build
from zsseg.stages.cache.disk.store_path import StorePath, store_path

Cache = Annotated[
    StorePath | None,
    typer.Option(
        "--cache",
        parser=store_path,
        metavar=PLACE,
        help="Folder of stores, or one store; here, or at a URL (s3://bucket/folder). "
        "\\[default: data_cache; with --resume the run's store]",
    ),
]
Experiment = Annotated[
    str | None,
    typer.Option(
        help="Experiment by name (`zsseg config ls`), or a YAML file. \\[default: settings "
        "planned for this store and machine; with --resume the run's]"
    ),
]
RunFolder = Annotated[
    Path | None, typer.Option(help="Folder of the run. \\[default: runs/EXPERIMENT, or runs/plan]")
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Go on from the last checkpoint of the run in --out; needs no more."
    ),
]
Minutes = Annotated[
    float | None,
    typer.Option(min=0.01, help="Of training, if it is planned: the steps follow from it."),
]
Steps = Annotated[
    int | None, typer.Option(min=1, help="Steps of the training; the setting train.steps.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what memory and time it would take; train nothing.")
]
ReplayFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Do a step again whose loss was not finite, as a run kept it."
    ),
]


def train(
    cache: Cache = None,
    config: Experiment = None,
    root: MovedRoot = None,
    out: RunFolder = None,
    settings: Settings = None,
    minutes: Minutes = None,
    steps: Steps = None,
    validate_every: ValidateEvery = None,
    validate_unseen: ValidateUnseen = False,
    patience: Patience = None,
    log_to: LogTo = None,
    resume: Resume = False,
    replay: ReplayFile = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Stage two: train a student against a store. CLIP is not loaded.

    Without --config the settings are planned: from the store, this machine and the time there is.
    Each is told with a reason; --set and --steps are kept. The run has them in plan.yaml.

    zsseg train --config camvid_best --validate-every 50 --patience 3

    For several GPUs or machines, start it with `torchrun --no-python --nproc-per-node N -- zsseg
    train ...` or `accelerate launch`: batch, sample order and losses stay what they are.
    """
    named = named_settings(steps, validate_every, patience, unseen=validate_unseen)
    changes = [*(settings or []), *named]
    asked = AskedTraining(cache, config, root, out, changes, resume, minutes, log_to)
    if replay is None:
        asked.check()  # a mistake is told before torch is loaded
    from zsseg.stages.train.processes import joined_processes, launched

    first = launched()[0] == 0
    quiet = quiet or not first
    console.configure_logging(quiet=quiet, first=first)
    if replay is not None:
        _replay(replay, settings or [])
        return
    if dry_run:
        _forecast(asked)
        return
    from zsseg.pipeline.face.train_student import trained
    from zsseg.pipeline.training_text import train_end_lines

    with joined_processes(), console.progress("train", quiet=quiet) as advance:
        result = trained(asked, advance)
    if not first:
        return
    for line in train_end_lines(result):
        console.out.print(line, soft_wrap=True)
    console.out.print(
        f"next: zsseg evaluate --run {asked.folder} --split val  or  "
        f"zsseg predict --run {asked.folder} "
        "IMAGES --out predictions",
        soft_wrap=True,
    )


def _forecast(asked: AskedTraining) -> None:
    """Print what memory and time the training would take."""
    from zsseg.pipeline.cli.train_forecast_text import train_forecast_lines
    from zsseg.stages.train.foretell.dry_run import dry_run

    made = asked.settled()
    found = dry_run(made.config, made.data)
    console.out.print(f"{made.name} from {made.data.store.path}", soft_wrap=True)
    for line in train_forecast_lines(found, steps=made.config.train.steps):
        console.out.print(line, soft_wrap=True)


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
