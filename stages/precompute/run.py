"""Stage one: makes the store of a split, continues it, or finds it complete.

First a plan is made of what is missing; torch is loaded only when there is anything in it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from zsseg.stages.cache.dense_loss import DenseLoss, loss_entry, recorded_loss
from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.manifest import VISIBLE_PIXELS
from zsseg.stages.cache.writer import Writer
from zsseg.stages.data.label_warning import visible_warning
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.visible import count_visible
from zsseg.stages.errors import DatasetError, ResourceError
from zsseg.stages.precompute.engine.dask_engine import open_engine
from zsseg.stages.precompute.engine.thread_engine import Engine
from zsseg.stages.precompute.forecast import Forecast, forecast_plan
from zsseg.stages.precompute.plan.changed_files import refuse_changed, refuse_failures
from zsseg.stages.precompute.plan.request import PrecomputeRequest
from zsseg.stages.precompute.plan.resolve_auto import require_gpu
from zsseg.stages.precompute.plan.store_command import store_command
from zsseg.stages.precompute.plan.stored_settings import settings_entry
from zsseg.stages.precompute.plan.wanted_store import WantedStore, resolve_request
from zsseg.stages.precompute.plan.work_plan import Plan, Planner, planned_bytes
from zsseg.stages.precompute.precompute_config import PrecomputeConfig
from zsseg.stages.precompute.progress import Meter, Phase, Progress
from zsseg.stages.precompute.teacher.teacher_files import TeacherFiles, Traits, resolve_teacher
from zsseg.stages.precompute.teacher.token_files import open_tokens

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrecomputeResult:
    """What a run did, and the state of the store."""

    path: StorePath
    images: int
    written: dict[str, int]
    """Rows that this run computed, by artifact; empty when the store was complete."""
    seconds: dict[Phase, float]
    failed: dict[str, str]
    """Id -> reason, of every image that cannot be used."""
    forwards: dict[str, int]
    """Images and crops that passed the teacher in this run, by artifact."""
    kept: dict[str, int]
    """Rows that were written again with their old values; of `local` tokens of crops."""
    loss: DenseLoss | None
    """What dense tokens have lost by their format; None in fp16, and where none are stored."""


def precompute(
    request: PrecomputeRequest,
    *,
    update: bool,
    progress: Callable[[Progress], None],
    retry_failed: bool = False,
    max_failures: int | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
) -> PrecomputeResult:
    """Make, continue or check the store that is asked for; it is sealed on return.

    `update` computes again what was made with other settings, from files that have changed since,
    or for images that were added; without it each raises CacheError. An image that cannot be used
    becomes a row of status 1, and stays one until its file changes or `retry_failed` is given; more
    than `max_failures` of them raise DatasetError, as it does when no image can be used. `workers`
    and `scheduler`: see `dask_engine.open_engine`.
    """
    files, meter = _teacher_files(request, scheduler), Meter(progress)
    with open_engine(files, request.config, workers=workers, scheduler=scheduler) as engine:
        wanted = _wanted_store(engine, request, files)
        with _open_writer(wanted, update=update) as writer:
            planner = Planner(wanted, retry_failed=retry_failed, keeps=True, meter=meter)
            plan = planner.plan()
            if not update:
                refuse_changed(wanted.path, wanted.samples, plan.states)
            forwards: dict[str, int] = {}
            kept: dict[str, int] = {}
            if plan.todo:
                from zsseg.stages.precompute.shard_loop import compute

                _require_maps(wanted, plan)
                planner.remember(plan)
                _check_space(wanted, plan)
                if "index" in plan.todo:  # what was counted is of other labels, also if this ends
                    _remember(writer, {VISIBLE_PIXELS: None})
                forwards, kept = compute(
                    writer, planner, plan, engine, meter, max_failures=max_failures
                )
            planner.remember(None)
            failed = _failures(writer, wanted.samples)
            _refuse_failures(request, failed, wanted.manifest.rows, at_most=max_failures)
            _warn_of_labels(writer, wanted, failed)
            loss = _finish(writer, wanted, engine, meter)
    return PrecomputeResult(
        path=wanted.path,
        images=wanted.manifest.rows,
        written={name: count for name, count in plan.rows.items() if count},
        seconds=meter.seconds,
        failed=failed,
        forwards=forwards,
        kept=kept,
        loss=loss,
    )


def forecast(
    request: PrecomputeRequest, *, retry_failed: bool, progress: Callable[[Progress], None]
) -> Forecast:
    """What `precompute` of this request would do, why, and at what cost; nothing is written.

    Files whose size or time is not what the store knows are hashed.
    """
    files, meter = _teacher_files(request, None), Meter(progress)
    with open_engine(files, request.config, workers=None, scheduler=None) as engine:
        wanted = _wanted_store(engine, request, files)
        planner = Planner(wanted, retry_failed=retry_failed, keeps=False, meter=meter)
        plan = planner.plan()
        _require_maps(wanted, plan)
        return forecast_plan(planner, plan, engine)


def _require_maps(wanted: WantedStore, plan: Plan) -> None:
    """Raise ResourceError where a teacher of stored maps has none of an image."""
    if wanted.files.kind == "tokens" and {"cls", "dense", "local"} & set(plan.todo):
        maps = open_tokens(wanted.files.spec, wanted.files.tokenizer_hash)
        maps.require(sample.id for sample in wanted.samples)


def _teacher_files(request: PrecomputeRequest, scheduler: str | None) -> TeacherFiles:
    """The teacher's files. A GPU that is asked for and not there is an error before any work."""
    if request.config.device == "cuda" and scheduler is None:
        require_gpu()
    return resolve_teacher(request.teacher, typed=request.typed)


