"""A finished store as one file: a plain tar, written so that equal stores give equal bytes."""

import io
import os
import shutil
import tarfile
from pathlib import Path

from zsseg.stages.cache.catalogue import store_name
from zsseg.stages.cache.disk.files import (
    PARTIAL,
    file_size,
    make_folder,
    read_ahead,
    read_bytes,
    sync,
)
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.ledger import read_seal, sealed_files
from zsseg.stages.cache.format.manifest import CARD, HISTORY, SEAL, Manifest, read_manifest
from zsseg.stages.cache.tools.contents import data_files
from zsseg.stages.cache.verify import verify_store
from zsseg.stages.errors import CacheError, ResourceError, UserError

BESIDES = (CARD, HISTORY)
"""Files of an archive that the seal does not cover; a store may lack them."""


def export_store(path: StorePath, file: Path) -> int:
    """Write a sealed store to a tar file; returns its bytes.

    Owner, times and modes are fixed, the seal is the last member. `history.jsonl` goes along as it
    is, with the folders of this machine that it names; lock files and stat cache stay. CacheError
    when the store is not finished, damaged, or changed meanwhile; UserError when the file exists.
    """
    if file.exists() or file.is_symlink():
        raise UserError(f"{file}: exists. Delete it, or give another name")
    if isinstance(path, Path) and file.resolve().is_relative_to(path.resolve()):
        raise UserError(f"{file}: lies in the store. Give a place outside of it")
    with read_ahead(path):
        manifest, root = read_manifest(path), read_seal(path)["root"]
        problems = verify_store(path, read_data=False)
        names = [*sorted({*sealed_files(manifest), *data_files(manifest)}), SEAL]
        names[:0] = [name for name in BESIDES if file_size(path / name) is not None]
        sizes = [file_size(path / name) or 0 for name in names]
    if problems:
        raise CacheError(
            f"{path}: {len(problems)} files of the store are damaged, the first: "
            f"{problems[0].file}: {problems[0].reason}. `zsseg cache verify {path}` names them all"
        )
    partial = file.with_name(file.name + PARTIAL)
    try:
        make_folder(file.parent)
        _check_space(sizes, file)
        _write(path, names, partial, _folder(manifest))
        if read_seal(path)["root"] != root:  # a writer takes the seal away before it begins
            raise CacheError(f"{path}: changed while it was exported; export it again")
        partial.replace(file)
        sync(file.parent)
    except OSError as error:
        raise ResourceError(
            f"{file}: cannot write this archive of {path}: {error}. Free space, or give another "
            "place, and export again"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return file.stat().st_size


def expected_files(manifest: Manifest) -> set[str]:
    """All that an archive must hold; it may hold `BESIDES` too."""
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
    free = shutil.disk_usage(file.parent).free
    if needed > free:
        raise ResourceError(
            f"{file}: {needed / 2**20:.0f} MiB are needed and {free / 2**20:.0f} MiB free. Give a "
            "place on a larger disk"
        )


def _write(path: StorePath, names: list[str], partial: Path, folder: str) -> None:
    with partial.open("wb") as out:
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name in names:
                place = path / name
                if isinstance(place, Path):
                    with place.open("rb") as data:
                        size = os.fstat(data.fileno()).st_size
                        tar.addfile(_member(f"{folder}/{name}", size), data)
                else:
                    content = read_bytes(place)
                    member = _member(f"{folder}/{name}", len(content))
                    tar.addfile(member, io.BytesIO(content))
        out.flush()
        os.fsync(out.fileno())


def _member(name: str, size: int) -> tarfile.TarInfo:
    """A header with nothing of this machine in it."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, 0
    return info
