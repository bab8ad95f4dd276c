"""A store whose images are no longer the same: set aside, to be copied from row by row.

Images that came or went move the rows of all that follow, and rows lie in shards. So the store's
content moves to `.previous` within its folder, a new store is filled beside it, from it wherever an
image is the same, and sealing the new one deletes it. Both are under the one lock.
"""

from pathlib import Path

from zsseg.stages.cache.disk.files import exists, make_folder, remove_durably, remove_folder, sync
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.manifest import (
    CARD,
    GROUP,
    INDEX,
    LEDGER,
    SEAL,
    SOURCES,
    Manifest,
    read_manifest,
)
from zsseg.stages.errors import CacheError

PREVIOUS = ".previous"

NOT_MOVED = (
    "images came or went, which moves rows, and objects cannot be moved. Fetch the store with "
    "`zsseg cache export` and `import`, update it here, and send it back; or give another --cache"
)
"""What to say of a store at a URL, after its path, and what to do about it."""


def set_aside(path: StorePath) -> None:
    """Move the content of a store to `.previous`; what is there already stays the previous one.

    Raises CacheError for a store elsewhere: objects cannot be moved.
    """
    if not isinstance(path, Path):
        raise CacheError(f"{path}: {NOT_MOVED}")
    if exists(path / SEAL):  # what lies aside still is left of a deletion that was killed
        discard(path)
    remove_durably(path / SEAL)
    remove_durably(path / CARD)
    if exists(path / PREVIOUS / GROUP):  # the one in front was not finished: it is given up
        _clear(path)
        return
    make_folder(path / PREVIOUS)
    # First what makes it a store; `finish` goes on from there.
    (path / GROUP).replace(path / PREVIOUS / GROUP)
    finish(path)


def finish(path: StorePath) -> None:
    """Complete what `set_aside` began, here or before it was killed."""
    if not isinstance(path, Path):
        return
    aside = path / PREVIOUS
    if exists(path / GROUP) or not exists(aside / GROUP):
        return
    for name in (INDEX, LEDGER, SOURCES, *sorted(read_manifest(aside).arrays)):
        if (path / name).exists() and not (aside / name).exists():
            (path / name).replace(aside / name)
    sync(aside)
    sync(path)


def previous(path: StorePath) -> tuple[StorePath, Manifest] | None:
    """The store set aside, and what it holds; None when there is none that can be read."""
    if not isinstance(path, Path):
        return None
    try:
        return path / PREVIOUS, read_manifest(path / PREVIOUS)
    except CacheError:
        return None


def discard(path: StorePath) -> None:
    """Delete what was set aside."""
    if isinstance(path, Path):
        remove_folder(path / PREVIOUS)


def _clear(path: Path) -> None:
    """Delete the content of the unfinished store in front, its receipts first.

    Its metadata, which says what belongs to it, goes last: a killed call is made again.
    """
    for name in (LEDGER, *sorted(read_manifest(path).arrays)):
        remove_folder(path / name)
    for name in (SOURCES, GROUP, INDEX):
        remove_durably(path / name)