def _wanted_store(engine: Engine, request: PrecomputeRequest, files: TeacherFiles) -> WantedStore:
    """The store that is asked for; a new one gets the settings that the engine's machine has."""

    def look(asked: PrecomputeConfig) -> dict[str, str]:
        from zsseg.stages.precompute.engine.questions import auto_values

        return engine.ask(partial(auto_values, config=asked))

    def ask_traits(resolved: PrecomputeConfig) -> Traits:
        from zsseg.stages.precompute.engine.questions import teacher_traits

        return engine.ask(partial(teacher_traits, config=resolved))

    def ask_size(asked: PrecomputeConfig, shapes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        from zsseg.stages.precompute.engine.questions import fitted_size

        # The library of k-means is looked for later: on a GPU both are timed.
        regions = asked.regions.model_copy(update={"backend": "sklearn"})
        values = look(asked.model_copy(update={"regions": regions}))
        here = asked.model_copy(
            update={"precision": values["precision"], "resize": values["resize"]}
        )
        return engine.ask(partial(fitted_size, config=here, shapes=shapes))

    return resolve_request(request, files, look=look, ask_traits=ask_traits, ask_size=ask_size)


def _open_writer(wanted: WantedStore, *, update: bool) -> Writer:
    """The wanted store, opened and locked by this process."""
    return Writer.open(
        wanted.path,
        identity=wanted.manifest.identity,
        artifacts=wanted.manifest.artifacts,
        index=wanted.index(),
        shard_rows=wanted.manifest.shard_rows,
        info=wanted.manifest.info,
        update=update,
    )


def _check_space(wanted: WantedStore, plan: Plan) -> None:
    """Raise ResourceError when what is to be written does not fit on the disk."""
    needed, free = planned_bytes(plan, wanted.manifest), storage(wanted.path).free_bytes()
    if free is not None and needed > free:
        raise ResourceError(
            f"{wanted.path}: {needed / 2**30:.1f} GiB are needed and {free / 2**30:.1f} GiB free. "
            "Give a --cache folder on a larger disk, a smaller dense.size or another dense.format"
        )


def _refuse_failures(
    request: PrecomputeRequest, failed: Mapping[str, str], images: int, *, at_most: int | None
) -> None:
    """Raise DatasetError when no image can be used, or fewer than are asked for."""
    if len(failed) == images:
        raise DatasetError(
            f"{request.root}: none of the {len(failed)} images of split '{request.split}' can be "
            f"used. Mend them. The first: {next(iter(failed.values()))}"
        )
    refuse_failures(request.root, failed.values(), at_most=at_most)


def _warn_of_labels(writer: Writer, wanted: WantedStore, failed: Mapping[str, str]) -> None:
    """Say which seen classes no label shows; a run that read a part of them looks at others."""
    labelled = [each for each in wanted.samples if each.label_file and each.id not in failed]
    if not labelled:
        return
    visible = writer.last(VISIBLE_PIXELS)
    if visible is None:
        visible = count_visible(wanted.spec, labelled)
        writer.log({VISIBLE_PIXELS: visible})
    if told := visible_warning(wanted.spec, wanted.split, visible):
        _log.warning("%s", told)


def _finish(writer: Writer, wanted: WantedStore, engine: Engine, meter: Meter) -> DenseLoss | None:
    """Seal the store, measure its dense tokens, and note in its history what it was made from."""
    command = store_command(wanted.spec, wanted.split, wanted.limit, wanted.config)
    writer.seal(command=command)
    loss = _dense_loss(writer, wanted, engine, meter)
    places = {"root": str(wanted.root.resolve()), "teacher": wanted.files.located}
    _remember(writer, places | settings_entry(wanted.settings))
    return loss


def _dense_loss(
    writer: Writer, wanted: WantedStore, engine: Engine, meter: Meter
) -> DenseLoss | None:
    """What dense tokens have lost by their format: measured once, and kept in the history."""
    config = wanted.config
    loss = recorded_loss(wanted.path, writer.manifest)
    if loss is not None or config.dense.format in ("fp16", "none"):
        return loss
    from zsseg.stages.precompute.engine.questions import dense_loss

    question = partial(
        dense_loss,
        path=wanted.path,
        spec=wanted.spec,
        root=wanted.root,
        samples=wanted.samples,
        config=config,
    )
    with meter.phase("teacher"):
        loss = engine.ask(question)
    if loss is not None:
        writer.log(loss_entry(wanted.path, writer.manifest, loss))
    return loss


def _remember(writer: Writer, values: Mapping[str, Any]) -> None:
    """Write these values into the history, unless its newest ones are the same.

    Later commands find data set and teacher by them, and `--repair` the settings of a store whose
    own description is damaged.
    """
    if any(writer.last(key) != value for key, value in values.items()):
        writer.log(values)


def _failures(writer: Writer, samples: Sequence[Sample]) -> dict[str, str]:
    """Id -> reason of all images that cannot be used, from the receipts."""
    failed: dict[str, str] = {}
    shards = range(-(-len(samples) // writer.manifest.shard_rows))
    with storage(writer.path).read_ahead():
        for shard in shards:  # one by one: a receipt holds hashes of all its images
            receipt = writer.receipt("index", shard)
            assert receipt is not None
            failed |= {samples[int(row)].id: why for row, why in receipt["failures"].items()}
    return failed
