"""Deletes whole stores and what interrupted runs left; never a file that zsseg did not write.

A store is renamed before it is deleted, under its lock, and the seal is deleted first: killed at
any point, nothing is left that looks like a complete store, and `prune` deletes the rest. Objects
at a URL cannot be renamed: there the seal is deleted first and the manifest last, so that a killed
removal leaves an unfinished store, which can be removed again.
"""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zsseg.stages.cache.catalogue import find_stores, is_leftover
from zsseg.stages.cache.disk.bucket import BucketStorage
from zsseg.stages.cache.disk.durable import remove_durably, sync
from zsseg.stages.cache.disk.json_files import read_json
from zsseg.stages.cache.disk.lock import HOLDER, LOCK, acquire, locked
from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.manifest import (
    GROUP,
    IMPORTING,
    REMOVING,
    SEAL,
    Manifest,
    read_manifest,
)
from zsseg.stages.cache.tools.contents import Contents, sort_contents
from zsseg.stages.errors import CacheError
from zsseg.stages.printable import one_line

if TYPE_CHECKING:
    from zsseg.stages.cache.disk.store_path import UPath

_SHOWN = 3  # files named in one message

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Garbage:
    """A file or folder that `prune` deletes, why, and its bytes."""

    path: StorePath
    reason: str
    bytes: int


def check_removable(path: StorePath) -> None:
    """Check that a folder may be deleted as a store; damaged and unfinished ones may.

    CacheError when it is no store, a link, or holds files that zsseg did not write; CacheLocked
    when another process writes it.
    """
    storage(path).check_reachable()
    if storage(path).is_link():
        raise CacheError(f"{path}: a symbolic link. Give the folder that it leads to")
    if not path.is_dir():
        raise CacheError(f"{path}: no store here. `zsseg cache ls FOLDER` lists them")
    try:
        attributes = read_json(path / GROUP).get("attributes")
    except CacheError as error:
        raise CacheError(
            f"{path}: not known to be a store ({error}), so it is not deleted. If it is to go, "
            "delete the folder by hand"
        ) from error
    if not isinstance(attributes, dict) or "zsseg_format" not in attributes:
        raise CacheError(
            f"{path}: not a store that `zsseg precompute` wrote, so it is not deleted. If it "
            "is to go, delete the folder by hand"
        )
    _refuse_strangers(path, sort_contents(path, _manifest(path)))
    with locked(path):
        pass


def remove_store(path: StorePath, *, only_unfinished: bool = False) -> int:
    """Delete a store; returns the bytes freed. Raises what `check_removable` raises.

    With `only_unfinished` also CacheError when the store has been finished meanwhile.
    """
    check_removable(path)
    # A folder is renamed first; objects can only be deleted where they are.
    if isinstance(path, Path):
        return _remove_folder(path.resolve(), only_unfinished=only_unfinished)
    return _remove_objects(path, only_unfinished=only_unfinished)


def _remove_folder(path: Path, *, only_unfinished: bool) -> int:
    gone = path.with_name(path.name + REMOVING)
    if gone.exists():
        remove_leftover(gone)
    size = storage(path).total_bytes()
    lock = acquire(path)
    where = path
    try:
        if only_unfinished and (path / SEAL).exists():
            raise CacheError(f"{path}: finished just now. To delete it, use `zsseg cache rm`")
        path.rename(gone)
        where = gone
        sync(gone.parent)
        _delete(gone)
    finally:
        lock.release(where)
    return size


def _remove_objects(path: "UPath", *, only_unfinished: bool) -> int:
    bucket = BucketStorage(path)
    with locked(path):
        if only_unfinished and storage(path / SEAL).exists():
            raise CacheError(f"{path}: finished just now. To delete it, use `zsseg cache rm`")
        sizes = bucket.sizes()
        storage(path / SEAL).remove()
        bucket.remove_files([name for name in sizes if name not in (SEAL, GROUP, HOLDER)])
        storage(path / GROUP).remove()
    return sum(sizes.values()) - sizes.get(HOLDER, 0)


