"""Compares two stores: identity and recipes field by field, and the data of each artifact."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zsseg.stages.cache.disk.json_files import read_json_lines
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.ledger import read_receipt
from zsseg.stages.cache.format.manifest import (
    INDEX,
    Artifact,
    Manifest,
    description,
    fingerprints,
    read_manifest,
)
from zsseg.stages.cache.format.recipe import differing_fields

_SIDES = ("A", "B")


@dataclass(frozen=True)
class ArtifactComparison:
    """One artifact of two stores.

    `same_recipe`: whether the fingerprints are equal (of recipe, arrays, and what it is made from);
    None when only one store has it. `fields`: what differs in recipe and arrays, or which store has
    it. `shards`: their number; `differing`: the number whose data differs, by the hashes in the
    receipts; `missing`: the number that one store or both have not computed. All three are None
    when the stores have different numbers of images, or of images per shard.
    """

    name: str
    same_recipe: bool | None
    fields: tuple[str, ...]
    shards: int | None = None
    differing: int | None = None
    missing: int | None = None


@dataclass(frozen=True)
class StoreComparison:
    """`fields`: what differs in identity, description, sizes and index, one line per field."""

    fields: tuple[str, ...]
    artifacts: tuple[ArtifactComparison, ...]


def compare_stores(a: StorePath, b: StorePath) -> StoreComparison:
    """Compare two stores by their metadata and receipts, finished or not; reads no data.

    CacheError when a manifest, an index or a receipt is missing or damaged.
    """
    first, second = read_manifest(a), read_manifest(b)
    images = [[_row(entry) for entry in read_json_lines(path / INDEX)] for path in (a, b)]
    fields = [
        *differing_fields(first.identity, second.identity, prefix="identity", sides=_SIDES),
        *differing_fields(first.info, second.info, prefix="info", sides=_SIDES),
        *differing_fields(first.rows, second.rows, prefix="images", sides=_SIDES),
        *differing_fields(first.shard_rows, second.shard_rows, prefix="shard_rows", sides=_SIDES),
    ]
    if images[0] != images[1]:
        only = [len(set(mine) - set(other)) for mine, other in (images, reversed(images))]
        fields.append(f"index: {only[0]} rows only in A, {only[1]} only in B (id, image or label)")
    comparable = (first.rows, first.shard_rows) == (second.rows, second.shard_rows)
    ones = {artifact.name: artifact for artifact in first.artifacts}
    others = {artifact.name: artifact for artifact in second.artifacts}
    if comparable and "index" in ones and "index" in others:
        fields += _other_files((a, b), first, ones["index"], others["index"])
    prints = fingerprints(first.artifacts), fingerprints(second.artifacts)
    found = []
    for name in {**ones, **others}:
        if name not in ones or name not in others:
            side = "A" if name in ones else "B"
            found.append(ArtifactComparison(name, None, (f"{name}: only in {side}",)))
            continue
        same = prints[0][name] == prints[1][name]
        counts = _counts((a, b), first, ones[name], others[name]) if comparable else {}
        found.append(ArtifactComparison(name, same, _fields(ones[name], others[name]), **counts))
    return StoreComparison(tuple(fields), tuple(found))


def _other_files(
    stores: tuple[StorePath, StorePath], manifest: Manifest, one: Artifact, other: Artifact
) -> list[str]:
    """Numbers of images and visible labels with different content, by the receipts' hashes."""
    counts = {"images": 0, "labels": 0}
    for shard in manifest.shards(one):
        receipts = [
            read_receipt(store, artifact, shard) or {}
            for store, artifact in zip(stores, (one, other), strict=True)
        ]
        for note in counts:
            if all(note in receipt for receipt in receipts):
                hashes = (receipt[note] for receipt in receipts)
                counts[note] += sum(x != y for x, y in zip(*hashes, strict=True))
    return [f"index: {count} {note} of other content" for note, count in counts.items() if count]


def _row(entry: Mapping[str, Any]) -> tuple[str, str, str]:
    return str(entry.get("id")), str(entry.get("image")), str(entry.get("label"))


def _fields(one: Artifact, other: Artifact) -> tuple[str, ...]:
    """The differing fields of recipe and arrays, each after the artifact's name."""
    before, after = description(one), description(other)
    lines = differing_fields(
        before.pop("recipe"), after.pop("recipe"), prefix=one.name, sides=_SIDES
    )
    return (*lines, *differing_fields(before, after, prefix=one.name, sides=_SIDES))


def _counts(
    stores: tuple[StorePath, StorePath], manifest: Manifest, one: Artifact, other: Artifact
) -> dict[str, int]:
    shards = manifest.shards(one)
    if one.per_row != other.per_row:
        return {}
    differing = missing = 0
    for shard in shards:
        receipts = [
            read_receipt(store, artifact, shard)
            for store, artifact in zip(stores, (one, other), strict=True)
        ]
        if receipts[0] is None or receipts[1] is None:
            missing += 1
        elif receipts[0]["files"] != receipts[1]["files"]:
            differing += 1
    return {"shards": len(shards), "differing": differing, "missing": missing}
