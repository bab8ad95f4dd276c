"""Stage two: train a student from a store and visible labels. CLIP itself is never loaded."""

import logging
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import torch
from torch import Tensor

from stages.cache.reader import Store
from stages.cache.uses import note_use
from stages.data.spec import DatasetSpec
from stages.errors import NonFiniteError
from stages.train import checkpoint
from stages.train.batches import Batch, make_loader
from stages.train.classes import Classes, make_classes
from stages.train.config import RunConfig
from stages.train.contrast import enqueue
from stages.train.device import autocast_type, choose_device
from stages.train.interrupt import held_signals
from stages.train.losses import attention_entropy, batch_losses
from stages.train.method import Source
from stages.train.metrics_log import MetricsLog, Throughput
from stages.train.resources import explained
from stages.train.run_folder import (
    RunRecord,
    check_folder,
    git_revision,
    note_resumption,
    package_versions,
    write_record,
)
from stages.train.schedule import learning_rate, warmup_length
from stages.train.state import State, backward, is_finite, load_state, new_state, save_state, update
from stages.train.store_fit import check_store
from stages.train.student import check_crop

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainProgress:
    """Steps done, and the metrics of the last log line; {} before the first."""

    step: int
    steps: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class TrainResult:
    """A finished run, and the metrics of its last log line; {} when no step was left to do."""

    out: Path
    checkpoint: Path
    steps: int
    metrics: dict[str, float]


def train(
    config: RunConfig,
    *,
    store: Store,
    spec: DatasetSpec,
    root: Path,
    out: Path,
    resume: bool,
    experiment: str,
    progress: Callable[[TrainProgress], None],
) -> TrainResult:
    """Train a student into the run folder `out`; `experiment` is its name for the record.

    `progress` is called after every step. With `resume` it goes on from the newest intact
    checkpoint, bit-identical on a CPU to a run that was never interrupted; a finished run stays as
    it is, byte for byte. Ctrl-C and SIGTERM save a checkpoint at the end of the step, then raise
    KeyboardInterrupt and SystemExit(143).

    Raises UserError (folder in use, resumed with other settings, crop and student do not fit),
    CacheError (the store does not fit), DatasetError (a file cannot be read), ResourceError (GPU,
    weights, memory, disk, a killed loader process) and NonFiniteError.
    """
    settings = config.train
    check_store(store, spec, config)
    note_use(store.path)
    record = _record(config, store=store, spec=spec, root=root, experiment=experiment)
    goes_on = check_folder(out, record, resume=resume)
    saved = checkpoint.latest(out) if goes_on else None
    start = 0 if saved is None else checkpoint.step_of(saved)
    if saved is not None and start == settings.steps:
        return TrainResult(out, saved, start, {})
    text_CD = torch.from_numpy(store.read_all("text"))
    device = choose_device(settings.device)
    precision = autocast_type(settings.precision, device)
    with explained(config):
        state = _prepare(config, saved, width=text_CD.shape[1], device=device, precision=precision)
    batches = make_loader(store, spec, root, config, start_step=start)
    if goes_on:
        note_resumption(out, start, record)
    else:
        write_record(out, record, text_CD)
    classes = make_classes(spec, text_CD, device, protocol=config.protocol)
    metrics: dict[str, float] = {}
    with (
        explained(config),
        MetricsLog(out, start_step=start) as log,
        held_signals() as interrupt,
        closing(batches),
    ):
        throughput = Throughput()
        for step in range(start, settings.steps):
            with throughput.waiting(settings.batch):
                batch = next(batches).to(device)
            with state.autocast():
                feature_BDhw = state.student(batch.image_B3HW)
            losses, diagnostics = step_losses(feature_BDhw, batch, classes, config, state, step)
            total = weighted_sum(losses, config)
            norm = backward(state, total)
            if not (total.isfinite() and (norm.isfinite() or state.scaler.is_enabled())):
                kept = save_state(out, step, state) if is_finite(state) else None
                raise _non_finite(step, losses, norm, batch, store=store, saved=kept)
            update(state, step, norm, config)
            done = step + 1
            if done % settings.log_every == 0 or done == settings.steps:
                if config.objectives.sdd or config.objectives.global_distillation:
                    diagnostics["attention_entropy"] = attention_entropy(
                        feature_BDhw, batch, normalise=config.objectives.pool_normalise
                    )
                scalars = {"loss": total, **losses, **diagnostics, "grad_norm": norm}
                metrics = {name: float(value.detach()) for name, value in scalars.items()}
                metrics["learning_rate"] = learning_rate(step, settings.learning_rate, settings)
                metrics |= throughput.report()
                log.write(done, metrics)
            stopped = interrupt.signal is not None
            if done % settings.checkpoint_every == 0 or done == settings.steps or stopped:
                saved = save_state(out, done, state)
            progress(TrainProgress(done, settings.steps, metrics))
            if stopped:
                interrupt.raise_()
    assert saved is not None
    return TrainResult(out, saved, settings.steps, metrics)


