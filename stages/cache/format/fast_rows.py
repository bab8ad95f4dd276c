"""Reads single rows of an array on a disk without zarr, for a training loop that reads thousands.

A row costs two short reads (the shard's index, the row's inner chunk), their checksums and, for
integer maps, zstd; through zarr it takes 6 times as long or more (docs/performance.md). Nothing is
kept open or in memory: rows are shared by all processes through the system's page cache, and a
store that vanishes is noticed at once.
"""

import json
from dataclasses import dataclass
from io import FileIO
from math import prod
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.errors import CacheError

_CHECKSUM = 4  # bytes of CRC32C after what it covers
_ENTRY = np.dtype("<u8")  # a shard's index: offset and length of each inner chunk
_NOT_WRITTEN = 2**64 - 1  # offset of an inner chunk that holds the fill value only
_ZSTD = Zstd()
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class RowLayout:
    """How the rows of an array lie in its shards."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    """Of one row."""
    shard_rows: int
    sharded: bool
    """Is each row an inner chunk? Else the shard is one chunk, of a few KiB."""
    compressed: bool


@dataclass(frozen=True)
class DirectRows:
    """The rows of one array of a store on a disk of this machine."""

    store: Path
    layout: RowLayout

    def read(self, shard: str, row: int) -> NDArray[Any]:
        """The row of this number, counted within a shard; `shard` is its file in the store.

        An array that can be written to, of the layout's shape and dtype. CacheError when the file
        is missing, empty or damaged, or the store is gone.
        """
        file, layout = self.store / shard, self.layout
        try:
            values = _decoded(file, layout, row)
        except FileNotFoundError as error:
            if not self.store.exists():
                raise CacheError(
                    f"{self.store}: the store is gone: deleted, moved, or on an unmounted disk. "
                    "Put it back, or make it again with `zsseg precompute`, and continue "
                    "(`zsseg train` with --resume)"
                ) from error
            raise CacheError(lost_shard(file)) from error
        except (ValueError, RuntimeError, OSError) as error:
            raise CacheError(damaged_shard(str(file), error)) from error
        if not layout.sharded:
            return np.array(values[row])  # not a part of the whole shard
        # What comes from bytes cannot be written to.
        return np.array(values[0]) if layout.compressed else np.asarray(values[0])

    def check_sizes(self, shard: str, rows: int) -> None:
        """CacheError when one of the first `rows` rows of a shard unpacks to another size."""
        file, layout = self.store / shard, self.layout
        try:
            with file.open("rb", buffering=0) as opened:
                size = opened.seek(0, 2)
                for row in range(rows if layout.sharded else 1):
                    start, length = (
                        _inner_chunk(opened, size, layout, row) if layout.sharded else (0, size)
                    )
                    if layout.compressed and start != _NOT_WRITTEN:
                        _unpacked_size(_checked(opened, start, length), layout)
        except (ValueError, OSError) as error:
            raise CacheError(damaged_shard(str(file), error)) from error


def _row_layout(zarr_json: bytes) -> RowLayout | None:
    """The layout that an array's zarr.json describes; None for one that is not known here.

    Known: little-endian numbers, zstd or nothing, CRC32C, and shards of one row per inner chunk
    with their index at the end.
    """
    described = json.loads(zarr_json)
    shard_rows, *shape = described["chunk_grid"]["configuration"]["chunk_shape"]
    codecs = described["codecs"]
    sharded = codecs[0]["name"] == "sharding_indexed"
    if sharded:
        inner = codecs[0]["configuration"]
        whole = inner["chunk_shape"] == [1, *shape] and inner["index_location"] == "end"
        if not whole or _names(inner["index_codecs"]) != ["bytes", "crc32c"] or len(codecs) > 1:
            return None
        codecs = inner["codecs"]
    if described["fill_value"] or _names(codecs) not in (
        ["bytes", "crc32c"],
        ["bytes", "zstd", "crc32c"],
    ):
        return None
    if codecs[0].get("configuration", {}).get("endian", "little") != "little":
        return None
    return RowLayout(
        dtype=np.dtype(described["data_type"]).newbyteorder("<"),
        shape=tuple(shape),
        shard_rows=shard_rows,
        sharded=sharded,
        compressed=len(codecs) == 3,
    )


def direct_rows(store: StorePath, array: str) -> DirectRows | None:
    """The rows of an array of a store; None where only zarr reads them.

    That is at a URL, and for a layout that is not known here.
    """
    if not isinstance(store, Path):  # there is nothing to open: zarr makes the requests
        return None
    layout = _row_layout((store / array / "zarr.json").read_bytes())
    return None if layout is None else DirectRows(store, layout)


def lost_shard(shard: object) -> str:
    """The message of a shard that is gone: zarr reads a lost or empty one as zeros."""
    return (
        f"{shard}: missing or empty; `zsseg cache verify STORE --repair` computes what is damaged "
        "once more, and nothing else"
    )


def damaged_shard(where: str, error: object) -> str:
    """The message of a shard whose content is not what was written."""
    return (
        f"{where}: damaged ({error}). `zsseg cache verify STORE --repair` finds all damage and "
        "computes it once more"
    )


def _decoded(shard: Path, layout: RowLayout, row: int) -> NDArray[Any]:
    """The inner chunk of a row, (1, ...), or all rows of a shard that is one chunk."""
    with shard.open("rb", buffering=0) as file:
        size = file.seek(0, 2)
        if size == 0:
            raise FileNotFoundError(shard)  # nothing of it was written
        start, length = _inner_chunk(file, size, layout, row) if layout.sharded else (0, size)
        if start == _NOT_WRITTEN:
            return np.zeros((1, *layout.shape), layout.dtype)
        content = _checked(file, start, length)
    rows = 1 if layout.sharded else layout.shard_rows
    if layout.compressed:
        _unpacked_size(content, layout)
    decoded = _ZSTD.decode(content) if layout.compressed else content
    return np.frombuffer(decoded, layout.dtype).reshape(rows, *layout.shape)


def _inner_chunk(file: FileIO, size: int, layout: RowLayout, row: int) -> tuple[int, int]:
    """Where a row's inner chunk is in its shard: first byte, and length with its checksum."""
    length = 2 * _ENTRY.itemsize * layout.shard_rows + _CHECKSUM
    if size < length:
        raise ValueError(f"{size} bytes, shorter than its index")
    index = np.frombuffer(_checked(file, size - length, length), _ENTRY)
    start, chunk = (int(number) for number in index[2 * row : 2 * row + 2])
    expected = prod(layout.shape) * layout.dtype.itemsize + _CHECKSUM
    if start != _NOT_WRITTEN and not layout.compressed and chunk != expected:
        raise ValueError(f"row {row} has {chunk} bytes, not {expected}")
    return start, chunk


