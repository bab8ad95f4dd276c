"""Tells when a store was last used, and which runs were trained from it."""

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from zsseg.stages.cache.disk.json_files import read_json
from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.ledger import read_seal
from zsseg.stages.cache.format.manifest import USED
from zsseg.stages.errors import CacheError

_RECORD = "run.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunUse:
    """A run, with path or URL and fingerprint of the store that it was trained from."""

    run: Path
    store: str
    fingerprint: str


def note_use(store: StorePath) -> None:
    """Record that a store is used now: in the time of its file `.used`, which is no content.

    Nothing happens where the store cannot be written (another user's, or a read-only disk).
    """
    with suppress(OSError):
        storage(store / USED).touch()


def last_used(store: StorePath) -> datetime | None:
    """The time of the last `note_use`; None when there was none, or it could not write."""
    try:
        return storage(store / USED).modified()
    except OSError:
        return None


def find_runs(folder: Path) -> list[RunUse]:
    """Every run below a folder whose record names its store; unreadable ones are logged."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders.sort()
        if _RECORD not in names:
            continue
        folders.clear()  # checkpoints and the like: no run lies in a run
        path = Path(parent, _RECORD)
        try:
            record = read_json(path)
        except (CacheError, OSError) as error:
            _log.warning("left out: %s", error)
            continue
        store, fingerprint = record.get("store"), record.get("store_fingerprint")
        if isinstance(store, str) and isinstance(fingerprint, str):
            found.append(RunUse(Path(parent), store, fingerprint))
        else:
            _log.warning("left out: %s: it does not name a store", path)
    return found


def runs_of(store: StorePath, runs: Sequence[RunUse]) -> list[Path]:
    """The runs that were trained from a store: from this folder, or from a copy of its content."""
    try:
        fingerprint = read_seal(store)["root"]
    except CacheError:  # unfinished or damaged: only its path identifies it
        fingerprint = None
    path = str(store.resolve())
    return [use.run for use in runs if use.fingerprint == fingerprint or use.store == path]
