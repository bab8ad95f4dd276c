"""`zsseg train`: stage two."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from zsseg.pipeline import console
from zsseg.pipeline.cli.options import PLACE, MovedRoot, Quiet, Settings
from zsseg.pipeline.cli.train_options import LogTo, Patience, ValidateEvery, ValidateUnseen
from zsseg.pipeline.settings import apply_settings, build, read_experiment
from zsseg.pipeline.training_plan import PLANNED, check_given, planned
from zsseg.stages.cache.disk.store_path import StorePath, store_path
from zsseg.stages.errors import CacheError, UserError
from zsseg.stages.train.run.trackers import Service, check_installed

if TYPE_CHECKING:
    from zsseg.stages.cache.reader import Store
    from zsseg.stages.train.batches.training_data import TrainingData
    from zsseg.stages.train.run.run_folder import RunRecord
    from zsseg.stages.train.run_config import RunConfig

DEFAULT_CACHE = Path("data_cache")

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
    cache: Annotated[
        StorePath | None,
        typer.Option(
            "--cache",
            parser=store_path,
            metavar=PLACE,
            help="Folder of stores, or one store; here, or at a URL (s3://bucket/folder). "
            "\\[default: data_cache; with --resume the run's store]",
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            help="Experiment by name (`zsseg config ls`), or a YAML file. \\[default: settings "
            "planned for this store and machine; with --resume the run's]"
        ),
    ] = None,
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

    For several GPUs or machines, start it with `torchrun --no-python --nproc-per-node N -- zsseg
    train ...` or `accelerate launch`: batch, sample order and losses stay what they are.
    """
    named = _named(steps, validate_every, patience, unseen=validate_unseen)
    options = _Options(
        cache, config, root, out, [*(settings or []), *named], resume, minutes, log_to
    )
    if replay is None:
        _check(options)  # a mistake is told before torch is loaded
    from zsseg.stages.train.processes import joined_processes, launched

    first = launched()[0] == 0
    quiet = quiet or not first
    console.configure_logging(quiet=quiet, first=first)
    if replay is not None:
        _replay(replay, settings or [])
        return
    if dry_run:
        _forecast(options, quiet=quiet)
        return
    with joined_processes():
        _train(options, quiet=quiet)


def _named(
    steps: int | None, every: int | None, patience: int | None, *, unseen: bool
) -> list[str]:
    """Settings that have an option of their own, as --set has them."""
    given = {
        "train.steps": steps,
        "validation.every": every,
        "validation.patience": patience,
        "validation.unseen": "true" if unseen else None,
    }
    return [f"{name}={value}" for name, value in given.items() if value is not None]


@dataclass(frozen=True)
class _Options:
    """What the command line says; None where it does not."""

    cache: StorePath | None
    config: str | None
    root: Path | None
    out: Path | None
    settings: Sequence[str]
    resume: bool
    minutes: float | None = None
    log_to: Service | None = None

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.out or Path("runs") / Path(self.config or PLANNED).stem


def _check(options: _Options) -> None:
    """Raise UserError for settings that cannot be, as far as that is known at once."""
    if options.minutes is not None and (options.config is not None or options.resume):
        raise UserError(
            "--minutes: is for a training that is planned, and its steps then follow from it. "
            "Leave out --config, or use --steps; a run that goes on has its steps already"
        )
    if options.log_to is not None:
        check_installed(options.log_to)
    if options.resume:
        return
    if options.config is None:
        check_given(options.settings)
    else:
        _, config = _experiment(options, None)
        if config.validation.patience and not config.validation.every:
            raise UserError(
                f"--patience {config.validation.patience}: counts validations, and there are none. "
                "Give --validate-every N too (the setting validation.every), or leave it out"
            )
    from zsseg.pipeline.named_stores import training_store

    training_store(options.cache or DEFAULT_CACHE)


