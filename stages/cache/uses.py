"""Who uses a store: when it was last opened for work, and which runs were trained from it."""

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from stages.cache.files import read_json
from stages.cache.ledger import read_seal
from stages.cache.manifest import USED
from stages.errors import CacheError

_RECORD = "run.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunUse:
    """A run, the folder of the store that it was trained from, and that store's fingerprint."""

    run: Path
    store: Path
    fingerprint: str


def note_use(store: Path) -> None:
    """Note that a store is used now: the time of `.used`, which is no content.

    A store that cannot be written (another's, or on a read-only disk) is used without a note.
    """
    with suppress(OSError):
        (store / USED).touch()


def last_used(store: Path) -> datetime | None:
    """When `note_use` was last called; None when it never was, or could not write."""
    try:
        seconds = (store / USED).stat().st_mtime
    except OSError:
        return None
    return datetime.fromtimestamp(seconds, UTC)


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
            found.append(RunUse(Path(parent), Path(store), fingerprint))
        else:
            _log.warning("left out: %s: it does not name a store", path)
    return found


def runs_of(store: Path, runs: Sequence[RunUse]) -> list[Path]:
    """The runs that were trained from a store: from its folder, or from a copy of what it holds."""
    try:
        fingerprint = read_seal(store)["root"]
    except CacheError:  # unfinished or damaged: only its folder tells
        fingerprint = None
    place = store.resolve()
    return [use.run for use in runs if use.fingerprint == fingerprint or use.store == place]