def remove_leftover(path: Path) -> int:
    """Delete the folder of an interrupted removal or import; returns the bytes freed.

    CacheError when it holds files that zsseg did not write, CacheLocked when it is in use.
    """
    assert is_leftover(path), path
    _refuse_strangers(path, sort_contents(path, None))
    size = storage(path).total_bytes()
    with locked(path):
        _delete(path)
    return size


def prune(folder: StorePath, *, unfinished: bool, dry_run: bool) -> list[Garbage]:
    """Delete what interrupted runs left in a folder of stores; returns what was deleted.

    That is: temporary files, arrays and receipts that are not in the manifest, and folders of
    interrupted removals and imports; with `unfinished` also stores without a seal. What is locked
    or cannot be written is logged and kept. With `dry_run` nothing is deleted.
    """
    pruned: list[Garbage] = []
    for path in storage(folder).folders_named((REMOVING, IMPORTING)):
        with _or_left_alone(path):
            pruned.append(_prune_leftover(path, dry_run=dry_run))
    for store in find_stores(folder):
        with _or_left_alone(store.path):
            if unfinished and not store.sealed:
                pruned.append(_prune_store(store.path, dry_run=dry_run))
            else:
                pruned += _prune_files(store.path, dry_run=dry_run)
    return pruned


@contextmanager
def _or_left_alone(path: StorePath) -> Iterator[None]:
    try:
        yield
    except (CacheError, OSError) as error:  # CacheLocked among them
        named = one_line(path) in str(error)
        _log.warning("left alone: %s%s", "" if named else f"{path}: ", error)


def _prune_leftover(path: Path, *, dry_run: bool) -> Garbage:
    reason = "left by an interrupted removal or import"
    if not dry_run:
        return Garbage(path, reason, remove_leftover(path))
    _refuse_strangers(path, sort_contents(path, None))
    size = storage(path).total_bytes()
    with locked(path):
        return Garbage(path, reason, size)


def _prune_store(path: StorePath, *, dry_run: bool) -> Garbage:
    if not dry_run:
        return Garbage(path, "unfinished store", remove_store(path, only_unfinished=True))
    check_removable(path)
    return Garbage(path, "unfinished store", storage(path).total_bytes())


def _prune_files(path: StorePath, *, dry_run: bool) -> list[Garbage]:
    if not _leftovers(path):  # no lock where there is nothing to do: it would stop a writer
        return []
    with locked(path):
        found = _leftovers(path)
        for name in [] if dry_run else found:
            storage(path / name).remove()
            storage(path).remove_empty_folders(name)
    return list(found.values())


def _leftovers(path: StorePath) -> dict[str, Garbage]:
    """The files of a store that no complete run leaves, by their path in the store."""
    contents = sort_contents(path, read_manifest(path))
    reasons = dict.fromkeys(contents.partial, "half written")
    reasons |= dict.fromkeys(contents.orphans, "not in the store's manifest")
    return {
        file: Garbage(path / file, reason, storage(path / file).size() or 0)
        for file, reason in reasons.items()
    }


def _manifest(path: StorePath) -> Manifest | None:
    try:
        return read_manifest(path)
    except CacheError:  # damaged or of another format: it may be deleted all the same
        return None


def _refuse_strangers(path: StorePath, contents: Contents) -> None:
    if contents.strangers:
        named = ", ".join(contents.strangers[:_SHOWN])
        raise CacheError(
            f"{path}: holds files that zsseg did not write ({named}"
            f"{', ...' if len(contents.strangers) > _SHOWN else ''}), so it is not deleted. Move "
            "them elsewhere first"
        )


def _delete(folder: Path) -> None:
    """Delete seal and manifest first, so that it is no store, and the lock's file last."""
    for name in (SEAL, GROUP):
        remove_durably(folder / name)
    for entry in list(folder.iterdir()):
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()
    shutil.rmtree(folder)
    sync(folder.parent)
