"""Computes one shard: every artifact that it lacks, from the image files to the store's files.

Each artifact is made from what is stored, never from what is still in memory, so an interrupted
run that was continued ends with the same bytes as one that was not interrupted.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.cache.format.ledger import file_damage
from zsseg.stages.cache.format.manifest import shard_file
from zsseg.stages.cache.format.stored_rows import stored_rows
from zsseg.stages.cache.shards import Files, save_shard
from zsseg.stages.data.spec import VOID
from zsseg.stages.errors import CacheError
from zsseg.stages.precompute.engine.jobs import Job, RunContext, ShardResult
from zsseg.stages.precompute.make.artifact_kind import Arrays, ArtifactKind, ShardInputs
from zsseg.stages.precompute.make.artifacts import KINDS
from zsseg.stages.precompute.make.kmeans import Backend
from zsseg.stages.precompute.make.pictures import (
    Hashes,
    OldRow,
    ShardRow,
    file_hash,
    read_shard_row,
)
from zsseg.stages.precompute.make.pixel_gate import AT_WORK, MEGAPIXEL, PixelStock
from zsseg.stages.precompute.progress import Clock
from zsseg.stages.precompute.teacher.teacher_protocol import Teacher
from zsseg.stages.precompute.threads import in_threads


def fill_shard(
    job: Job, context: RunContext, *, teacher: Teacher, backend: Backend, clock: Clock
) -> ShardResult:
    """Compute and write one shard. Nothing of it counts until its result is committed.

    Raises CacheError when a file changed since the run began, NonFiniteError for tokens that do not
    fit into half precision, ResourceError when the disk refuses.
    """
    with clock.phase("read"):
        job = _without_touched(job)
        rows = _read(job, context)
    _check_unchanged(job, context, rows)
    files: dict[str, Files] = {}
    notes: dict[str, Mapping[str, Any]] = {}
    kept: Counter[str] = Counter()
    forwards: Counter[str] = Counter()
    inputs = _inputs(job, context, rows, teacher=teacher, backend=backend, clock=clock)
    for name in job.todo:
        passed = clock.passed
        copied = {i: old for i in range(len(rows)) if (old := job.copies(i, name))}
        # An image that failed has a row of the index, and of nothing else.
        makes = (i for i, row in enumerate(rows) if row.picture or name == "index")
        fresh = [i for i in makes if i not in copied]
        make = KINDS[name].make
        assert make is not None
        made = make(replace(inputs, fresh=fresh, copied=copied))
        notes[name] = made.notes
        kept[name] = len(copied) if made.kept is None else made.kept
        forwards[name] = clock.passed - passed
        with clock.phase("write"):
            arrays = _all_rows(KINDS[name], job, made.arrays, fresh)
            files[name] = _write(context, name, job, arrays)
        clock.advance(len(rows) - len(fresh))
    failures = {inputs.first + i: row.failure for i, row in enumerate(rows) if row.failure}
    seconds = dict(clock.seconds)
    read, visible = sum(map(job.reads, range(len(rows)))), _visible_pixels(rows)
    return ShardResult(job, files, notes, failures, seconds, +forwards, +kept, read, visible)


def _visible_pixels(rows: Sequence[ShardRow]) -> Counter[int]:
    pixels_V = np.zeros(VOID + 1, dtype=np.int64)
    for row in rows:
        if row.picture:
            pixels_V += row.picture.class_pixels
    return Counter({int(value): int(pixels_V[value]) for value in np.flatnonzero(pixels_V)})


def _inputs(
    job: Job,
    context: RunContext,
    rows: Sequence[ShardRow],
    *,
    teacher: Teacher,
    backend: Backend,
    clock: Clock,
) -> ShardInputs:
    """What all artifacts of the shard are made from; which rows to make differs."""
    return ShardInputs(
        path=context.path,
        manifest=context.manifest,
        shard=job.shard,
        config=context.config,
        ids=[sample.id for sample in job.samples],
        rows=rows,
        fresh=(),
        copied={},
        old=job.old.rows if job.old is not None else {},
        old_values=lambda array, row: _old_values(job, array, row.row),
        teacher=teacher,
        backend=backend,
        clock=clock,
    )


def _write(context: RunContext, name: str, job: Job, arrays: Arrays) -> Files:
    (artifact,) = (each for each in context.manifest.artifacts if each.name == name)
    ids = [sample.id for sample in job.samples]
    return save_shard(context.path, context.manifest, artifact, job.shard, arrays, ids=ids)


def _without_touched(job: Job) -> Job:
    """The job without old values whose files no longer match their receipt.

    A process that died while writing this shard may have overwritten them with values of other
    rows or crops.
    """
    if job.old is None:
        return job
    touched = [
        name
        for name, files in job.old.files.items()
        if any(
            file_damage(job.old.path, file, entry, read_data=True) for file, entry in files.items()
        )
    ]
    return replace(job, old=job.old.without(touched)) if touched else job


def _read(job: Job, context: RunContext) -> list[ShardRow]:
    """The rows of the shard: read, or as the earlier store knows them.

    Pictures are kept as far as there is room, and the others read again for each artifact.
    """
    config = context.config
    AT_WORK.limit = config.megapixels * MEGAPIXEL
    stock = PixelStock(2 * AT_WORK.limit // config.shards_at_once)

    def row(place: int) -> ShardRow:
        if reason := job.left_out.get(place):
            return ShardRow(Hashes(file_hash(job.samples[place].image), None), None, reason)
        if job.reads(place):
            sample = job.samples[place]
            return read_shard_row(context.spec, context.root, sample, keep=stock.takes)
        old = _old(job, place)
        assert old is not None
        return ShardRow(old.hashes, None, old.failure)

    return in_threads(row, range(len(job.samples)))


def _check_unchanged(job: Job, context: RunContext, rows: Sequence[ShardRow]) -> None:
    """Raise CacheError when a file is not the one that the copied values were made from.

    The plan compared the files; one may have changed since. The image of a row with copied values
    must be the same, and the visible label too where the plan found the row unchanged. An image
    that cannot be read only now must not become a row of zeros.
    """
    for place, row in enumerate(rows):
        old = _old(job, place)
        if old is None or place in job.left_out or not job.reads(place):
            continue
        if not (old.same or old.relabelled):
            continue
        if old.failure is not None and old.same:
            same = row.picture is None  # whatever its bytes are: it has zeros in every array
        else:
            same = row.picture is not None and row.hashes.image == old.hashes.image
            same &= not old.same or row.hashes.label == old.hashes.label
        if not same:
            raise CacheError(
                f"{context.path}: files of shard {job.shard} changed while the run was going "
                f"on, the first is {job.samples[place].image}. What is committed is safe: run the "
                "same command again"
            )


def _all_rows(kind: ArtifactKind, job: Job, made: Arrays, fresh: Sequence[int]) -> Arrays:
    """All rows: those just made, those copied, and empty ones where an image failed."""
    count = len(job.samples)
    if len(fresh) == count:
        return made
    whole = {}
    for array, values in made.items():
        rows = np.full((count, *values.shape[1:]), kind.empty.get(array, 0), values.dtype)
        rows[list(fresh)] = values
        whole[array] = rows
    for place in range(count):
        if old := job.copies(place, kind.name):
            for array, values in whole.items():
                values[place] = _old_values(job, array, old.row)
    return whole


def _old(job: Job, place: int) -> OldRow | None:
    return job.old.rows.get(place) if job.old is not None else None


def _old_values(job: Job, array: str, row: int) -> NDArray[Any]:
    assert job.old is not None
    manifest = job.old.manifest
    artifact, spec = manifest.arrays[array]
    shard, within = divmod(row, manifest.shard_rows)
    name = shard_file(spec, artifact, shard)
    file = job.old.path / name
    if not file.is_file():
        raise CacheError(f"{file}: missing. Run the same `zsseg precompute` command again")
    try:
        return stored_rows(job.old.path, manifest, array).read(name, within)
    except CacheError as error:
        raise CacheError(
            f"{file}: damaged ({error.__cause__ or error}), and rows that have not changed are "
            "copied from there. Delete the file and run the same `zsseg precompute` command again: "
            "it computes what the file held"
        ) from error
