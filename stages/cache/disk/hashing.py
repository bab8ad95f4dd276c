"""Hashes of files: 128-bit XXH3, as receipts and the seal hold them."""

from collections.abc import Iterator
from pathlib import Path

import xxhash

from zsseg.stages.cache.disk import remote
from zsseg.stages.cache.disk.store_path import StorePath

_BLOCK = 1 << 20


def hash_file(path: StorePath) -> str:
    """128-bit XXH3 of a file's bytes, 32 hexadecimal digits."""
    digest = xxhash.xxh3_128()
    for block in _blocks(path) if isinstance(path, Path) else remote.blocks(path):
        digest.update(block)
    return digest.hexdigest()


def hash_bytes(content: bytes | memoryview) -> str:
    """What `hash_file` gives for a file of these bytes."""
    return xxhash.xxh3_128_hexdigest(content)


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block
