"""Reads rows and shards of a store's arrays without zarr, in time and memory that are bounded.

zarr unpacks whatever a chunk says: a few KiB may hold many GiB. Here the manifest says how much a
row, a shard and their packed forms may take, and anything else is refused before it is unpacked.
It is also faster: a row costs two short reads (the shard's index, the row's inner chunk), their
checksums and, for integer maps, zstd; through zarr it takes 6 times as long or more
(docs/performance.md). Nothing is kept open or in memory: rows are shared by all processes through
the system's page cache, and a store that vanishes is noticed at once.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.cache.disk.json_files import read_bounded
from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.manifest import GROUP, Manifest, shard_file
from zsseg.stages.cache.format.row_layout import (
    CHECKSUM,
    ENTRY,
    RowLayout,
    covered,
    layout_of,
    unpacked,
    unpacked_size,
)
from zsseg.stages.errors import CacheError
from zsseg.stages.file_bytes import again

Part = Callable[[int, int], bytes | bytearray | memoryview]
"""Reads a part of a file: its first byte, counted from the end where negative, and its length."""

_NOT_WRITTEN = 2**64 - 1  # offset of an inner chunk that holds the fill value only
_NOT_RIGHT = (ValueError, RuntimeError, OSError)
"""What reading a damaged file raises; a store holds nothing that is to blame for anything else."""


@dataclass(frozen=True)
class StoredRows:
    """The rows of one array of a store."""

    store: StorePath
    layout: RowLayout

    def read(self, shard: str, row: int) -> NDArray[Any]:
        """The row of this number, counted within a shard; `shard` is its file in the store.

        An array that can be written to, of the layout's shape and dtype. CacheError when the file
        is missing, empty or damaged, or the store is gone.
        """

        def read(part: Part) -> NDArray[Any]:
            if not self.layout.sharded:
                return np.array(_small_shard(part, self.layout)[row])  # not a part of it
            start, length = (int(number) for number in _index(part, self.layout)[row])
            return _inner_chunk(part, self.layout, start, length)

        return self._told(shard, read)

    def read_shard(self, shard: str, rows: int) -> NDArray[Any]:
        """(rows, ...) the first rows of a shard; raises what `read` does."""

        def read(part: Part) -> NDArray[Any]:
            layout = self.layout
            if not layout.sharded:
                return _writable(_small_shard(part, layout)[:rows])
            whole = part(0, layout.most_bytes + 1)
            if len(whole) > layout.most_bytes:
                raise ValueError(f"more than {layout.most_bytes} bytes, which its rows can take")
            inner = partial(_part_of, memoryview(whole))
            values = np.empty((rows, *layout.shape), layout.dtype)
            for row, (start, length) in enumerate(_index(inner, layout)[:rows]):
                values[row] = _inner_chunk(inner, layout, int(start), int(length))
            return values

        return self._told(shard, read)

    def check_sizes(self, shard: str) -> None:
        """CacheError when a chunk of a shard unpacks to another size; unpacks none."""

        def check(part: Part) -> NDArray[Any]:
            layout = self.layout
            if not layout.sharded:
                unpacked_size(_small_content(part, layout), layout)
                return np.empty(0)
            for start, length in _index(part, layout):
                if start != _NOT_WRITTEN:
                    unpacked_size(_checked(part, layout, int(start), int(length)), layout)
            return np.empty(0)

        if self.layout.compressed:
            self._told(shard, check)

    def _told(self, shard: str, read: Callable[[Part], NDArray[Any]]) -> NDArray[Any]:
        """What `read` makes of a shard's file; CacheError, which names it, when it cannot."""
        file = self.store / shard

        def attempt() -> NDArray[Any]:
            with storage(file).parts() as part:
                return read(part)

        try:
            return again(attempt)
        except FileNotFoundError as error:
            if not self.store.exists():
                raise CacheError(
                    f"{self.store}: the store is gone: deleted, moved, or on an unmounted disk. "
                    "Put it back, or make it again with `zsseg precompute`, and continue "
                    "(`zsseg train` with --resume)"
                ) from error
            raise CacheError(
                f"{file}: missing or empty; `zsseg cache verify STORE --repair` computes what is "
                "damaged once more, and nothing else"
            ) from error
        except _NOT_RIGHT as error:
            raise CacheError(
                f"{file}: damaged ({error}). `zsseg cache verify STORE --repair` finds all damage "
                "and computes it once more"
            ) from error


