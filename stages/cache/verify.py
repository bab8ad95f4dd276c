"""Is a store what its receipts say it is? Names every damaged file and the images in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stages.cache import ledger
from stages.cache.files import hash_file, read_json_lines
from stages.cache.manifest import (
    GROUP,
    INDEX,
    SEAL,
    Artifact,
    Manifest,
    read_manifest,
    receipt_file,
    shard_file,
)
from stages.errors import CacheError


@dataclass(frozen=True)
class Problem:
    """One damaged or missing file of a store.

    `file` is relative to the store; `array` and `images` (ids) say what it holds, where it is data.
    """

    file: str
    array: str | None
    images: tuple[str, ...]
    reason: str


def verify_store(path: Path, *, read_data: bool) -> list[Problem]:
    """Check seal, metadata, receipts and file sizes; with `read_data` also every byte of data.

    An empty list means that all is as it was written. An unfinished store has a problem, its seal;
    of its data, what is committed is checked. Raises CacheError only when there is no folder.
    """
    if not path.is_dir():
        raise CacheError(f"{path}: no store here; `zsseg precompute` makes one")
    try:
        manifest = read_manifest(path)
    except CacheError as error:
        return [Problem(GROUP, None, (), str(error))]
    try:
        sealed = ledger.read_seal(path)["files"]
        problems = _metadata_problems(path, manifest, sealed)
    except CacheError as error:
        problems = [Problem(SEAL, None, (), str(error))]
    ids = _ids(path, manifest)
    named = {problem.file for problem in problems}
    for artifact in manifest.artifacts:
        for shard in manifest.shards(artifact):
            if receipt_file(artifact, shard) in named:
                continue
            images = tuple(ids[row] for row in manifest.rows_of(shard)) if artifact.per_row else ()
            problems += _shard_problems(path, artifact, shard, images, read_data=read_data)
    return problems


def _metadata_problems(path: Path, manifest: Manifest, sealed: Mapping[str, str]) -> list[Problem]:
    problems = []
    for file in ledger.sealed_files(manifest):
        if (path / file).is_symlink():
            problems.append(Problem(file, None, (), "a symbolic link, no plain file"))
        elif not (path / file).is_file():
            problems.append(Problem(file, None, (), "missing"))
        elif hash_file(path / file) != sealed.get(file):
            problems.append(Problem(file, None, (), "changed since the store was sealed"))
    return problems


def _shard_problems(
    path: Path, artifact: Artifact, shard: int, images: tuple[str, ...], *, read_data: bool
) -> list[Problem]:
    try:
        receipt = ledger.read_receipt(path, artifact, shard)
    except CacheError as error:
        return [Problem(receipt_file(artifact, shard), None, images, str(error))]
    if receipt is None:
        return []
    return [
        Problem(file, spec.name, images, reason)
        for spec in artifact.arrays
        if (file := shard_file(spec, artifact, shard))
        if (reason := ledger.damage(path, file, receipt["files"][file], read_data=read_data))
    ]


def _ids(path: Path, manifest: Manifest) -> list[str]:
    """Image ids by row; row numbers where the index is damaged."""
    try:
        ids = [str(entry["id"]) for entry in read_json_lines(path / INDEX)]
    except (CacheError, KeyError):
        ids = []
    return ids if len(ids) == manifest.rows else [f"row {row}" for row in range(manifest.rows)]
