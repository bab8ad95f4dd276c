"""Stage one: the store of a split is made, continued, or found complete.

The list of what is missing is made first, and torch is loaded only when there is something on it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from zsseg.stages.cache.dense_loss import DenseLoss, loss_entry, recorded_loss
from zsseg.stages.cache.disk.files import free_bytes, read_ahead
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.writer import Writer
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.errors import DatasetError, ResourceError
from zsseg.stages.precompute.engine.cluster import open_engine
from zsseg.stages.precompute.engine.threads_here import Engine
from zsseg.stages.precompute.forecast import Forecast, forecast
from zsseg.stages.precompute.plan.changed_files import refuse_changed, refuse_failures
from zsseg.stages.precompute.plan.request import Wanted, wanted_store
from zsseg.stages.precompute.plan.resolve_auto import require_gpu
from zsseg.stages.precompute.plan.store_command import store_command
from zsseg.stages.precompute.plan.stored_settings import settings_entry
from zsseg.stages.precompute.plan.work_plan import Plan, Planner, planned_bytes
from zsseg.stages.precompute.precompute_config import PrecomputeConfig
from zsseg.stages.precompute.progress import Meter, Phase, Progress
from zsseg.stages.precompute.teacher.teacher_files import TeacherFiles, Traits, resolve_teacher


@dataclass(frozen=True)
class PrecomputeResult:
    """What a run did, and how the store stands."""

    path: StorePath
    images: int
    written: dict[str, int]
    """Rows that this run computed, by artifact; empty when everything was there."""
    seconds: dict[Phase, float]
    """Where this run's time went."""
    failed: dict[str, str]
    """Id -> reason of every image that could not be used, in this run or before."""
    forwards: dict[str, int]
    """Images and crops that passed the teacher in this run, by artifact."""
    kept: dict[str, int]
    """What was written again with the values that it had: of `local` tokens of crops, else rows."""
    loss: DenseLoss | None
    """What storing dense tokens in fewer bytes costs; None in fp16, and where none are stored."""


def precompute(
    spec: DatasetSpec,
    *,
    root: Path,
    split: str,
    teacher: str,
    cache: StorePath,
    config: PrecomputeConfig,
    limit: int | None,
    update: bool,
    progress: Callable[[Progress], None],
    retry_failed: bool = False,
    max_failures: int | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
) -> PrecomputeResult:
    """Make, continue or check the store of a split in the folder `cache`; sealed on return.

    `limit` takes the first images only. `update` computes anew what was made with other settings,
    from files that have changed since, or for images that came; without it each raises CacheError.
    An image that cannot be used is a row of status 1, and stays it until its file changes or
    `retry_failed` is asked for; more than `max_failures` of them raise DatasetError, as it does
    when all are. `workers` and `scheduler`: see `cluster.open_engine`.
    """
    files, meter = _found(teacher, config, scheduler), Meter(progress)
    with open_engine(files, config, workers=workers, scheduler=scheduler) as engine:
        wanted = _wanted(engine, spec, root, split, files, cache, config, limit)
        with _open_writer(wanted, update=update) as writer:
            planner = Planner(wanted, retry_failed=retry_failed, keeps=True, meter=meter)
            plan = planner.plan()
            if not update:
                refuse_changed(wanted.path, wanted.samples, plan.states)
            forwards: dict[str, int] = {}
            kept: dict[str, int] = {}
            if plan.todo:
                from zsseg.stages.precompute.shard_loop import compute

                planner.remember(plan)
                _check_space(wanted, plan)
                forwards, kept = compute(
                    writer, planner, plan, wanted, engine, meter, max_failures=max_failures
                )
            planner.remember(None)
            failed = _failures(writer, wanted.samples)
            if len(failed) == len(wanted.samples):
                raise DatasetError(
                    f"{root}: none of the {len(failed)} images of split '{split}' can be used. "
                    f"The first: {next(iter(failed.values()))}"
                )
            refuse_failures(root, failed.values(), at_most=max_failures)
            writer.seal(command=store_command(spec, split, wanted.limit, wanted.config))
            loss = _loss(writer, wanted, engine, meter)
            places = {"root": str(root.resolve()), "teacher": files.located}
            _remember(writer, places | settings_entry(wanted.settings))
    done = {name: count for name, count in plan.rows.items() if count}
    return PrecomputeResult(
        path=wanted.path,
        images=wanted.manifest.rows,
        written=done,
        seconds=meter.seconds,
        failed=failed,
        forwards=forwards,
        kept=kept,
        loss=loss,
    )