def stored_rows(store: StorePath, manifest: Manifest, array: str) -> StoredRows:
    """The rows of an array; CacheError when its zarr.json is not what the manifest says.

    An array that is not per row is one shard, `rows` of its first axis.
    """
    artifact, spec = manifest.arrays[array]
    file = store / array / GROUP
    advice = f"`zsseg cache verify {store} --repair` puts it back"
    try:
        described = json.loads(read_bounded(file))
        shape, dtype = tuple(described["shape"]), str(described["data_type"])
        wanted = manifest.shape(artifact, spec)
        if (shape, dtype) != (wanted, spec.dtype):
            raise CacheError(
                f"{file}: {dtype} {shape}, but the store's manifest says {spec.dtype} {wanted}; "
                f"{advice}"
            )
        layout = layout_of(described)
        rows = (manifest.shard_rows, *spec.shape) if artifact.per_row else spec.shape
        if (layout.shard_rows, *layout.shape) != (rows or (1,)):
            raise ValueError(f"shards of {(layout.shard_rows, *layout.shape)}, not of {rows}")
    except (OSError, ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        if isinstance(error, CacheError):
            raise
        raise CacheError(f"{file}: missing or damaged ({error}); {advice}") from error
    return StoredRows(store, layout)


def read_shard(store: StorePath, manifest: Manifest, array: str, shard: int) -> NDArray[Any]:
    """One shard of an array as it is stored: (rows, ...), or all of an array without rows."""
    artifact, spec = manifest.arrays[array]
    rows = stored_rows(store, manifest, array)
    if artifact.per_row:
        return rows.read_shard(shard_file(spec, artifact, shard), len(manifest.rows_of(shard)))
    values = rows.read_shard(shard_file(spec, artifact, 0), rows.layout.shard_rows)
    return values.reshape(spec.shape)


def read_array(store: StorePath, manifest: Manifest, array: str) -> NDArray[Any]:
    """A whole array as it is stored; CacheError when a file is missing or damaged."""
    artifact, spec = manifest.arrays[array]
    if not artifact.per_row:
        return read_shard(store, manifest, array, 0)
    rows = stored_rows(store, manifest, array)
    values = np.empty(manifest.shape(artifact, spec), spec.dtype)

    def read(shard: int) -> None:
        these = manifest.rows_of(shard)
        file = shard_file(spec, artifact, shard)
        values[these.start : these.stop] = rows.read_shard(file, len(these))

    storage(store).map(read, manifest.shards(artifact))
    return values


def _part_of(content: memoryview, start: int, length: int) -> memoryview:
    """A part of what has been read already."""
    begin = start if start >= 0 else max(0, len(content) + start)
    return content[begin : begin + length]


def _small_content(part: Part, layout: RowLayout) -> NDArray[np.uint8]:
    """The one chunk of a shard that is no more; FileNotFoundError when nothing was written."""
    content = part(0, layout.most_bytes + 1)
    if not len(content):
        raise FileNotFoundError
    return _without_checksum(content, layout, len(content))


def _small_shard(part: Part, layout: RowLayout) -> NDArray[Any]:
    """(shard_rows, ...) all rows of a shard that is one chunk."""
    return unpacked(_small_content(part, layout), layout).reshape(layout.shard_rows, *layout.shape)


def _index(part: Part, layout: RowLayout) -> NDArray[np.uint64]:
    """(shard_rows, 2) where each row's inner chunk is: its first byte, and its length."""
    content = part(-layout.index_bytes, layout.index_bytes)
    if not len(content):
        raise FileNotFoundError  # nothing of the shard was written
    if len(content) < layout.index_bytes:
        raise ValueError(f"{len(content)} bytes, shorter than its index")
    return covered(content).view(ENTRY).reshape(layout.shard_rows, 2)


def _inner_chunk(part: Part, layout: RowLayout, start: int, length: int) -> NDArray[Any]:
    """One row, which can be written to."""
    if start == _NOT_WRITTEN:
        return np.zeros(layout.shape, layout.dtype)
    values = unpacked(_checked(part, layout, start, length), layout).reshape(layout.shape)
    return _writable(values)


def _writable(values: NDArray[Any]) -> NDArray[Any]:
    return values if values.flags.writeable else values.copy()  # what comes from bytes is not


def _checked(part: Part, layout: RowLayout, start: int, length: int) -> NDArray[np.uint8]:
    """The bytes of an inner chunk, when its checksum is right; ValueError else."""
    if length > layout.most_stored or start > layout.most_bytes:
        raise ValueError(f"a chunk of {length} bytes at {start}, which no row takes")
    return _without_checksum(part(start, length), layout, length)


def _without_checksum(
    content: bytes | bytearray | memoryview, layout: RowLayout, length: int
) -> NDArray[np.uint8]:
    if len(content) != length or length < CHECKSUM:
        raise ValueError(f"ends after {len(content)} bytes of a chunk of {length}")
    if length > layout.most_stored or (not layout.compressed and length != layout.most_stored):
        raise ValueError(f"a chunk of {length} bytes, not {layout.most_stored}")
    return covered(content)
