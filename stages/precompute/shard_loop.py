"""The loop of stage one: an engine computes the shards of a plan, and each is committed here."""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from zsseg.stages.cache.format.codec import DENSE
from zsseg.stages.cache.format.manifest import VISIBLE_PIXELS, read_manifest, shard_file
from zsseg.stages.cache.shards import load_shard
from zsseg.stages.cache.writer import Writer
from zsseg.stages.errors import CacheError
from zsseg.stages.precompute.engine.jobs import Job, RunContext
from zsseg.stages.precompute.engine.questions import device_and_library, made_once
from zsseg.stages.precompute.engine.thread_engine import Engine
from zsseg.stages.precompute.make.artifact_kind import StoreInputs
from zsseg.stages.precompute.make.artifacts import FROM_TOKENS
from zsseg.stages.precompute.make.token_loss import spread
from zsseg.stages.precompute.plan.changed_files import refuse_failures
from zsseg.stages.precompute.plan.work_plan import Plan, Planner
from zsseg.stages.precompute.precompute_config import BASIS_IMAGES
from zsseg.stages.precompute.progress import Meter

_PACKAGES = (
    "zsseg", "dask", "numpy", "open_clip_torch", "pillow", "scikit-learn", "torch", "zarr",
)  # fmt: skip

_log = logging.getLogger(__name__)


def compute(
    writer: Writer,
    planner: Planner,
    plan: Plan,
    engine: Engine,
    meter: Meter,
    *,
    max_failures: int | None,
) -> tuple[dict[str, int], dict[str, int]]:
    """Carry out a plan, and write into the store's history how it went.

    Returns two numbers per artifact: images (of `local`: crops) that passed the teacher, and rows
    (of `local`: tokens of crops) whose stored values were used again. An interrupt loses the shards
    that are being computed. Raises what `fill_shard` raises, and DatasetError for more than
    `max_failures` images that cannot be used.
    """
    begin, wanted = datetime.now(UTC), planner.wanted
    if DENSE not in wanted.manifest.arrays:
        shards = {shard for name in FROM_TOKENS for shard in plan.todo.get(name, ())}
        if shards:
            _log.info(
                "%s keeps no dense tokens: they are made in memory for %d shards",
                wanted.path,
                len(shards),
            )
    meter.expect(plan.steps)
    meter.begin(max(plan.rows.values()))
    _copy_set_aside(writer, planner)
    writer.withdraw_all(planner.forced(plan))
    with meter.phase("teacher"):
        _compute_units(writer, planner, plan, engine, meter)
    forwards, kept, visible = _compute_shards(
        writer, planner, plan, engine, meter, max_failures=max_failures
    )
    writer.log(
        {
            "begin": begin.isoformat(timespec="seconds"),
            "end": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": {phase: round(value, 3) for phase, value in meter.seconds.items()},
            "shards": {name: len(shards) for name, shards in plan.todo.items()},
            "forwards": forwards,
            "kept": kept,
            VISIBLE_PIXELS: visible,
            "versions": _versions(),
            **engine.ask(partial(device_and_library, config=wanted.config)),
        }
    )
    return forwards, kept


def _compute_shards(
    writer: Writer,
    planner: Planner,
    plan: Plan,
    engine: Engine,
    meter: Meter,
    *,
    max_failures: int | None,
) -> tuple[dict[str, int], dict[str, int], dict[str, int] | None]:
    """Compute every shard of the plan and commit each when it is done; returns as `compute`.

    The third is the pixels of each value of the visible labels; None unless all of them were read.
    """
    wanted = planner.wanted
    context = RunContext(wanted.path, wanted.manifest, wanted.spec, wanted.root, wanted.config)
    forwards, kept, failures = Counter[str](), Counter[str](), _known_failures(writer, plan)
    read, visible = 0, Counter[int]()
    refuse_failures(wanted.root, failures.values(), at_most=max_failures)
    jobs = _withdrawn(writer, planner, plan)
    # Closed before the store's lock is released, whatever happens: nothing writes to it then.
    with closing(engine.run(jobs, context, meter.advance)) as results:
        for result in results:
            for name in result.job.todo:
                files, notes = result.files[name], result.notes[name]
                writer.commit(name, result.job.shard, files, notes=notes)
            meter.add(result.seconds, size=result.bytes, failures=len(result.failures))
            meter.advance(0)
            forwards.update(result.forwards)
            kept.update(result.kept)
            read += result.read
            visible.update(result.visible)
            for row, reason in result.failures.items():
                _log.warning("row %d cannot be used: %s", row, reason)
            failures |= result.failures
            refuse_failures(wanted.root, failures.values(), at_most=max_failures)
    known = {str(value): count for value, count in sorted(visible.items())}
    return dict(forwards), dict(kept), known if read == wanted.manifest.rows else None


def _copy_set_aside(writer: Writer, planner: Planner) -> None:
    """Copy the artifacts without rows that only the store that was set aside still has."""
    for name, source in planner.units_set_aside.items():
        stored, artifact = read_manifest(source), planner.artifacts[name]
        specs = artifact.arrays
        try:
            arrays = {spec.name: load_shard(source, stored, spec.name, 0) for spec in specs}
        except CacheError as error:
            files = " and ".join(str(source / shard_file(spec, artifact, 0)) for spec in specs)
            raise CacheError(
                f"{files}: damaged ({error.__cause__ or error}), and {name} is copied from there. "
                "Delete the file and run the same `zsseg precompute` command again: it computes "
                "what the file held"
            ) from error
        writer.write(name, 0, arrays)


def _known_failures(writer: Writer, plan: Plan) -> dict[int, str]:
    """Row -> reason, of the shards that the plan leaves as they are."""
    failures: dict[int, str] = {}
    index, _ = writer.manifest.arrays["status"]
    for shard in set(writer.manifest.shards(index)).difference(plan.shards):
        if receipt := writer.receipt("index", shard):
            failures |= {int(row): reason for row, reason in receipt["failures"].items()}
    return failures


def _withdrawn(writer: Writer, planner: Planner, plan: Plan) -> Iterator[Job]:
    """The jobs of a plan. Each one's receipts are deleted when it is taken, in reverse order.

    So an artifact's receipt goes before the one that it is made from, and a run that continues
    after a crash at any moment finds the same reasons to compute it.
    """
    for shard in plan.shards:
        job = planner.job(plan, shard)
        for name in reversed(job.todo):
            writer.withdraw(name, shard)
        yield job


def _compute_units(
    writer: Writer, planner: Planner, plan: Plan, engine: Engine, meter: Meter
) -> None:
    """Compute the once-per-store artifacts of the plan (text, PCA basis)."""
    wanted = planner.wanted
    samples = [wanted.samples[i] for i in spread(np.arange(len(wanted.samples)), BASIS_IMAGES)]
    inputs = StoreInputs(wanted.spec, wanted.root, samples, wanted.config)
    for name in plan.todo:
        if not planner.artifacts[name].per_row:
            writer.write(name, 0, engine.ask(partial(made_once, name=name, inputs=inputs)))
            meter.advance(plan.rows[name])


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # zsseg itself, run from a checkout
            continue
    return found
