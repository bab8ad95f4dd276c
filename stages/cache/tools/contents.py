"""Sorts the files in a store's folder: its own, leftovers, and those that zsseg never wrote."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from zsseg.stages.cache.disk.durable import PARTIAL
from zsseg.stages.cache.disk.lock import HOLDER, LOCK
from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.ledger import sealed_files
from zsseg.stages.cache.format.manifest import (
    CARD,
    GROUP,
    HISTORY,
    INDEX,
    LEDGER,
    SEAL,
    SOURCES,
    USED,
    Manifest,
    shard_file,
)
from zsseg.stages.cache.set_aside import PREVIOUS

_TOP = frozenset({GROUP, INDEX, SEAL, HISTORY, SOURCES, CARD, USED, LOCK, HOLDER})
_BELOW = re.compile(
    rf"[a-z][a-z0-9_]*/(zarr\.json|c(\.\d+)*)|{LEDGER}/[a-z][a-z0-9_]*/\d+\.json", re.ASCII
)


@dataclass(frozen=True)
class Contents:
    """The files of a folder, by their paths in it.

    `partial`: temporary files of interrupted writes. `orphans`: named like arrays and receipts, but
    not in the manifest. `strangers`: files that zsseg does not write, and links.
    """

    own: tuple[str, ...]
    partial: tuple[str, ...]
    orphans: tuple[str, ...]
    strangers: tuple[str, ...]


def sort_contents(path: StorePath, manifest: Manifest | None) -> Contents:
    """Sort the files of a folder; without a manifest, all arrays and receipts are orphans."""
    known = {*sealed_files(manifest), *data_files(manifest)} if manifest else set()
    own, partial, orphans, strangers = [], [], [], []
    for file in storage(path).list_files():
        if not storage(path / file).is_plain_file():
            strangers.append(file)
        elif file in _TOP or file in known or file.startswith(f"{PREVIOUS}/"):
            own.append(file)
        elif file.endswith(PARTIAL):
            partial.append(file)
        elif _BELOW.fullmatch(file):
            orphans.append(file)
        else:
            strangers.append(file)
    return Contents(tuple(own), tuple(partial), tuple(orphans), tuple(strangers))


def data_files(manifest: Manifest) -> Iterator[str]:
    """Paths of all shards' data, relative to the store."""
    for artifact, spec in manifest.arrays.values():
        yield from (shard_file(spec, artifact, shard) for shard in manifest.shards(artifact))


def file_count(manifest: Manifest) -> int:
    """Number of files of a finished store: manifest, index, arrays and receipts.

    Counted without listing them: the manifest of an archive may claim any number of rows.
    """
    receipts = sum(manifest.shards(artifact).stop for artifact in manifest.artifacts)
    data = sum(manifest.shards(artifact).stop for artifact, _ in manifest.arrays.values())
    return 2 + len(manifest.arrays) + receipts + data