def _train(options: _Options, *, quiet: bool) -> None:
    from zsseg.pipeline.cli.train_text import progress_words, train_end_lines
    from zsseg.stages.evaluate.validator import make_validator
    from zsseg.stages.train.loop import TrainExtras
    from zsseg.stages.train.loop import train as run
    from zsseg.stages.train.processes import processes
    from zsseg.stages.train.run.run_folder import is_run, read_record

    folder = options.folder
    started = read_record(folder) if options.resume and is_run(folder) else None
    if options.resume and started is None:
        console.err.print(
            f"nothing to resume: {folder} holds no run; one starts there from step 0",
            soft_wrap=True,
        )
    made = _settings(options, started, quiet=quiet)
    if not quiet:
        console.err.print(f"{made.name} from {made.data.store.path} into {folder}", soft_wrap=True)
    with console.progress("train", quiet=quiet) as advance:
        result = run(
            made.config,
            made.data,
            out=folder,
            resume=options.resume,
            experiment=made.name,
            progress=lambda now: advance(now.step, now.steps, progress_words(now.metrics)),
            extras=TrainExtras(made.plan, make_validator, options.log_to),
        )
    if processes()[0] > 0:
        return
    for line in train_end_lines(result):
        console.out.print(line, soft_wrap=True)
    console.out.print(
        f"next: zsseg evaluate --run {folder} --split val  or  zsseg predict --run {folder} "
        "IMAGES --out predictions",
        soft_wrap=True,
    )


def _forecast(options: _Options, *, quiet: bool) -> None:
    """Print what memory and time the training would take."""
    from zsseg.pipeline.cli.train_forecast_text import train_forecast_lines
    from zsseg.stages.train.foretell.dry_run import dry_run
    from zsseg.stages.train.run.run_folder import is_run, read_record

    started = read_record(options.folder) if options.resume and is_run(options.folder) else None
    made = _settings(options, started, quiet=quiet)
    found = dry_run(made.config, made.data)
    console.out.print(f"{made.name} from {made.data.store.path}", soft_wrap=True)
    for line in train_forecast_lines(found, steps=made.config.train.steps):
        console.out.print(line, soft_wrap=True)


class _Settled(NamedTuple):
    """What is trained, and from what."""

    name: str
    config: "RunConfig"
    data: "TrainingData"
    plan: str | None
    """The text of the plan, of a training that was planned."""


def _settings(options: _Options, started: "RunRecord | None", *, quiet: bool) -> _Settled:
    """The settings of --config or of the run to go on with; without either they are planned."""
    from zsseg.pipeline.named_stores import stored_spec
    from zsseg.stages.train.batches.training_data import TrainingData

    plans = options.config is None and started is None
    found = None if plans else _experiment(options, started)
    store = _store(options, started)
    data = TrainingData(store, stored_spec(store), _root(options, started, store))
    if found is not None:
        return _Settled(*found, data, None)

    def tell(line: str) -> None:
        if not quiet:
            console.err.print(line, soft_wrap=True)

    plan = planned(data, options.settings, minutes=options.minutes, tell=tell)
    return _Settled(PLANNED, plan.config(), data, plan.text())


def _experiment(options: _Options, started: "RunRecord | None") -> "tuple[str, RunConfig]":
    """Name and settings: those of --config, else of the run to go on with, with --set on top."""
    from zsseg.stages.train.run_config import RunConfig

    if options.config is None and started is not None:
        name, where = started.experiment, str(options.folder)
        values = started.config.model_dump(mode="json")
    else:
        assert options.config is not None, "without one, settings are planned"
        where = options.config
        name, values = Path(where).stem, read_experiment(where)
    return name, build(RunConfig, apply_settings(values, options.settings), where=where)


def _store(options: _Options, started: "RunRecord | None") -> "Store":
    """The store of --cache, else of the run to go on with."""
    from zsseg.pipeline.named_stores import training_store
    from zsseg.stages.cache.reader import Store

    if options.cache is not None or started is None:
        return Store.open(training_store(options.cache or DEFAULT_CACHE))
    try:
        return Store.open(store_path(started.store))
    except CacheError as error:
        raise CacheError(
            *error.args,
            f"{options.folder} is trained from this store; if it has moved, say where it is with "
            "--cache",
        ) from error


def _root(options: _Options, started: "RunRecord | None", store: "Store") -> Path:
    """The data set's folder: --root, else that of the run to go on with, else the store's."""
    from zsseg.pipeline.named_stores import dataset_root

    if options.root is None and started is not None and started.root.is_dir():
        return started.root
    return dataset_root(options.root, store)


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
