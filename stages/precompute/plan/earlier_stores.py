"""Stores whose rows can be used again: the one that is continued, and the one set aside.

A store is set aside (`.previous`) while images that were added or removed move its rows.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zsseg.stages.cache.disk.json_files import read_json_lines
from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format import ledger
from zsseg.stages.cache.format.manifest import (
    GROUP,
    INDEX,
    SEAL,
    Manifest,
    index_lines,
    read_manifest,
)
from zsseg.stages.cache.reconcile import Mismatch, find_mismatch
from zsseg.stages.cache.set_aside import previous_store
from zsseg.stages.errors import CacheError
from zsseg.stages.precompute.plan.wanted_store import WantedStore

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EarlierStore:
    """A store whose rows may be used again."""

    path: StorePath
    manifest: Manifest
    changed: Mapping[str, Sequence[str]]
    """Artifacts of other settings, with what differs."""
    row_of: Mapping[str, int] | None
    """Row by image id, where rows have moved; None where they have not."""


def earlier_stores(
    wanted: WantedStore,
) -> tuple[EarlierStore | None, EarlierStore | None, Mismatch | None]:
    """The store to continue, the one to copy rows from, and how the existing one differs."""
    path = wanted.path
    if not storage(path / GROUP).exists():
        return None, _set_aside(path), None
    found = find_mismatch(path, wanted.manifest, index_lines(wanted.index()))
    stored = read_manifest(path)
    if found.fixed or found.images:
        if (aside := _set_aside(path)) is not None and not storage(path / SEAL).exists():
            return None, aside, found  # the new one is unfinished, and is dropped
        return None, EarlierStore(path, stored, found.artifacts, _rows_by_id(path)), found
    front = EarlierStore(path, stored, found.artifacts, None)
    return front, _set_aside(path), found


def _set_aside(path: StorePath) -> EarlierStore | None:
    if (aside := previous_store(path)) is None:
        return None
    folder, manifest = aside
    return EarlierStore(folder, manifest, {}, _rows_by_id(folder))


def _rows_by_id(store: StorePath) -> dict[str, int]:
    try:
        return {str(entry["id"]): int(entry["row"]) for entry in read_json_lines(store / INDEX)}
    except (CacheError, KeyError) as error:
        _log.warning("%s; nothing is copied from there", error)
        return {}


def readable_receipts(known: EarlierStore, shard: int) -> dict[str, dict[str, Any] | None]:
    """The receipts of `index` and `local`, of any recipe; None where one cannot be read."""
    artifacts = {artifact.name: artifact for artifact in known.manifest.artifacts}
    found: dict[str, dict[str, Any] | None] = {"index": None, "local": None}
    for name in found:
        if name in artifacts:
            try:
                found[name] = ledger.read_receipt(known.path, artifacts[name], shard)
            except CacheError:  # the plan gets the reason from `ledger.why_recompute`
                continue
    return found