def step_losses(
    feature_BDhw: Tensor,
    batch: Batch,
    classes: Classes,
    config: RunConfig,
    state: State,
    step: int,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """`batch_losses` of a step; brings the state's bank up to it first."""
    source = label_source(config, step)
    if config.objectives.global_distillation:
        assert batch.token_BD is not None
        size = config.objectives.bank
        state.bank = enqueue(state.bank, batch.token_BD, batch.row_B, size=size)
    average_BDhw = None
    if source == "ema":
        assert state.average is not None
        with torch.no_grad(), state.autocast():
            average_BDhw = state.average(batch.image_B3HW)
    return batch_losses(
        feature_BDhw,
        batch,
        classes,
        config,
        source=source,
        average_BDhw=average_BDhw,
        decoder=state.decoder,
        bank=state.bank,
    )


def label_source(config: RunConfig, step: int) -> Source | None:
    """Who names unlabelled pixels at this step: no one before share `start` of the steps."""
    settings, steps = config.self_training, config.train.steps
    if settings.method == "none" or step < settings.start * steps:
        return None
    return "teacher" if step < settings.teacher_until * steps else settings.source


def weighted_sum(losses: dict[str, Tensor], config: RunConfig) -> Tensor:
    """The total loss: each loss times the weight of its name."""
    weights = config.objectives.model_dump() | {"tie": config.latent.tie}
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


def _record(
    config: RunConfig, *, store: Store, spec: DatasetSpec, root: Path, experiment: str
) -> RunRecord:
    return RunRecord(
        experiment=experiment,
        config=config,
        dataset=spec,
        split=str(store.identity["split"]),
        root=root.resolve(),
        teacher=str(store.last("teacher") or store.info["teacher"]),
        templates=str(store.recipes["text"]["templates"]),
        store=store.path.resolve(),
        store_fingerprint=store.fingerprint,
        versions=package_versions(),
        revision=git_revision(),
    )


def _prepare(
    config: RunConfig,
    saved: Path | None,
    *,
    width: int,
    device: torch.device,
    precision: torch.dtype,
) -> State:
    """The state of a checkpoint, or that before step 0."""
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
    return state


def _non_finite(
    step: int,
    losses: dict[str, Tensor],
    norm: Tensor,
    batch: Batch,
    *,
    store: Store,
    saved: Path | None,
) -> NonFiniteError:
    values = {name: float(loss.detach()) for name, loss in losses.items()} | {
        "gradient norm": float(norm)
    }
    bad = ", ".join(f"{name} {value}" for name, value in values.items() if not isfinite(value))
    images = ", ".join(str(store.index[row]["id"]) for row in batch.row_B.tolist())
    weights = f"saved in {saved}" if saved else "not finite either: use the checkpoint before"
    return NonFiniteError(
        f"step {step}: {bad}, with the images {images}. The weights before this step are "
        f"{weights}. Start a new run with a lower train.learning_rate, with train.clip_norm=1 or "
        "with train.precision=fp32"
    )
