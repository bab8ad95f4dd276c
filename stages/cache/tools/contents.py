"""Sorts the files in a store's folder: its own, leftovers, and those that zsseg never wrote."""

from collections.abc import Iterator
from dataclasses import dataclass

from zsseg.stages.cache.disk.durable import PARTIAL
from zsseg.stages.cache.disk.json_files import read_json
from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.ledger import sealed_files
from zsseg.stages.cache.format.manifest import (
    GROUP,
    TOP_FILES,
    Manifest,
    is_half_written,
    is_store_file,
    shard_file,
)
from zsseg.stages.cache.set_aside import PREVIOUS
from zsseg.stages.errors import CacheError

_CHUNK_NAMES = {"name": "default", "configuration": {"separator": "."}}
"""How zsseg has zarr name the files of an array."""


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
    foreign: dict[str, bool] = {}
    own, partial, orphans, strangers = [], [], [], []
    for file in storage(path).list_files():
        name = file.removeprefix(f"{PREVIOUS}/")
        if not storage(path / file).is_plain_file():
            strangers.append(file)
        elif file in TOP_FILES or file in known or (name != file and is_store_file(name)):
            own.append(file)
        elif file.endswith(PARTIAL) and is_half_written(name.removesuffix(PARTIAL)):
            partial.append(file)
        elif is_store_file(file) and not _is_foreign(path, file.split("/")[0], foreign):
            orphans.append(file)
        else:
            strangers.append(file)
    return Contents(tuple(own), tuple(partial), tuple(orphans), tuple(strangers))


def _is_foreign(path: StorePath, folder: str, known: dict[str, bool]) -> bool:
    """Is this folder a zarr array that zsseg did not make, as its zarr.json shows?

    `known`: the folders that have been looked at.
    """
    if folder not in known:
        try:
            described = read_json(path / folder / GROUP)
        except CacheError:  # lost or damaged: by its name it is one of ours
            described = {}
        known[folder] = bool(described) and (
            bool(described.get("attributes"))
            or described.get("chunk_key_encoding") != _CHUNK_NAMES
            or "crc32c" not in str(described.get("codecs"))
        )
    return known[folder]


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
