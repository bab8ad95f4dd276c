"""The arrays of a store: metadata, one shard in, one shard or row out. The only door to zarr.

An array lies flat in its folder: zarr.json and one file per shard (`c.3.0.0.0` is shard 3).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import FsspecStore, LocalStore, MemoryStore

from zsseg.stages.cache.disk import remote
from zsseg.stages.cache.disk.files import sync, write_durably
from zsseg.stages.cache.disk.hashing import hash_bytes, hash_file
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.fast_rows import damaged
from zsseg.stages.cache.format.manifest import ArraySpec, Artifact, Manifest, shard_file
from zsseg.stages.errors import CacheError

ZarrArray: TypeAlias = zarr.Array[Any]

_SMALL_SHARD = 1 << 16  # bytes; up to here reading the whole shard costs no more than one row


def array_json(manifest: Manifest, artifact: Artifact, spec: ArraySpec) -> bytes:
    """The array's zarr.json, made in memory so that the caller can write it durably."""
    shape = manifest.shape(artifact, spec)
    chunks, shards = shape, None
    if artifact.per_row:
        whole = (manifest.shard_rows, *spec.shape)
        if int(np.prod(whole)) * np.dtype(spec.dtype).itemsize <= _SMALL_SHARD:
            chunks = whole
        else:
            chunks, shards = (1, *spec.shape), whole
    files: dict[str, Buffer] = {}
    # Without a CRC in the inner codecs zarr returns flipped bits without a word.
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


def open_array(
    store: StorePath, manifest: Manifest, name: str, *, writable: bool = False
) -> ZarrArray:
    """Open one array; CacheError when its zarr.json is damaged or is not what the manifest says."""
    artifact, spec = manifest.arrays[name]
    folder = store / name
    advice = f"`zsseg cache verify {store} --repair` puts it back"
    try:
        array = zarr.open_array(
            _zarr_store(folder, read_only=not writable),
            mode="r+" if writable else "r",
            zarr_format=3,
        )
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise CacheError(
            f"{folder / 'zarr.json'}: missing or damaged ({error}); {advice}"
        ) from error
    shape = manifest.shape(artifact, spec)
    if array.shape != shape or array.dtype != np.dtype(spec.dtype):
        raise CacheError(
            f"{folder / 'zarr.json'}: {array.dtype} {array.shape}, but the store's manifest says "
            f"{spec.dtype} {shape}; {advice}"
        )
    return array


def _zarr_store(folder: StorePath, *, read_only: bool) -> LocalStore | FsspecStore:
    if isinstance(folder, Path):
        return LocalStore(folder, read_only=read_only)
    return FsspecStore(remote.for_zarr(folder), path=folder.path, read_only=read_only)


def write_shard(
    store: StorePath,
    manifest: Manifest,
    artifact: Artifact,
    shard: int,
    values: Mapping[str, np.ndarray[Any, Any]],
) -> dict[str, dict[str, Any]]:
    """Write one whole shard of every array of an artifact and bring it to the disk (fsync).

    Returns bytes and hash of each file, by its path in the store: of what lies on the disk, or of
    what was sent, which an object store compares with its checksum before it takes it. Nothing
    counts before the shard's receipt is published. No other process may write this shard: zarr
    would lose one's rows without an error.
    """
    written: dict[str, dict[str, Any]] = {}
    for spec in artifact.arrays:
        name = shard_file(spec, artifact, shard)
        file = store / name
        if not isinstance(file, Path):
            content = _encoded(manifest, artifact, spec, shard, values[spec.name])
            write_durably(file, content)
            written[name] = {"bytes": len(content), "xxh3_128": hash_bytes(content)}
            continue
        # zarr merges into a shard that is there, and a torn one would fail it.
        file.unlink(missing_ok=True)
        array = open_array(store, manifest, spec.name, writable=True)
        # zarr leaves out chunks of zeros by default; a shard of failed images is a file too.
        array = array.with_config({"write_empty_chunks": True})
        array[place(manifest, artifact, shard)] = values[spec.name]
        sync(file)
        sync(file.parent)
        written[name] = {"bytes": file.stat().st_size, "xxh3_128": hash_file(file)}
    return written


def _encoded(
    manifest: Manifest,
    artifact: Artifact,
    spec: ArraySpec,
    shard: int,
    values: np.ndarray[Any, Any],
) -> bytes:
    """The bytes of a shard's file, made in memory."""
    files: dict[str, Buffer] = {
        "zarr.json": default_buffer_prototype().buffer.from_bytes(
            array_json(manifest, artifact, spec)
        )
    }
    array = zarr.open_array(MemoryStore(store_dict=files), mode="r+", zarr_format=3)
    array.with_config({"write_empty_chunks": True})[place(manifest, artifact, shard)] = values
    return files[shard_file(spec, artifact, shard).split("/")[1]].to_bytes()


def place(manifest: Manifest, artifact: Artifact, shard: int) -> slice:
    """Where a shard lies along the first axis."""
    rows = manifest.rows_of(shard)
    return slice(rows.start, rows.stop) if artifact.per_row else slice(None)


def read(array: ZarrArray, place: slice | int, *, where: str) -> np.ndarray[Any, Any]:
    """Decode rows; CacheError says `where` when a checksum or the length is wrong."""
    try:
        return np.asarray(array[place])
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError, OSError) as error:
        raise CacheError(damaged(where, error)) from error
