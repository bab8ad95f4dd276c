"""Hashes of files: 128-bit XXH3, as receipts and the seal hold them."""

import xxhash

from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.file_bytes import again


def hash_file(path: StorePath) -> str:
    """128-bit XXH3 of a file's bytes, 32 hexadecimal digits; FileNotFoundError without a file."""

    def digest() -> str:
        made = xxhash.xxh3_128()
        for block in storage(path).blocks():
            made.update(block)
        return made.hexdigest()

    return again(digest)


def hash_bytes(content: bytes | memoryview) -> str:
    """What `hash_file` gives for a file of these bytes."""
    return xxhash.xxh3_128_hexdigest(content)
