"""Writes a finished store as one plain tar file, so that equal stores give equal bytes."""

import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import xxhash

from zsseg.stages.cache.catalogue import store_name
from zsseg.stages.cache.disk.durable import durable_file
from zsseg.stages.cache.disk.hashing import hash_file
from zsseg.stages.cache.disk.local import LocalStorage
from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.evidence import list_shards
from zsseg.stages.cache.format.ledger import read_seal, sealed_files
from zsseg.stages.cache.format.manifest import CARD, GROUP, HISTORY, SEAL, Manifest, read_manifest
from zsseg.stages.cache.tools.contents import data_files
from zsseg.stages.cache.verify import verify_store
from zsseg.stages.errors import CacheError, ResourceError, UserError
from zsseg.stages.printable import counted

BESIDES = (CARD, HISTORY)
"""Files of an archive that the seal does not cover; not every store has them."""


def export_store(path: StorePath, file: Path) -> int:
    """Write a sealed store to a tar file; returns its size in bytes.

    Owner, times and modes are fixed, and the seal is the last member. `history.jsonl` is included
    unchanged, with the folders of this machine that it names; lock files and stat cache are not.
    CacheError when the store is not finished, damaged, or changed meanwhile; UserError when the
    file exists or lies in the store; ResourceError when it cannot be written.
    """
    if file.exists() or file.is_symlink():
        raise UserError(f"{file}: exists. Delete it, or give another name")
    if storage(path).contains(file):
        raise UserError(f"{file}: lies in the store. Give a place outside of it")
    with storage(path).read_ahead():
        manifest, root = read_manifest(path), read_seal(path)["root"]
        problems = verify_store(path, read_data=False)
        names = [*sorted({*sealed_files(manifest), *data_files(manifest)}), SEAL]
        names[:0] = [name for name in BESIDES if storage(path / name).size() is not None]
        sizes = [storage(path / name).size() or 0 for name in names]
    if problems:
        found = counted(len(problems), "file of the store is", "files of the store are")
        raise CacheError(
            f"{path}: {found} damaged, the first: "
            f"{problems[0].file}: {problems[0].reason}. `zsseg cache verify {path}` names them all"
        )
    try:
        _check_space(sizes, file)
        with durable_file(file) as out:
            _write(path, names, out, _folder(manifest), _hashes(path, manifest))
            if read_seal(path)["root"] != root:  # a writer takes the seal away before it begins
                raise CacheError(f"{path}: changed while it was exported; export it again")
    except OSError as error:
        raise ResourceError(
            f"{file}: cannot write this archive of {path}: {error}. Free space, or give another "
            "place, and export again"
        ) from error
    return file.stat().st_size


def expected_files(manifest: Manifest) -> set[str]:
    """All files that an archive must hold; it may hold `BESIDES` too."""
    return {*sealed_files(manifest), *data_files(manifest), SEAL}


def _folder(manifest: Manifest) -> str:
    """The one folder in an archive: the name that `zsseg precompute` gives such a store."""
    return store_name(
        manifest.identity,
        dataset=str(manifest.identity.get("dataset", "")),
        split=str(manifest.identity.get("split", "")),
        teacher=str(manifest.info.get("teacher", "")),
    )


def _check_space(sizes: list[int], file: Path) -> None:
    block = tarfile.BLOCKSIZE
    needed = sum(-(-size // block) + 1 for size in sizes) * block
    free = LocalStorage(file.parent).free_bytes()
    if needed > free:
        raise ResourceError(
            f"{file}: {needed / 2**20:.0f} MiB are needed and {free / 2**20:.0f} MiB free. Give a "
            "place on a larger disk"
        )


def _hashes(path: StorePath, manifest: Manifest) -> dict[str, str]:
    """The hash that each file of content was written with."""
    sealed: dict[str, str] = read_seal(path)["files"]
    receipts = [shard.receipt for shard in list_shards(path, manifest, sealed)]
    listed = [each["files"] for each in receipts if isinstance(each, dict)]
    data = {file: one["xxh3_128"] for files in listed for file, one in files.items()}
    return sealed | data | {GROUP: hash_file(path / GROUP)}  # which has two forms


class _Hashed:
    """A file whose hash is made as it is read."""

    def __init__(self, data: BinaryIO) -> None:
        self._data, self.hash = data, xxhash.xxh3_128()

    def read(self, size: int = -1) -> bytes:
        content = self._data.read(size)
        self.hash.update(content)
        return content


def _write(
    path: StorePath, names: list[str], out: BinaryIO, folder: str, hashes: Mapping[str, str]
) -> None:
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in names:
            with storage(path / name).open() as (data, size):
                hashed = _Hashed(data)
                tar.addfile(_member(f"{folder}/{name}", size), hashed)
            if hashes.get(name) not in (None, hashed.hash.hexdigest()):
                raise CacheError(
                    f"{path / name}: content changed since it was written (hash differs), so the "
                    f"store is not exported. `zsseg cache verify {path} --repair` computes what is "
                    "damaged once more"
                )


def _member(name: str, size: int) -> tarfile.TarInfo:
    """A header without owner, time or mode of this machine's file."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, 0
    return info
