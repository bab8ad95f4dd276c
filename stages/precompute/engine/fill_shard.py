"""The visible loop of stage one: one shard, every artifact that it misses, read to written.

Each artifact is made from what is stored, never from what is still in memory, so an interrupted
run that was continued ends with the same bytes as one that was not interrupted. Dense tokens that
the store does not keep are made where regions need them, the same ones each time.

Legend: N images of the shard.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.cache.format.arrays import open_array
from zsseg.stages.cache.format.arrays import read as read_rows
from zsseg.stages.cache.format.codec import DENSE
from zsseg.stages.cache.format.ledger import damage
from zsseg.stages.cache.format.manifest import Manifest, shard_file
from zsseg.stages.cache.shards import Files, check_finite, get, put
from zsseg.stages.errors import CacheError
from zsseg.stages.precompute.engine.jobs import Job, OldRow, RunContext, ShardResult
from zsseg.stages.precompute.make.artifacts import (
    CropNotes,
    cls_arrays,
    dense_arrays,
    local_arrays,
    region_arrays,
    unkept_tokens,
)
from zsseg.stages.precompute.make.class_crops import crop_salt
from zsseg.stages.precompute.make.kmeans import Backend
from zsseg.stages.precompute.make.pictures import (
    Hashes,
    ImageRow,
    file_hash,
    index_arrays,
    read_image_row,
)
from zsseg.stages.precompute.progress import Clock
from zsseg.stages.precompute.teacher.clip_teacher import Teacher
from zsseg.stages.precompute.threads import in_threads

ORDER = ("index", "cls", "dense", "regions", "local")
"""The per-row artifacts, each after those that it is made from."""

_EMPTY = {"local_ids": -1}  # rows of failed images, where they are not 0


def fill_shard(
    job: Job, context: RunContext, *, teacher: Teacher, backend: Backend, clock: Clock
) -> ShardResult:
    """Compute and write one shard. Nothing of it counts until its result is committed.

    Raises CacheError when a file changed since the run began, NonFiniteError for tokens that do not
    fit into half precision, ResourceError when the disk refuses.
    """
    with clock.phase("read"):
        job = _untouched(job)
        rows = _read(job, context)
    _check_unchanged(job, context, rows)
    artifacts = {each.name: each for each in context.manifest.artifacts}
    files: dict[str, Files] = {}
    notes: dict[str, Mapping[str, Any]] = {}
    kept: dict[str, int] = {}
    forwards: dict[str, int] = {}
    ids = [sample.id for sample in job.samples]
    for name in job.todo:
        passed = clock.passed
        # A row of the index is made of an image that failed, too.
        fresh = [
            i
            for i, row in enumerate(rows)
            if (row.picture or name == "index") and not job.copies(i, name)
        ]
        made, notes[name], kept[name] = _make(
            name, job, context, rows, fresh, teacher=teacher, backend=backend, clock=clock
        )
        forwards[name] = clock.passed - passed
        with clock.phase("write"):
            arrays = _all_rows(name, job, context.manifest, made, fresh)
            files[name] = put(
                context.path, context.manifest, artifacts[name], job.shard, arrays, ids=ids
            )
        clock.advance(len(rows) - len(fresh))
    first = context.manifest.rows_of(job.shard).start
    return ShardResult(
        job=job,
        files=files,
        notes=notes,
        failures={first + i: row.failure for i, row in enumerate(rows) if row.failure},
        seconds=dict(clock.seconds),
        forwards={name: count for name, count in forwards.items() if count},
        kept={name: count for name, count in kept.items() if count},
    )


def _untouched(job: Job) -> Job:
    """The job without old values that are not what they were.

    A process that was lost at this shard may have replaced them: then their rows, and the crops
    that their tokens belong to, are other ones.
    """
    if job.old is None:
        return job
    touched = [
        name
        for name, files in job.old.files.items()
        if any(damage(job.old.path, file, entry, read_data=True) for file, entry in files.items())
    ]
    return replace(job, old=job.old.without(touched)) if touched else job


def _read(job: Job, context: RunContext) -> list[ImageRow]:
    """The rows of the shard: read, or as the store knows them."""

    def row(place: int) -> ImageRow:
        if reason := job.left_out.get(place):
            return ImageRow(Hashes(file_hash(job.samples[place].image), None), None, reason)
        if job.reads(place):
            return read_image_row(context.spec, context.root, job.samples[place])
        old = _old(job, place)
        assert old is not None
        return ImageRow(old.hashes, None, old.failure)

    return in_threads(row, range(len(job.samples)))


def _check_unchanged(job: Job, context: RunContext, rows: Sequence[ImageRow]) -> None:
    """Are the files that were read those that the values beside them are made from?

    An image whose own tokens are not made now has to be what it was; its visible label too where
    the row is known to be the same. Where nothing is known, nothing is made from it. A good one
    that cannot be read just now has not failed for good: its row must not become zeros.
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


