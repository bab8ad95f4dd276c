"""Who uses a store: when it was last opened for work, and which runs were trained from it."""

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
    """A run, the path or URL of the store that it was trained from, and that one's fingerprint."""

    run: Path
    store: str
    fingerprint: str


def note_use(store: StorePath) -> None:
    """Note that a store is used now: the time of `.used`, which is no content.

    A store that cannot be written (another's, or on a read-only disk) is used without a note.
    """
    with suppress(OSError):
        storage(store / USED).touch()


def last_used(store: StorePath) -> datetime | None:
    """When `note_use` was last called; None when it never was, or could not write."""
    try:
        return storage(store / USED).modified()
    except OSError:
        return None


def find_runs(folder: Path) -> list[RunUse]:
    """Every run below a folder that names its store; one that cannot be read is logged."""
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
    """The runs that were trained from a store: from its folder, or from a copy of what it holds."""
    try:
        fingerprint = read_seal(store)["root"]
    except CacheError:  # unfinished or damaged: only its folder tells
        fingerprint = None
    place = str(store.resolve())
    return [use.run for use in runs if use.fingerprint == fingerprint or use.store == place]
