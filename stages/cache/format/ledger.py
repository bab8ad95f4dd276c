"""Receipts and seal: which shards are complete, and what their files must be.

zarr cannot tell "not computed" from "all zeros", so a shard counts when its receipt exists. A
receipt is written after the data has reached the disk; the seal after the last receipt.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from zsseg.stages.cache.disk.hashing import hash_bytes, hash_file
from zsseg.stages.cache.disk.json_files import canonical_json, read_json
from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.manifest import (
    GROUP,
    INDEX,
    LEDGER,
    SEAL,
    Artifact,
    Manifest,
    group_json,
    read_manifest,
    receipt_file,
    shard_file,
)
from zsseg.stages.cache.format.recipe import fingerprint
from zsseg.stages.errors import CacheError

ABSENT, STALE = "not there yet", "made with other settings"
"""Reasons to compute a shard that is not damaged."""


def write_receipt(
    store: StorePath,
    manifest: Manifest,
    artifact: Artifact,
    shard: int,
    *,
    artifact_fingerprint: str,
    files: Mapping[str, Mapping[str, Any]],
    notes: Mapping[str, Any],
) -> None:
    """Declare one shard complete, of the artifact whose fingerprint is given.

    `files`: size and hash of each, as `save_shard` returns them; they are on the disk. `notes`:
    what the writer adds, as JSON values.
    """
    rows = manifest.rows_of(shard) if artifact.per_row else None
    receipt = {
        "artifact": artifact.name,
        "fingerprint": artifact_fingerprint,
        "shard": shard,
        "rows": [rows.start, rows.stop] if rows else None,
        "files": files,
    }
    assert not receipt.keys() & notes.keys(), "a note named like a field of the receipt"
    receipt |= notes
    assert _without_hash(receipt) is None, "a usable image without a hash"
    content = f"{canonical_json(receipt | {'check': fingerprint(receipt)})}\n".encode("ascii")
    storage(store / receipt_file(artifact, shard)).write(content)


def read_receipt(store: StorePath, artifact: Artifact, shard: int) -> dict[str, Any] | None:
    """The receipt of one shard, None when there is none; CacheError when it is damaged."""
    path = store / receipt_file(artifact, shard)
    if not storage(path).exists():
        return None
    receipt = read_json(path)
    if receipt.pop("check", None) != fingerprint(receipt):
        raise CacheError(f"{path}: damaged, it does not fit its own checksum")
    files = receipt.get("files")
    wanted = {shard_file(spec, artifact, shard) for spec in artifact.arrays}
    if not isinstance(files, dict) or files.keys() != wanted:
        raise CacheError(f"{path}: damaged, it does not list the files of its shard")
    for file, entry in files.items():
        if not isinstance(entry, dict) or entry.keys() != {"bytes", "xxh3_128"}:
            raise CacheError(f"{path}: damaged, no size and hash for {file}")
    if (row := _without_hash(receipt)) is not None:
        raise CacheError(f"{path}: damaged, no hash of the image of row {row}")
    return receipt


def _without_hash(receipt: Mapping[str, Any]) -> str | None:
    """The row of a usable image whose hash is not in a receipt of `index`; None when all are.

    A version before wrote such receipts when the file system failed for a moment. Whether the
    image is still the one that the row was made from could never be seen.
    """
    images, failures, rows = (receipt.get(key) for key in ("images", "failures", "rows"))
    if not isinstance(images, list) or not isinstance(failures, dict) or not rows:
        return None
    numbers = (str(rows[0] + place) for place, hashed in enumerate(images) if hashed is None)
    return next((number for number in numbers if number not in failures), None)


def refuse_linked_folders(store: StorePath) -> None:
    """CacheError when an array's folder or the ledger is a link: writing would go elsewhere."""
    for folder in (*storage(store).subfolders(), *storage(store / LEDGER).subfolders()):
        if storage(folder).is_link():
            raise CacheError(
                f"{folder}: a symbolic link, where a store has a folder of its own. Nothing is "
                "written through it: delete the link, or put the folder itself there"
            )


def why_recompute(
    store: StorePath, artifact: Artifact, shard: int, *, artifact_fingerprint: str
) -> str | None:
    """Why a shard has to be computed; None when it is complete and of this fingerprint.

    Sizes of files are compared, not their content.
    """
    try:
        receipt = read_receipt(store, artifact, shard)
    except CacheError as error:
        return str(error)
    if receipt is None:
        return ABSENT
    if receipt.get("fingerprint") != artifact_fingerprint:
        return STALE
    for file, entry in receipt["files"].items():
        if reason := file_damage(store, file, entry, read_data=False):
            return f"{store / file}: {reason}"
    return None


def file_damage(
    store: StorePath, file: str, entry: Mapping[str, Any], *, read_data: bool
) -> str | None:
    """What is wrong with one data file, compared with its receipt; None when nothing is."""
    path = store / file
    if storage(path).is_link():
        return "a symbolic link; a store holds plain files only"
    if (size := storage(path).size()) is None:
        return "missing"
    if size != entry["bytes"]:
        return f"{size} bytes, {entry['bytes']} were written"
    if read_data and hash_file(path) != entry["xxh3_128"]:
        return "content changed since it was written (hash differs)"
    return None


def sealed_files(manifest: Manifest) -> Iterator[str]:
    """Paths of the files that the seal covers: metadata, index, receipts (which cover the data)."""
    yield GROUP
    yield INDEX
    yield from (f"{name}/zarr.json" for name in sorted(manifest.arrays))
    for artifact in sorted(manifest.artifacts, key=lambda artifact: artifact.name):
        yield from (receipt_file(artifact, shard) for shard in manifest.shards(artifact))


def make_seal(store: StorePath, manifest: Manifest) -> bytes:
    """Content of seal.json for the files that the store has now.

    The group's zarr.json counts without its list of arrays, which says again what their own
    zarr.json say: it changes no fingerprint.
    """
    files = {file: hash_file(store / file) for file in sealed_files(manifest) if file != GROUP}
    files[GROUP] = hash_bytes(group_json(read_manifest(store)))
    seal = {"root": fingerprint(files), "files": files}
    return (canonical_json(seal) + "\n").encode("ascii")


def read_seal(store: StorePath) -> dict[str, Any]:
    """The seal; CacheError when it is missing (the store is unfinished) or damaged."""
    path = store / SEAL
    if not storage(path).exists():
        raise CacheError(
            f"{store}: the store is not finished ({SEAL} is missing); run the same "
            "`zsseg precompute` command again, it continues where it stopped"
        )
    advice = "run the same `zsseg precompute` command again, it checks the store and seals it anew"
    try:
        seal = read_json(path)
    except CacheError as error:
        raise CacheError(f"{error}; {advice}") from error
    if not isinstance(seal.get("files"), dict) or seal.get("root") != fingerprint(seal["files"]):
        raise CacheError(
            f"{path}: damaged, its root hash does not cover its list of files; {advice}"
        )
    return seal
