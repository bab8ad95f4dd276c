"""Checks a store against its seal and receipts: names every damaged file and the images in it.

The seal holds the hashes of metadata, index and receipts; a receipt holds size and hash of each of
its shard's files. Where the manifest (zarr.json of the group) is damaged, seal and receipts alone
say which files there should be.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zsseg.stages.cache.disk.json_files import LARGEST_LINES, read_json, read_json_lines
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.evidence import (
    MISSING,
    Shard,
    list_shards,
    or_unreadable,
    read_group,
    read_intact_seal,
    why_changed,
    why_not_plain,
)
from zsseg.stages.cache.format import ledger
from zsseg.stages.cache.format.arrays import array_json
from zsseg.stages.cache.format.manifest import GROUP, HISTORY, INDEX, SEAL, Manifest, shard_file
from zsseg.stages.cache.format.stored_rows import read_shard
from zsseg.stages.errors import CacheError


@dataclass(frozen=True)
class DamagedFile:
    """One damaged or missing file of a store.

    `file` is relative to the store. `artifact`, `array` and `images` (ids) say what a file of data
    holds; a receipt has no array, an array's zarr.json no images.
    """

    file: str
    artifact: str | None
    array: str | None
    images: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Share:
    """Part `number` (from 1) of `parts` equal parts of a store's shards.

    Each shard is in exactly one of them. ValueError when there is no such part.
    """

    number: int
    parts: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.parts:
            raise ValueError(f"there is no part {self.number} of {self.parts}")

    def holds(self, position: int) -> bool:
        """Is the shard at this position, counted from 0, in this part?"""
        return position % self.parts == self.number - 1


EVERYTHING = Share(1, 1)


@dataclass(frozen=True)
class Inspection:
    """What a check has found, and how much data it has read.

    `manifest` is None where the group is damaged, `root` (the fingerprint) where the seal is.
    `shards` counts those that have data.
    """

    problems: tuple[DamagedFile, ...]
    manifest: Manifest | None
    root: str | None
    shards: int
    shards_read: int
    bytes_read: int


def verify_store(path: StorePath, *, read_data: bool) -> list[DamagedFile]:
    """The damaged files of a store, with every byte of data read, or none: see `inspect_store`."""
    share = EVERYTHING if read_data else None
    return list(inspect_store(path, share=share, progress=lambda done, total: None).problems)


def inspect_store(
    path: StorePath, *, share: Share | None, progress: Callable[[int, int], None]
) -> Inspection:
    """Check seal, metadata, receipts and file sizes, and every byte of a share of the data.

    No problems means that all is as it was written. The seal of an unfinished store is a problem;
    its committed data is checked. `progress` is called with the number of shards done and of all.
    CacheError only when there is no folder.
    """
    if not path.is_dir():
        raise CacheError(f"{path}: no store here; `zsseg precompute` makes one")
    problems: list[DamagedFile] = []
    root: str | None = None
    sealed: dict[str, str] | None = None
    try:
        seal = read_intact_seal(path)
        root, sealed = seal["root"], seal["files"]
    except CacheError as error:
        problems.append(DamagedFile(SEAL, None, None, (), str(error)))
    manifest, wrong = read_group(path, sealed)
    if wrong:
        problems.append(DamagedFile(GROUP, None, None, (), wrong))
    shards = list_shards(path, manifest, sealed)
    damaged = dict(_damaged_metadata(path, manifest, sealed, shards))
    for shard in shards:
        if isinstance(shard.receipt, CacheError):
            damaged.setdefault(shard.file, str(shard.receipt))
    if share and (wrong := _damaged_history(path / HISTORY)):
        damaged[HISTORY] = wrong
    ids = [] if INDEX in damaged else _ids(path, manifest)
    problems += [_problem(file, reason, shards, ids) for file, reason in damaged.items()]
    count = shards_read = bytes_read = 0
    for done, shard in enumerate(shards, start=1):
        files: Mapping[str, Mapping[str, Any]] = {}
        reading = False
        if isinstance(shard.receipt, dict) and shard.file not in damaged:
            files = shard.receipt["files"]
            reading = bool(files) and share is not None and share.holds(count)
            wrongs = [(file, _damage(path, file, files[file], read_data=reading)) for file in files]
        elif manifest and shard.file in damaged:
            wrongs = list(_undecodable(path, manifest, shard, damaged, read_data=share is not None))
        else:
            wrongs = []
        images = _images(ids, shard)
        problems += [
            DamagedFile(file, shard.artifact, file.split("/")[0], images, wrong)
            for file, wrong in wrongs
            if wrong
        ]
        count += bool(files)
        shards_read += reading
        bytes_read += reading * sum(entry["bytes"] for entry in files.values())
        progress(done, len(shards))
    return Inspection(tuple(problems), manifest, root, count, shards_read, bytes_read)


def _problem(file: str, reason: str, shards: Sequence[Shard], ids: Sequence[str]) -> DamagedFile:
    """The damage of a file that the seal covers, with the artifact, array and images it is of."""
    for shard in shards:
        if shard.file == file:
            return DamagedFile(file, shard.artifact, None, _images(ids, shard), reason)
    if "/" not in file:
        return DamagedFile(file, None, None, (), reason)
    array = file.split("/")[0]
    owners = (
        shard.artifact
        for shard in shards
        if isinstance(shard.receipt, dict)
        if any(data.startswith(f"{array}/") for data in shard.receipt["files"])
    )
    return DamagedFile(file, next(owners, None), array, (), reason)


def _damaged_metadata(
    path: StorePath,
    manifest: Manifest | None,
    sealed: Mapping[str, str] | None,
    shards: Sequence[Shard],
) -> Iterator[tuple[str, str]]:
    """Path and reason of each damaged file that the seal covers, except the group's zarr.json.

    Without a seal, index and arrays are checked by their content; receipts have checksums of their
    own, which are checked elsewhere. An array of which nothing is committed may be missing.
    """
    if sealed is not None:
        for file in ledger.sealed_files(manifest) if manifest else sealed:
            if file != GROUP and (wrong := why_changed(path / file, sealed.get(file))):
                yield file, wrong
        return
    if wrong := why_not_plain(path / INDEX) or _wrong_index(path / INDEX, manifest):
        yield INDEX, wrong
    if manifest is None:
        return
    committed = {shard.artifact for shard in shards if shard.receipt is not None}
    for name, (artifact, spec) in manifest.arrays.items():
        file = f"{name}/zarr.json"
        wanted = json.loads(array_json(manifest, artifact, spec))
        wrong = why_not_plain(path / file) or _wrong_json(path / file, wanted)
        if wrong and (wrong != MISSING or artifact.name in committed):
            yield file, wrong


def _wrong_index(file: StorePath, manifest: Manifest | None) -> str | None:
    try:
        entries = read_json_lines(file, at_most=_index_bytes(manifest))
    except CacheError as error:
        return str(error)
    rows = manifest.rows if manifest else len(entries)
    fits = all(entry.get("row") == row and "id" in entry for row, entry in enumerate(entries))
    return None if fits and len(entries) == rows else f"damaged, not one entry for each of {rows}"


def _wrong_json(file: StorePath, wanted: dict[str, Any]) -> str | None:
    try:
        same = read_json(file) == wanted
    except CacheError as error:
        return str(error)
    return None if same else "not the array that the store's own zarr.json describes"


def _damaged_history(file: StorePath) -> str | None:
    """What is wrong with the history: it is no content, but commands need its lines."""
    if wrong := why_not_plain(file):
        return None if wrong == MISSING else wrong
    try:
        read_json_lines(file)
    except CacheError as error:
        return str(error)
    return None


def _damage(path: StorePath, file: str, entry: Mapping[str, Any], *, read_data: bool) -> str | None:
    """What is wrong with a file of data, compared with its entry in the receipt."""
    if wrong := why_not_plain(path / file):
        return wrong
    return or_unreadable(lambda: ledger.file_damage(path, file, entry, read_data=read_data))


def _undecodable(
    path: StorePath,
    manifest: Manifest,
    shard: Shard,
    damaged: Collection[str],
    *,
    read_data: bool,
) -> Iterator[tuple[str, str | None]]:
    """What is wrong with the files of a shard whose receipt is damaged, by its own checksums.

    Nothing is said of the data of an array whose zarr.json is damaged too.
    """
    (artifact,) = (each for each in manifest.artifacts if each.name == shard.artifact)
    for spec in artifact.arrays:
        file = shard_file(spec, artifact, shard.number)
        if wrong := why_not_plain(path / file):
            yield file, wrong
        elif read_data and f"{spec.name}/zarr.json" not in damaged:
            try:
                read_shard(path, manifest, spec.name, shard.number)
            except CacheError as error:
                yield file, str(error)


def _index_bytes(manifest: Manifest | None) -> int:
    return manifest.index_bytes if manifest else LARGEST_LINES


def _ids(path: StorePath, manifest: Manifest | None) -> list[str]:
    """Image ids by row, from an intact index."""
    entries = read_json_lines(path / INDEX, at_most=_index_bytes(manifest))
    return [str(entry["id"]) for entry in entries]


def _images(ids: Sequence[str], shard: Shard) -> tuple[str, ...]:
    """Ids of a shard's images; row numbers where the index is damaged."""
    return tuple(ids[row] if row < len(ids) else f"row {row}" for row in shard.rows or ())
