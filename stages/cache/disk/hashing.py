"""Hashes of files: 128-bit XXH3, as receipts and the seal hold them."""

import xxhash

from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath


def hash_file(path: StorePath) -> str:
    """128-bit XXH3 of a file's bytes, 32 hexadecimal digits; FileNotFoundError without a file."""
    digest = xxhash.xxh3_128()
    for block in storage(path).blocks():
        digest.update(block)
    return digest.hexdigest()


def hash_bytes(content: bytes | memoryview) -> str:
    """What `hash_file` gives for a file of these bytes."""
    return xxhash.xxh3_128_hexdigest(content)
