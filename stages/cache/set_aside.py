"""Sets a store aside whose images have changed, so that its rows can be copied into a new one.

An added or removed image moves all rows after it, and rows lie in shards. So the store's content
moves to `.previous` within its folder, and a new store is filled beside it: from the old one
wherever an image is the same. Sealing the new one deletes the old one. One lock covers both.
"""

from zsseg.stages.cache.disk.storage import storage
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
"""The folder within a store's folder that holds the store that was set aside."""

_NOT_MOVED = (
    "images were added or removed, which moves rows, and objects cannot be moved. Get the store "
    "with `zsseg cache export` and `import`, update it here and send it back; or give another "
    "--cache"
)


def why_not_set_aside(path: StorePath) -> str | None:
    """Why a store cannot be set aside, and what to do; None where it can.

    At a URL it cannot: objects cannot be moved.
    """
    return None if storage(path).can_rename else _NOT_MOVED


def set_aside(path: StorePath) -> None:
    """Move the content of a store to `.previous`; one that is there already stays.

    CacheError for a store at a URL.
    """
    if wrong := why_not_set_aside(path):
        raise CacheError(f"{path}: {wrong}")
    if storage(path / SEAL).exists():  # an older one there is left of a deletion that was killed
        discard_previous(path)
    storage(path / SEAL).remove()
    storage(path / CARD).remove()
    if storage(path / PREVIOUS / GROUP).exists():  # the new one is unfinished: drop it
        _clear(path)
        return
    storage(path / PREVIOUS).make_folder()
    # The manifest first, which makes it a store; then `finish_setting_aside` can complete it.
    storage(path).move(GROUP, PREVIOUS)
    finish_setting_aside(path)


def finish_setting_aside(path: StorePath) -> None:
    """Move the rest of a store whose manifest `set_aside` has moved, now or before a kill."""
    aside = path / PREVIOUS
    if why_not_set_aside(path) or storage(path / GROUP).exists():
        return
    if not storage(aside / GROUP).exists():
        return
    for name in (INDEX, LEDGER, SOURCES, *sorted(read_manifest(aside).arrays)):
        if storage(path / name).exists() and not storage(aside / name).exists():
            storage(path).move(name, PREVIOUS)
    storage(aside).sync()
    storage(path).sync()


def previous_store(path: StorePath) -> tuple[StorePath, Manifest] | None:
    """The store set aside, and what it holds; None when there is none that can be read."""
    if why_not_set_aside(path):
        return None
    try:
        return path / PREVIOUS, read_manifest(path / PREVIOUS)
    except CacheError:
        return None


def discard_previous(path: StorePath) -> None:
    """Delete what was set aside."""
    storage(path / PREVIOUS).remove_folder()


def _clear(path: StorePath) -> None:
    """Delete the content of the unfinished new store, its receipts first.

    Its metadata, which says what belongs to it, goes last, so that a killed call can be repeated.
    """
    for name in (LEDGER, *sorted(read_manifest(path).arrays)):
        storage(path / name).remove_folder()
    for name in (SOURCES, GROUP, INDEX):
        storage(path / name).remove()
