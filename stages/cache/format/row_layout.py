"""How the rows of an array lie in its shards, and what a chunk of them may be.

The manifest bounds everything: a chunk of any other size is refused before it is unpacked.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

CHECKSUM = 4  # bytes of CRC32C after what it covers
ENTRY = np.dtype("<u8")  # a shard's index: offset and length of each inner chunk
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

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk's values: those of a row, or of all rows where it is not sharded."""
        return (1 if self.sharded else self.shard_rows) * prod(self.shape) * self.dtype.itemsize

    @property
    def index_bytes(self) -> int:
        """Bytes of the index at the end of a shard; 0 where it has none."""
        return 2 * ENTRY.itemsize * self.shard_rows + CHECKSUM if self.sharded else 0

    @property
    def most_stored(self) -> int:
        """Bytes that a chunk may take in a file, with its checksum."""
        size = self.chunk_bytes
        # What zstd writes for bytes that cannot be packed (ZSTD_COMPRESSBOUND in zstd.h).
        bound = size + (size >> 8) + max(0, (128 << 10) - size >> 11) if self.compressed else size
        return bound + CHECKSUM

    @property
    def most_bytes(self) -> int:
        """Bytes that a shard may take."""
        return (self.shard_rows if self.sharded else 1) * self.most_stored + self.index_bytes


def layout_of(described: dict[str, Any]) -> RowLayout:
    """The layout that an array's zarr.json describes; ValueError for one that zsseg never writes.

    It writes little-endian numbers, zstd or nothing, CRC32C, and shards of one row per inner chunk
    with their index at the end.
    """
    shard_rows, *shape = described["chunk_grid"]["configuration"]["chunk_shape"] or [1]
    codecs = described["codecs"]
    sharded = codecs[0]["name"] == "sharding_indexed"
    if sharded:
        inner = codecs[0]["configuration"]
        whole = inner["chunk_shape"] == [1, *shape] and inner["index_location"] == "end"
        if not whole or _names(inner["index_codecs"]) != ["bytes", "crc32c"] or len(codecs) > 1:
            raise ValueError("shards that zsseg does not write")
        codecs = inner["codecs"]
    names = _names(codecs)
    little = codecs[0].get("configuration", {}).get("endian", "little") == "little"
    known = names in (["bytes", "crc32c"], ["bytes", "zstd", "crc32c"])
    if described["fill_value"] or not known or not little:
        raise ValueError(f"an encoding that zsseg does not write: {', '.join(names)}")
    return RowLayout(
        dtype=np.dtype(described["data_type"]).newbyteorder("<"),
        shape=tuple(shape),
        shard_rows=shard_rows,
        sharded=sharded,
        compressed=len(codecs) == 3,
    )


def _names(codecs: list[dict[str, Any]]) -> list[str]:
    return [codec["name"] for codec in codecs]


def covered(content: bytes | bytearray | memoryview) -> NDArray[np.uint8]:
    """The bytes before a checksum that is right; ValueError else."""
    read = np.frombuffer(content, np.uint8)
    covered, checksum = read[:-CHECKSUM], read[-CHECKSUM:]
    if google_crc32c.value(covered) != int(checksum.view("<u4")[0]):
        raise ValueError("a checksum does not match")
    return covered


def unpacked(content: NDArray[np.uint8], layout: RowLayout) -> NDArray[Any]:
    """The numbers of a chunk, in one axis."""
    if not layout.compressed:
        return content.view(layout.dtype)
    unpacked_size(content, layout)
    return np.frombuffer(_ZSTD.decode(content), layout.dtype)


def unpacked_size(content: NDArray[np.uint8], layout: RowLayout) -> int:
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
    if size != layout.chunk_bytes:
        raise ValueError(f"unpacks to {size} bytes, not to {layout.chunk_bytes}")
    return size
