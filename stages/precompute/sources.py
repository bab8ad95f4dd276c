"""Have the data set's files changed since the store was made?

A stat cache (sources.jsonl: bytes and modification time of every image and label) spares reading
them all again; a file whose entry differs is hashed, and the hash decides.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.cache.recipe import fingerprint
from stages.cache.store import Writer
from stages.data.samples import Sample
from stages.data.spec import DatasetSpec
from stages.errors import CacheError
from stages.precompute.rows import Hashes, content_hashes
from stages.precompute.threads import in_threads

_SHOWN = 10

logger = logging.getLogger(__name__)


def changed_shards(
    writer: Writer,
    spec: DatasetSpec,
    samples: Sequence[Sample],
    *,
    committed: Sequence[int],
    update: bool,
) -> list[int]:
    """Shards among the `committed` ones of artifact `index` whose files are others now.

    With `update` these shards are withdrawn from the store; without, there being any raises
    CacheError. Then saves the stat cache. A stat older than the content that it stands for does no
    harm: the next run hashes that file.
    """
    entries = [_described(spec), *map(_entry, samples)]
    saved = writer.sources()
    if entries == saved:
        return []
    # Another description of the labels can change them all without touching a file.
    known = {old["id"]: old for old in saved[1:]} if saved[:1] == entries[:1] else {}
    recorded = _recorded(writer, committed)
    doubtful = [row for row in recorded if known.get(samples[row].id) != entries[row + 1]]
    if doubtful:
        logger.info("hashing %d files that the store does not know by date", len(doubtful))
    found = in_threads(lambda row: content_hashes(spec, samples[row]), doubtful)
    changed = [row for row, hashes in zip(doubtful, found, strict=True) if hashes != recorded[row]]
    if changed and not update:
        named = ", ".join(samples[row].id for row in changed[:_SHOWN])
        raise CacheError(
            f"{writer.path}: {len(changed)} of {len(samples)} images or their labels have changed "
            f"since the store was made from them: {named}{', ...' * (len(changed) > _SHOWN)}. "
            "Add --update to compute their shards again, or put the files back"
        )
    shards = sorted({row // writer.manifest.shard_rows for row in changed})
    if shards:
        writer.forget(shards)
    writer.save_sources(entries)
    return shards


def _described(spec: DatasetSpec) -> dict[str, Any]:
    """First entry: what besides the files decides a visible label."""
    fields = {"layout", "classes", "unseen", "encoding", "ignore", "patterns"}
    return {"labels": fingerprint(spec.model_dump(mode="json", include=fields))}


def _entry(sample: Sample) -> dict[str, Any]:
    return {"id": sample.id, "image": _stat(sample.image), "label": _stat(sample.label)}


def _stat(path: Path | None) -> list[int] | None:
    """Bytes and modification time in ns; None when there is no file."""
    try:
        stat = path.stat() if path else None
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns] if stat else None


def _recorded(writer: Writer, shards: Sequence[int]) -> dict[int, Hashes]:
    """Hashes by row, as the receipts have them."""
    recorded: dict[int, Hashes] = {}
    for shard in shards:
        receipt: Mapping[str, Any] = writer.receipt("index", shard) or {}
        hashes = map(Hashes, receipt["images"], receipt["labels"])
        recorded |= dict(zip(writer.rows_of(shard), hashes, strict=True))
    return recorded
