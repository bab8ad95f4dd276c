"""Lists the stores in a folder, names new ones, and finds the one that is asked for. No zarr."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zsseg.stages.cache.disk.json_files import plain
from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.manifest import GROUP, IMPORTING, REMOVING, SEAL, read_manifest
from zsseg.stages.cache.format.recipe import fingerprint
from zsseg.stages.errors import CacheError
from zsseg.stages.printable import counted, one_line

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoreSummary:
    """One store in a list: its number of `images`, and `sealed` when it is complete."""

    path: StorePath
    dataset: str
    split: str
    teacher: str
    images: int
    sealed: bool

    @property
    def bytes(self) -> int:
        """Size of all its files, in bytes; reads the size of each file now."""
        return storage(self.path).total_bytes()


def store_name(identity: Mapping[str, Any], *, dataset: str, split: str, teacher: str) -> str:
    """Folder name of a store: camvid-train-vit-b-16-1f2e3d4c. `teacher` is the teacher's slug."""
    parts = [
        re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in (dataset, split, teacher)
    ]
    return "-".join([*filter(None, parts), fingerprint(identity)[:8]])


def locate_store(
    folder: StorePath, identity: Mapping[str, Any], *, dataset: str, split: str, teacher: str
) -> StorePath:
    """The path of the store of this identity in a folder, or the path to make it at.

    The folder's name contains the teacher's, which is only what a person calls its files: a store
    of the same identity under another name is the same store. ResourceError when the folder cannot
    be reached.
    """
    storage(folder).check_reachable()
    path = folder / store_name(identity, dataset=dataset, split=split, teacher=teacher)
    there = storage(folder).subfolders()
    if path in there:
        return path
    for other in there:
        if not other.name.endswith(f"-{fingerprint(identity)[:8]}"):
            continue
        try:
            if read_manifest(other).identity == plain(dict(identity)):
                return other
        except CacheError:  # damaged, or of another format: not to be continued
            continue
    return path


def find_stores(folder: StorePath) -> list[StoreSummary]:
    """All stores directly in a folder, sorted by name; the folder itself where it is a store.

    A store that cannot be read is logged and left out. ResourceError when the folder cannot be
    reached.
    """
    storage(folder).check_reachable()
    if is_leftover(folder):
        return []
    # The folders in a store are its arrays.
    entries = [folder] if _holds_store(folder) else storage(folder).subfolders()
    found = storage(folder).map(_summary, entries)
    return [summary for summary in found if summary]


def choose_store(path_or_folder: StorePath, *, split: str | None = None) -> StorePath:
    """The store that a person means: the path itself, or the only one in the folder of this split.

    CacheError when none fits (says which command makes one) or several do (lists them),
    ResourceError when the folder cannot be reached.
    """
    storage(path_or_folder).check_reachable()
    if _holds_store(path_or_folder):
        return path_or_folder
    found = [store for store in find_stores(path_or_folder) if split in (None, store.split)]
    if len(found) == 1:
        return found[0].path
    if found:
        raise CacheError(
            f"{path_or_folder}: several stores fit; give the path of one:",
            *(
                f"{store.path}  {counted(store.images, 'image')}, {store.teacher}"
                + ("" if store.sealed else ", unfinished")
                for store in found
            ),
        )
    chosen = f" --split {split}" if split else ""
    raise CacheError(
        f"{path_or_folder}: no store{' for' + chosen if chosen else ''} here; "
        f"`zsseg precompute --dataset NAME{chosen} --root FOLDER` makes one"
    )


def is_leftover(path: StorePath) -> bool:
    """Does the name say that an interrupted `zsseg cache rm` or `import` left this folder?"""
    return path.name.endswith((REMOVING, IMPORTING))


def _holds_store(path: StorePath) -> bool:
    return not is_leftover(path) and storage(path / GROUP).size() is not None


def _summary(path: StorePath) -> StoreSummary | None:
    if not _holds_store(path):
        return None
    try:
        manifest = read_manifest(path)
    except (CacheError, OSError) as error:  # one that cannot be read hides no other one
        named = one_line(path) in str(error)
        _log.warning("left out: %s%s", "" if named else f"{path}: ", error)
        return None
    return StoreSummary(
        path=path,
        dataset=str(manifest.identity.get("dataset", "?")),
        split=str(manifest.identity.get("split", "?")),
        teacher=str(manifest.info.get("teacher", "?")),
        images=manifest.rows,
        sealed=storage(path / SEAL).exists(),
    )