def _checked(file: FileIO, start: int, length: int) -> NDArray[np.uint8]:
    """The bytes before a checksum that is right; ValueError else."""
    read = bytearray(length)
    file.seek(start)
    if length < _CHECKSUM or file.readinto(read) != length:
        raise ValueError(f"ends before byte {start + length}")
    content = np.frombuffer(read, np.uint8)
    covered, checksum = content[:-_CHECKSUM], content[-_CHECKSUM:]
    if google_crc32c.value(covered) != int(checksum.view("<u4")[0]):
        raise ValueError("a checksum does not match")
    return covered


def _unpacked_size(content: NDArray[np.uint8], layout: RowLayout) -> int:
    """Bytes that a zstd frame unpacks to; ValueError unless they are those of a row or shard.

    The frame says it first, and is decoded into that much memory (RFC 8878, section 3.1.1.1).
    """
    described = content[4:18].tobytes()
    if content[:4].tobytes() != _ZSTD_MAGIC or len(described) < 2:
        raise ValueError("no zstd frame")
    flags = described[0]
    alone = bool(flags & 0x20)  # one segment: no window is described
    begin = 1 + (0 if alone else 1) + (0, 1, 2, 4)[flags & 3]
    length = {0: 1 if alone else 0, 1: 2, 2: 4, 3: 8}[flags >> 6]
    if not length:
        raise ValueError("a zstd frame that does not say its size")
    size = int.from_bytes(described[begin : begin + length], "little") + (256 if length == 2 else 0)
    rows = 1 if layout.sharded else layout.shard_rows
    expected = rows * prod(layout.shape) * layout.dtype.itemsize
    if size != expected:
        raise ValueError(f"unpacks to {size} bytes, not to {expected}")
    return size


def _names(codecs: list[dict[str, Any]]) -> list[str]:
    return [codec["name"] for codec in codecs]
