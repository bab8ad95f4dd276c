"""Writes and reads one shard of an artifact, in any process.

Exactly one process computes a shard, so it needs no lock. The process that holds the store's lock
declares the shard complete afterwards: `Writer.commit`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zsseg.stages.cache.disk.disk_errors import disk_errors
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.arrays import write_shard
from zsseg.stages.cache.format.codec import DENSE, decode
from zsseg.stages.cache.format.manifest import ArraySpec, Artifact, Manifest
from zsseg.stages.cache.format.stored_rows import read_shard
from zsseg.stages.errors import NonFiniteError
from zsseg.stages.printable import counted

Arrays = Mapping[str, np.ndarray[Any, Any]]
Files = dict[str, dict[str, Any]]
"""Size and hash of each file of a shard, by its path in the store, as its receipt holds them."""

_SHOWN = 10  # images named in one message


def save_shard(
    store: StorePath,
    manifest: Manifest,
    artifact: Artifact,
    shard: int,
    arrays: Arrays,
    *,
    ids: Sequence[str],
) -> Files:
    """Write one whole shard of every array of an artifact, durably.

    `arrays`: (rows, ...) of each array, or the whole array where the artifact is not per row.
    `ids`: the image of each row, for messages. NonFiniteError for NaN or infinity, before anything
    is written; ResourceError when it cannot be written.
    """
    assert arrays.keys() == {spec.name for spec in artifact.arrays}, (artifact.name, list(arrays))
    for spec in artifact.arrays:
        _check(store, manifest, artifact, spec, shard, arrays[spec.name], ids=ids)
    with disk_errors(store, f"shard {shard} of {artifact.name}"):
        return write_shard(store, manifest, artifact, shard, arrays)


def load_shard(
    store: StorePath, manifest: Manifest, array: str, shard: int
) -> np.ndarray[Any, Any]:
    """One shard of an array: (rows, ...), or all of an array without rows.

    `dense` is decoded to tokens (rows, D, h, w). CacheError when a file is damaged.
    """
    artifact, _ = manifest.arrays[array]
    if array == DENSE:
        return decode(artifact.recipe, lambda part: read_shard(store, manifest, part, shard))
    return read_shard(store, manifest, array, shard)


def check_finite(
    store: StorePath, array: str, values: np.ndarray[Any, Any], *, ids: Sequence[str]
) -> None:
    """NonFiniteError, with the images' ids, when rows hold NaN or infinity."""
    bad = np.flatnonzero(~np.isfinite(values).all(axis=tuple(range(1, values.ndim))))
    if len(bad):
        named = ", ".join(ids[row] if row < len(ids) else f"row {row}" for row in bad[:_SHOWN])
        raise NonFiniteError(
            f"{store}: NaN or infinity in array {array}, {counted(len(bad), 'row')}: {named}"
            + (", ..." if len(bad) > _SHOWN else "")
            + ". Nothing of them was written. "
            + ("float16 ends at 65504. " if values.dtype == np.float16 else "")
            + "Look at these images and at the teacher's weights"
        )


def _check(
    store: StorePath,
    manifest: Manifest,
    artifact: Artifact,
    spec: ArraySpec,
    shard: int,
    values: np.ndarray[Any, Any],
    *,
    ids: Sequence[str],
) -> None:
    rows = len(manifest.rows_of(shard))
    shape = (rows, *spec.shape) if artifact.per_row else spec.shape
    assert values.shape == shape, f"{spec.name}: {values.shape} instead of {shape}"
    assert values.dtype == np.dtype(spec.dtype), f"{spec.name}: {values.dtype}"
    if np.issubdtype(values.dtype, np.floating):
        check_finite(store, spec.name, values, ids=ids)
