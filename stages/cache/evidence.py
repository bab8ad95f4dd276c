"""Reads seal, manifest and receipts of a store of which any file may be damaged.

They confirm one another: the seal holds the hashes of manifest and receipts. Where the manifest is
damaged, the seal says which receipts there should be; without a seal, the receipts in the folder
are taken.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from zsseg.stages.cache.disk.hashing import hash_bytes, hash_file
from zsseg.stages.cache.disk.json_files import canonical_json, read_json
from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format import ledger
from zsseg.stages.cache.format.arrays import array_jsons
from zsseg.stages.cache.format.manifest import (
    GROUP,
    LEDGER,
    SEAL,
    Artifact,
    Manifest,
    group_json,
    read_manifest,
)
from zsseg.stages.cache.format.recipe import fingerprint
from zsseg.stages.errors import CacheError
from zsseg.stages.file_bytes import PASSING

MISSING = "missing"
_CHANGED = "changed since the store was sealed"

Receipt = dict[str, Any] | CacheError | None
"""The content of a receipt, or what is wrong with it, or None where it is missing."""

_RECEIPT = re.compile(rf"{LEDGER}/([a-z][a-z0-9_]*)/(\d+)\.json", re.ASCII)


@dataclass(frozen=True)
class Shard:
    """One shard of an artifact with its receipt; `rows` is None where it is not per row.

    `file` is the receipt's path, relative to the store.
    """

    artifact: str
    number: int
    rows: range | None
    file: str
    receipt: Receipt


def read_intact_seal(path: StorePath) -> dict[str, Any]:
    """The seal; CacheError when it is missing, damaged, or not byte for byte as it was written."""
    file = path / SEAL
    if (wrong := why_not_plain(file)) and wrong != MISSING:
        raise CacheError(f"{file}: {wrong}")
    seal = ledger.read_seal(path)
    if storage(file).read() != f"{canonical_json(seal)}\n".encode("ascii"):
        raise CacheError(f"{file}: damaged, its bytes are not those that were written")
    return seal


def read_group(
    path: StorePath, sealed: Mapping[str, str] | None
) -> tuple[Manifest | None, str | None]:
    """The manifest, or what is wrong with it; one that is not the sealed one is damaged."""
    if wrong := why_not_plain(path / GROUP):
        return None, wrong
    try:
        manifest = read_manifest(path)
    except CacheError as error:
        return None, str(error)
    if sealed is not None:
        try:
            forms = group_forms(path, manifest, sealed)
        except (CacheError, ValueError, RecursionError):  # what zsseg would not have written
            return None, _CHANGED
        if sealed.get(GROUP) != hash_bytes(forms[1]) or storage(path / GROUP).read() not in forms:
            return None, _CHANGED
    return manifest, None


def group_forms(
    path: StorePath, manifest: Manifest, sealed: Mapping[str, str]
) -> tuple[bytes, bytes]:
    """Content of the group's zarr.json: with its list of arrays; without, as zsseg 0.1 wrote it.

    The seal's hash is of the second one. `sealed`: the hashes in the seal, none without one.
    """
    arrays: dict[str, Any] = {}
    for name, content in array_jsons(manifest).items():
        file = f"{name}/{GROUP}"
        # Another version of zarr may have written an array's file otherwise.
        other = sealed.get(file) not in (None, hash_bytes(content))
        own = other and why_changed(path / file, sealed[file]) is None
        arrays[name] = read_json(path / file) if own else json.loads(content)
    return group_json(manifest, arrays=arrays), group_json(manifest)


def list_shards(
    path: StorePath, manifest: Manifest | None, sealed: Mapping[str, str] | None
) -> list[Shard]:
    """Every shard that the store should have.

    By the manifest where it is intact, else by the seal, else by the receipts in the folder.
    """
    if manifest:
        return [
            Shard(
                artifact.name,
                number,
                manifest.rows_of(number) if artifact.per_row else None,
                file := f"{LEDGER}/{artifact.name}/{number:06d}.json",
                _read_receipt(path, file, artifact, number),
            )
            for artifact in manifest.artifacts
            for number in manifest.shards(artifact)
        ]
    there = (file for file in storage(path).list_files() if _RECEIPT.fullmatch(file))
    found = [
        (match[1], int(match[2]), file, _read_receipt(path, file, None, int(match[2])))
        for file in sorted(there if sealed is None else sealed)
        if (match := _RECEIPT.fullmatch(file))
    ]
    # A damaged receipt does not give its rows; those of the same shard of other artifacts do.
    rows = {
        number: range(*receipt["rows"])
        for _, number, _, receipt in found
        if isinstance(receipt, dict) and receipt["rows"]
    }

    def rows_of(artifact: str, number: int, receipt: Receipt) -> range | None:
        if isinstance(receipt, dict):
            return rows[number] if receipt["rows"] else None
        numbers = {each for name, each, *_ in found if name == artifact}
        return rows.get(number) if numbers == {each for _, each, *_ in found} else None

    return [
        Shard(artifact, number, rows_of(artifact, number, receipt), file, receipt)
        for artifact, number, file, receipt in found
    ]


def why_not_plain(file: StorePath) -> str | None:
    """Why a path is no plain file, None when it is one."""
    entry = storage(file)
    if entry.is_link() or storage(file.parent).is_link():
        return "a symbolic link; a store holds plain files only"
    if entry.is_folder():
        return "a folder, and should be a file"
    return MISSING if entry.size() is None else None


def why_changed(file: StorePath, sealed: str | None) -> str | None:
    """What is wrong with a file whose hash the seal holds; None when nothing is."""
    if wrong := why_not_plain(file):
        return wrong
    return or_unreadable(lambda: None if hash_file(file) == sealed else _CHANGED)


def or_unreadable(check: Callable[[], str | None]) -> str | None:
    """The result of a check; a file that the disk can no longer read counts as damaged."""
    try:
        return check()
    except OSError as error:
        if error.errno not in PASSING:
            raise
        return f"the disk cannot read it ({error.strerror})"


def _read_receipt(path: StorePath, file: str, artifact: Artifact | None, number: int) -> Receipt:
    """One receipt; without the artifact, which says what it must list, only its checksum counts."""
    if wrong := why_not_plain(path / file):
        return None if wrong == MISSING else CacheError(wrong)
    try:
        if artifact:
            return ledger.read_receipt(path, artifact, number)
        receipt = read_json(path / file)
        if receipt.pop("check", None) != fingerprint(receipt):
            raise CacheError(f"{path / file}: damaged, it does not fit its own checksum")
    except CacheError as error:
        return error
    return receipt
