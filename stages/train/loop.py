"""Trains a student from a store and visible labels: the steps, their log and checkpoints."""

import logging
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from zsseg.stages.cache.tools.uses import note_use
from zsseg.stages.device import choose_device
from zsseg.stages.errors import UserError
from zsseg.stages.train.batches.batch import Batch
from zsseg.stages.train.batches.crops import cache_bytes
from zsseg.stages.train.batches.known_classes import KnownClasses, make_classes
from zsseg.stages.train.batches.loader import make_loader
from zsseg.stages.train.batches.store_check import check_store, warn_of_labels
from zsseg.stages.train.batches.supervision import check_supervision
from zsseg.stages.train.batches.training_data import TrainingData
from zsseg.stages.train.between_steps import BetweenSteps
from zsseg.stages.train.capture import capture, finite
from zsseg.stages.train.foretell.memory_check import check_memory
from zsseg.stages.train.interrupt import held_signals
from zsseg.stages.train.processes import (
    Status,
    agree,
    copy_from_first,
    joined_processes,
    processes,
    value_from_first,
)
from zsseg.stages.train.resource_errors import explained
from zsseg.stages.train.run import checkpoint
from zsseg.stages.train.run.attempt import noted_attempt
from zsseg.stages.train.run.metrics_log import MetricsLog, Throughput
from zsseg.stages.train.run.run_folder import (
    RunRecord,
    check_folder,
    git_revision,
    note_resumption,
    only_writer,
    package_versions,
    write_record,
)
from zsseg.stages.train.run.trackers import Service, open_tracker
from zsseg.stages.train.run_config import RunConfig, TrainConfig
from zsseg.stages.train.schedule import learning_rate, warmup_length
from zsseg.stages.train.state import State, load_state, new_state, update
from zsseg.stages.train.step import gradients
from zsseg.stages.train.student_precision import autocast_type
from zsseg.stages.train.students.student import check_crop
from zsseg.stages.train.validation import (
    MakeValidator,
    Validation,
    ValidationState,
    begun,
    idle_patience,
    state_of,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainProgress:
    """Steps done, and the metrics of the last log line and validation; {} before the first."""

    step: int
    steps: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class TrainResult:
    """A finished run, and the metrics of its last log line; {} when no step was left to do."""

    out: Path
    checkpoint: Path
    """The newest."""
    steps: int
    """That were made: less than configured where validations ended it."""
    metrics: dict[str, float]
    validation: ValidationState | None = None
    """What the validations of the run have found; None: there was none."""
    seconds: float = 0.0
    """Of the steps made here, without validations."""
    validation_seconds: float = 0.0
    """Of the validations made here."""


@dataclass(frozen=True)
class TrainExtras:
    """What only some trainings have."""

    plan: str | None = None
    """The text of the file that the settings were planned in, which a new run keeps."""
    validation: MakeValidator | None = None
    """Makes what scores the student every `validation.every` steps."""
    log_to: Service | None = None
    """A service that gets the log as well (`trackers`)."""


@dataclass(frozen=True)
class _Run:
    """What all steps of a run have in common."""

    config: RunConfig
    data: TrainingData
    out: Path
    saved: Path | None
    """The checkpoint that it goes on from; None: it starts."""
    state: State
    classes: KnownClasses
    foretold: int | None
    """Bytes of memory, as foretold; None: it was not reckoned."""
    validation: Validation | None
    log_to: Service | None


@joined_processes()
def train(
    config: RunConfig,
    data: TrainingData,
    *,
    out: Path,
    resume: bool,
    experiment: str,
    progress: Callable[[TrainProgress], None],
    extras: TrainExtras = TrainExtras(),
) -> TrainResult:
    """Train a student into the run folder `out`; `experiment` is its name for the record.

    `progress` is called after every step. With `resume` it goes on from the newest intact
    checkpoint, bit-identical on a CPU to a run that was never interrupted; a finished run stays as
    it is. Ctrl-C and SIGTERM save a checkpoint at the end of the step, then raise
    KeyboardInterrupt and SystemExit(143).

    Under `torchrun` or `accelerate launch` every process calls this with the same arguments; each
    has its share of every batch, and `out` is where all see it (`processes`).

    Raises UserError (folder in use, resumed with other settings, crop and student do not fit),
    NothingToLearnError (no loss has anything to learn from in this data set),
    CacheLocked (another process trains into `out`), CacheError (the store does not fit),
    DatasetError (a file cannot be read), ResourceError (GPU, weights, memory, disk, a killed loader
    process) and NonFiniteError.
    """
    check_shares(config.train)
    check_store(data.store, data.spec, config)
    idle = [*check_supervision(data.spec, config), *idle_patience(config)]
    record = _record(config, data, experiment=experiment)
    writes = processes()[0] == 0
    if writes:
        warn_of_labels(*data)
        for line in idle:
            logger.warning("%s", line)
    with only_writer(out) if writes else nullcontext():
        resumes, saved = _begun(data, out, record, resume=resume)
        start = _steps_done(saved)
        if saved is not None and checkpoint.is_finished(saved, steps=config.train.steps):
            return TrainResult(out, saved, start, {}, state_of(saved))
        text_CD = torch.from_numpy(data.store.read_all("text"))
        foretold = check_memory(config, data)
        with explained(config):
            state = _prepare(config, saved, width=text_CD.shape[-1])
        batches = make_loader(data, config, start_step=start)
        classes = make_classes(data.spec, text_CD, state.device, protocol=config.protocol)
        if writes and resumes:
            note_resumption(out, start, record)
        elif writes:
            write_record(out, record, text_CD, plan=extras.plan)
        watched = None
        if config.validation.every:
            assert extras.validation is not None, "nothing to validate by"
            validator = extras.validation(record, data, out, text_CD.to(state.device))
            watched = begun(validator, config, saved)
        peak = foretold.peak if foretold else None
        run = _Run(config, data, out, saved, state, classes, peak, watched, extras.log_to)
        with explained(config):
            return _steps(run, batches, progress)


def _steps(
    run: _Run, batches: Generator[Batch, None, None], progress: Callable[[TrainProgress], None]
) -> TrainResult:
    """The steps that are left of a run, with their log, validations and checkpoints."""
    config, settings, state = run.config, run.config.train, run.state
    start, watched = _steps_done(run.saved), run.validation
    with ExitStack() as held:
        writes = processes()[0] == 0
        log = held.enter_context(_log(run, start)) if writes else None
        attempt = noted_attempt(run.out, start_step=start, foretold=run.foretold)
        note = held.enter_context(attempt) if writes else None
        interrupt = held.enter_context(held_signals())
        held.enter_context(closing(batches))
        between = BetweenSteps(config, run.out, run.saved, state, watched, log)
        throughput = Throughput(cache_bytes(run.data.store, config))
        metrics: dict[str, float] = {}
        done, clock = start, time.perf_counter()
        between.make_up_for(start)
        for step in range(start, settings.steps):
            if between.ended:
                break
            with throughput.waiting(settings.batch):
                batch = next(batches).to(state.device)
            done = step + 1
            logs = done % settings.log_every == 0 or done == settings.steps
            result = gradients(state, batch, run.classes, config, number=step, logs=logs)
            if not finite(result, state):
                if log is not None:
                    log.sync()
                raise capture(run.out, step, batch, result, state, config, store=run.data.store)
            if note is not None:
                note(done)
            state.bank = result.bank
            update(state, step, result.norm, config)
            if logs:
                metrics = result.numbers()
                metrics["learning_rate"] = learning_rate(step, settings.learning_rate, settings)
                metrics |= throughput.report()
                if log is not None:
                    log.write(done, metrics)
            stopped = agree(Status.STOP if interrupt.signal else Status.FINE) == Status.STOP
            throughput.leave_out(between.after(done, stopped=stopped))
            scores = watched.scores if watched else {}
            progress(TrainProgress(done, settings.steps, {**metrics, **scores}))
            if stopped:
                interrupt.raise_()
    seconds = time.perf_counter() - clock
    saved = checkpoint.folder_of(run.out, done)
    if watched is None:
        return TrainResult(run.out, saved, done, metrics, seconds=seconds)
    apart = watched.seconds
    return TrainResult(run.out, saved, done, metrics, watched.state, seconds - apart, apart)


def _log(run: _Run, start: int) -> MetricsLog:
    validated = run.validation.state.last_step if run.validation else 0
    tracker = None
    if run.log_to is not None:
        settings = run.config.model_dump(mode="json")
        tracker = open_tracker(run.log_to, run.out, settings, resumed=start > 0)
    return MetricsLog(run.out, start_step=start, validated=validated, tracker=tracker)


def _steps_done(saved: Path | None) -> int:
    return 0 if saved is None else checkpoint.step_of(saved)


def _begun(
    data: TrainingData, out: Path, record: RunRecord, *, resume: bool
) -> tuple[bool, Path | None]:
    """Is there a run to go on with, and its checkpoint; in all processes as the first finds it."""
    resumes, saved = False, None
    if processes()[0] == 0:
        note_use(data.store.path)
        resumes = check_folder(out, record, resume=resume)
        saved = checkpoint.latest(out) if resumes else None
    found: tuple[bool, Path | None] = value_from_first((resumes, saved))
    return found


def check_shares(config: TrainConfig) -> None:
    """Raise UserError when a batch cannot be divided among the processes, or into the parts."""
    _, count = processes()
    if config.batch % count:
        above = -(-config.batch // count) * count
        raise UserError(
            f"train.batch: {config.batch} crops do not divide among {count} processes. Use a "
            f"multiple of {count}, such as {above}, or another number of processes"
        )
    if config.accumulate > config.batch // count:
        raise UserError(
            f"train.accumulate: {config.accumulate} parts of {config.batch // count} crops (a "
            "process's share of train.batch): there must be a crop in each. Use a smaller number"
        )


def _record(config: RunConfig, data: TrainingData, *, experiment: str) -> RunRecord:
    store, spec, root = data
    return RunRecord(
        experiment=experiment,
        config=config,
        dataset=spec,
        split=str(store.identity["split"]),
        root=root.resolve(),
        teacher=str(store.last("teacher") or store.info["teacher"]),
        templates=str(store.recipes["text"]["templates"]),
        synonyms=str(store.recipes["text"].get("synonyms", "mean")),
        store=str(store.path.resolve()),
        store_fingerprint=store.fingerprint,
        versions=package_versions(),
        revision=git_revision(),
        processes=processes()[1],
    )


def _prepare(config: RunConfig, saved: Path | None, *, width: int) -> State:
    """The state that a checkpoint holds, or that before step 0."""
    device = choose_device(config.train.device)
    precision = autocast_type(config.train.precision, device)
    state = new_state(
        config, width=width, device=device, precision=precision, weights=saved is None
    )
    check_crop(state.student, config.augmentation.crop)
    warmup = warmup_length(config.train)
    if warmup < config.train.warmup_steps:
        logger.warning(
            "train.warmup_steps=%d is more than a tenth of %d steps; warming up for %d",
            config.train.warmup_steps,
            config.train.steps,
            warmup,
        )
    if saved is not None:
        load_state(saved, state)
        logger.info("resuming from %s", saved)
    # Equal seeds may give other weights on another machine.
    averaged = [] if state.average is None else state.average.state_dict().values()
    copy_from_first([*state.parameters(), *averaged])
    return state
