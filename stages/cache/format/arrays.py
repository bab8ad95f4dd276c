"""Makes the files of arrays with zarr: their metadata and their shards.

This is the only module that imports zarr. An array's folder is flat: zarr.json and one file per
shard (`c.3.0.0.0` is shard 3).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import MemoryStore

from zsseg.stages.cache.disk.hashing import hash_bytes
from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.manifest import ArraySpec, Artifact, Manifest, shard_file

_SMALL_SHARD = 1 << 16  # bytes; up to here reading the whole shard costs no more than one row


def array_json(manifest: Manifest, artifact: Artifact, spec: ArraySpec) -> bytes:
    """Content of the array's zarr.json."""
    shape = manifest.shape(artifact, spec)
    chunks, shards = shape, None
    if artifact.per_row:
        whole = (manifest.shard_rows, *spec.shape)
        if int(np.prod(whole)) * np.dtype(spec.dtype).itemsize <= _SMALL_SHARD:
            chunks = whole
        else:
            chunks, shards = (1, *spec.shape), whole
    files: dict[str, Buffer] = {}
    # Without a CRC in the inner codecs zarr returns flipped bits without an error.
    zarr.create_array(
        MemoryStore(store_dict=files),
        name=spec.name,
        shape=shape,
        dtype=spec.dtype,
        chunks=chunks,
        shards=shards,
        filters=None,
        compressors=(ZstdCodec(level=3), Crc32cCodec()) if spec.compressed else (Crc32cCodec(),),
        fill_value=0,
        chunk_key_encoding={"name": "default", "separator": "."},
    )
    return files[f"{spec.name}/zarr.json"].to_bytes()


def array_jsons(manifest: Manifest) -> dict[str, bytes]:
    """Content of every array's zarr.json, by the array's name."""
    return {
        name: array_json(manifest, artifact, spec)
        for name, (artifact, spec) in manifest.arrays.items()
    }


def write_shard(
    store: StorePath,
    manifest: Manifest,
    artifact: Artifact,
    shard: int,
    values: Mapping[str, np.ndarray[Any, Any]],
) -> dict[str, dict[str, Any]]:
    """Write one whole shard of every array of an artifact, durably.

    `values`: (rows, ...) of each array, or the whole array where the artifact is not per row.
    Returns bytes and hash of each file, by its path in the store. Nothing counts before the
    shard's receipt is published. No other process may write this shard.
    """
    written: dict[str, dict[str, Any]] = {}
    for spec in artifact.arrays:
        file = shard_file(spec, artifact, shard)
        content = _encoded(manifest, artifact, spec, shard, values[spec.name])
        storage(store / file).write(content)
        written[file] = {"bytes": len(content), "xxh3_128": hash_bytes(content)}
    return written


def _encoded(
    manifest: Manifest,
    artifact: Artifact,
    spec: ArraySpec,
    shard: int,
    values: np.ndarray[Any, Any],
) -> memoryview:
    """The bytes of a shard's file, made in memory."""
    described = default_buffer_prototype().buffer.from_bytes(array_json(manifest, artifact, spec))
    files: dict[str, Buffer] = {"zarr.json": described}
    array = zarr.open_array(MemoryStore(store_dict=files), mode="r+", zarr_format=3)
    # zarr leaves out chunks of zeros by default; a shard of failed images is a file too.
    array = array.with_config({"write_empty_chunks": True})
    array[_shard_rows(manifest, artifact, shard)] = values
    name = shard_file(spec, artifact, shard).split("/")[1]
    return memoryview(np.ascontiguousarray(files[name].as_numpy_array()).data).cast("B")


def _shard_rows(manifest: Manifest, artifact: Artifact, shard: int) -> slice:
    """The rows of an array that lie in a shard; all of an array that is not per row."""
    rows = manifest.rows_of(shard)
    return slice(rows.start, rows.stop) if artifact.per_row else slice(None)
