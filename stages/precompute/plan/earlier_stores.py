"""Stores whose rows can be used again: the one that is continued, and one to copy from.

That is the store set aside (`.previous`), while images that were added or removed move the rows of
the one that is continued; else the store that the request names, whose unseen classes may be
others.
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
    description,
    fingerprints,
    index_lines,
    read_manifest,
)
from zsseg.stages.cache.reconcile import Mismatch, find_mismatch
from zsseg.stages.cache.set_aside import previous_store
from zsseg.stages.errors import CacheError
from zsseg.stages.precompute.make.artifacts import KINDS
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
    prints: Mapping[str, str]
    """By artifact: the fingerprint that the receipts of usable values have."""
    borrowed: bool = False
    """Is it another store, with other visible labels, that is only read?"""


def earlier_stores(
    wanted: WantedStore,
) -> tuple[EarlierStore | None, EarlierStore | None, Mismatch | None]:
    """The store to continue, the one to copy rows from, and how the existing one differs."""
    path = wanted.path
    prints = fingerprints(wanted.manifest.artifacts)
    aside = _set_aside(path, prints)
    other = aside or _borrowed(wanted)
    if not storage(path / GROUP).exists():
        return None, other, None
    found = find_mismatch(path, wanted.manifest, index_lines(wanted.index()))
    stored = read_manifest(path)
    if found.fixed or found.images:
        if aside is not None and not storage(path / SEAL).exists():
            return None, aside, found  # the new one is unfinished, and is dropped
        return None, EarlierStore(path, stored, found.artifacts, _rows_by_id(path), prints), found
    return EarlierStore(path, stored, found.artifacts, None, prints), other, found


def _set_aside(path: StorePath, prints: Mapping[str, str]) -> EarlierStore | None:
    if (aside := previous_store(path)) is None:
        return None
    folder, manifest = aside
    return EarlierStore(folder, manifest, {}, _rows_by_id(folder), prints)


def _borrowed(wanted: WantedStore) -> EarlierStore | None:
    """The store that the request names, less what labels or the list of unseen classes change.

    `index` has recorded that list, so the fingerprints of all that is made from images differ; what
    is copied has the same recipe, and is made from artifacts that are copied too.
    """
    path = wanted.copy_from
    if path is None or path == wanted.path:
        return None
    manifest = read_manifest(path)
    there = {artifact.name: artifact for artifact in manifest.artifacts}
    changed: dict[str, Sequence[str]] = {}
    for artifact in wanted.manifest.artifacts:  # in the order of making
        kind, old = KINDS[artifact.name], there.get(artifact.name)
        made_from = changed.keys() & set(artifact.depends) - {"index"}
        if kind.from_labels or kind.from_unseen:
            changed[artifact.name] = ("other classes are unseen",)
        elif old is None or description(old) != description(artifact) or made_from:
            changed[artifact.name] = (f"{path} has it not, or of other settings",)
    prints = fingerprints(manifest.artifacts)
    return EarlierStore(path, manifest, changed, _rows_by_id(path), prints, borrowed=True)


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