def foretell(
    spec: DatasetSpec,
    *,
    root: Path,
    split: str,
    teacher: str,
    cache: StorePath,
    config: PrecomputeConfig,
    limit: int | None,
    retry_failed: bool,
    progress: Callable[[Progress], None],
) -> Forecast:
    """What `precompute` of the same arguments would do, why, and at what cost; nothing is written.

    Files that the store does not know by size and time are hashed.
    """
    files, meter = _found(teacher, config, None), Meter(progress)
    with open_engine(files, config, workers=None, scheduler=None) as engine:
        wanted = _wanted(engine, spec, root, split, files, cache, config, limit)
        planner = Planner(wanted, retry_failed=retry_failed, keeps=False, meter=meter)
        plan = planner.plan()
        return forecast(wanted, planner, plan, engine)


def _found(teacher: str, config: PrecomputeConfig, scheduler: str | None) -> TeacherFiles:
    """The teacher's files; a GPU that is asked for and not there is told before any work."""
    if config.device == "cuda" and scheduler is None:
        require_gpu()
    return resolve_teacher(teacher)


def _wanted(
    engine: Engine,
    spec: DatasetSpec,
    root: Path,
    split: str,
    files: TeacherFiles,
    cache: StorePath,
    config: PrecomputeConfig,
    limit: int | None,
) -> Wanted:
    """The store that is asked for; what a new one is begun with says the place that computes it."""

    def look(asked: PrecomputeConfig) -> dict[str, str]:
        from zsseg.stages.precompute.engine.questions import found_where_asked

        return engine.ask(partial(found_where_asked, config=asked))

    def ask_traits(settled: PrecomputeConfig) -> Traits:
        from zsseg.stages.precompute.engine.questions import teacher_traits

        return engine.ask(partial(teacher_traits, config=settled))

    return wanted_store(
        spec,
        root=root,
        split=split,
        files=files,
        cache=cache,
        config=config,
        limit=limit,
        look=look,
        ask_traits=ask_traits,
    )


def _open_writer(wanted: Wanted, *, update: bool) -> Writer:
    """The store that is wanted, under this process's lock."""
    return Writer.open(
        wanted.path,
        identity=wanted.manifest.identity,
        artifacts=wanted.manifest.artifacts,
        index=wanted.index(),
        shard_rows=wanted.manifest.shard_rows,
        info=wanted.manifest.info,
        update=update,
    )


def _check_space(wanted: Wanted, plan: Plan) -> None:
    """Raise ResourceError before the work when what it makes does not fit on the disk."""
    needed, free = planned_bytes(plan, wanted.manifest), free_bytes(wanted.path)
    if free is not None and needed > free:
        raise ResourceError(
            f"{wanted.path}: {needed / 2**30:.1f} GiB are needed and {free / 2**30:.1f} GiB free. "
            "Give a --cache folder on a larger disk, a smaller dense.size or another dense.format"
        )


def _loss(writer: Writer, wanted: Wanted, engine: Engine, meter: Meter) -> DenseLoss | None:
    """What storing dense tokens in fewer bytes costs, measured once and kept in the history."""
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


def _remember(writer: Writer, said: Mapping[str, Any]) -> None:
    """Note where data set and teacher lie now and what was asked for, if that is news.

    For the commands that come next, and for the repair of a store that cannot say it itself.
    """
    if any(writer.last(key) != value for key, value in said.items()):
        writer.log(said)


def _failures(writer: Writer, samples: Sequence[Sample]) -> dict[str, str]:
    """Id -> reason, as the receipts have them."""
    failed: dict[str, str] = {}
    shards = range(-(-len(samples) // writer.manifest.shard_rows))
    with read_ahead(writer.path):
        for shard in shards:  # a receipt holds hashes of every image: not all of them at once
            receipt = writer.receipt("index", shard)
            assert receipt is not None
            failed |= {samples[int(row)].id: why for row, why in receipt["failures"].items()}
    return failed