def _make(
    name: str,
    job: Job,
    context: RunContext,
    rows: Sequence[ImageRow],
    fresh: Sequence[int],
    *,
    teacher: Teacher,
    backend: Backend,
    clock: Clock,
) -> tuple[Mapping[str, NDArray[Any]], dict[str, Any], int]:
    """Arrays of the fresh rows, notes on all, and how many values need not be computed."""
    path, manifest, config = context.path, context.manifest, context.config
    first = manifest.rows_of(job.shard).start
    pictures = [picture for i in fresh if (picture := rows[i].picture)]
    copied = [old for i in range(len(rows)) if (old := job.copies(i, name))]
    keeps_dense = DENSE in manifest.arrays
    notes: dict[str, Any] = {}
    match name:
        case "index":
            arrays, notes = index_arrays(rows, first)
            clock.advance(len(fresh))
            return {key: values[list(fresh)] for key, values in arrays.items()}, notes, len(copied)
        case "cls":
            with clock.phase("preprocess"):
                arrays = cls_arrays(
                    teacher, pictures, config.views, batch=config.batch, advance=clock.advance
                )
        case "dense" if not keeps_dense:
            clock.advance(len(fresh))
            arrays = {}
        case "dense":
            with clock.phase("preprocess"):
                arrays = dense_arrays(
                    teacher,
                    pictures,
                    config.dense,
                    basis=_basis(context),
                    batch=config.batch,
                    advance=clock.advance,
                )
        case "regions":
            if keeps_dense:
                with clock.phase("read"):
                    dense_NDhw = get(path, manifest, DENSE, job.shard)[list(fresh)]
            else:
                with clock.phase("preprocess"):
                    dense_NDhw = unkept_tokens(teacher, pictures, config.dense, batch=config.batch)
                check_finite(path, DENSE, dense_NDhw, ids=[job.samples[i].id for i in fresh])
            with clock.alone("regions") if backend == "cuml" else clock.phase("regions"):
                arrays = region_arrays(
                    dense_NDhw, pictures, config.regions, backend=backend, advance=clock.advance
                )
        case _:
            recipe = manifest.arrays["local"][0].recipe
            known = _known_tokens(job, recipe)
            with clock.phase("crops"):
                arrays, crops = local_arrays(
                    teacher,
                    pictures,
                    get(path, manifest, "regions", job.shard)[list(fresh)],
                    config.local,
                    salt=crop_salt(recipe),
                    known=known,
                    batch=config.batch,
                    advance=clock.advance,
                )
            by_place = dict(zip(fresh, crops, strict=True)) | {
                i: CropNotes(old.crops, old.left_out)
                for i in range(len(rows))
                if (old := job.copies(i, name))
            }
            notes = {
                "crops": [
                    list(by_place[i].hashes) if i in by_place else [] for i in range(len(rows))
                ],
                "left_out": {
                    str(first + i): c.left_out for i, c in sorted(by_place.items()) if c.left_out
                },
            }
            reused = sum(each in known for one in crops for each in one.hashes)
            return arrays, notes, reused + sum(len(old.crops) for old in copied)
    return arrays, notes, len(copied)


def _all_rows(
    name: str,
    job: Job,
    manifest: Manifest,
    made: Mapping[str, NDArray[Any]],
    fresh: Sequence[int],
) -> Mapping[str, NDArray[Any]]:
    """The fresh rows' values among all rows: others are copied, or empty where an image failed."""
    count = len(job.samples)
    if len(fresh) == count:
        return made
    whole = {}
    for array, values in made.items():
        rows = np.full((count, *values.shape[1:]), _EMPTY.get(array, 0), values.dtype)
        rows[list(fresh)] = values
        whole[array] = rows
    for place in range(count):
        if old := job.copies(place, name):
            for array, values in whole.items():
                values[place] = _old_values(job, array, old.row)
    return whole


def _old(job: Job, place: int) -> OldRow | None:
    return job.old.rows.get(place) if job.old is not None else None


def _old_values(job: Job, array: str, row: int) -> NDArray[Any]:
    assert job.old is not None
    manifest = job.old.manifest
    artifact, spec = manifest.arrays[array]
    file = job.old.path / shard_file(spec, artifact, row // manifest.shard_rows)
    if not file.is_file():  # zarr would read zeros
        raise CacheError(f"{file}: missing. Run the same `zsseg precompute` command again")
    try:
        return read_rows(open_array(job.old.path, manifest, array), row, where=str(file))
    except CacheError as error:
        raise CacheError(
            f"{file}: damaged ({error.__cause__ or error}), and rows that have not changed are "
            "copied from there. Delete the file and run the same `zsseg precompute` command again: "
            "it computes what the file held"
        ) from error


def _known_tokens(job: Job, recipe: Mapping[str, Any]) -> dict[str, NDArray[np.float16]]:
    """Tokens of crops that were encoded before, by hash; fewer where their data is damaged."""
    if job.old is None or not any(old.crops for old in job.old.rows.values()):
        return {}
    known: dict[str, NDArray[np.float16]] = {}
    for old in job.old.rows.values():
        if old.crops:
            try:
                local_KD = _old_values(job, "local", old.row)
            except CacheError:  # the row's receipt was sound, its data is not: encoded again
                continue
            known |= zip(old.crops, local_KD, strict=False)
    return known


def _basis(context: RunContext) -> dict[str, NDArray[np.float32]]:
    """The basis as it is stored; empty where the format of the dense tokens needs none."""
    arrays = context.manifest.arrays
    names = [name for name in ("pca_basis", "pca_mean") if name in arrays]
    return {name: get(context.path, context.manifest, name, 0) for name in names}
