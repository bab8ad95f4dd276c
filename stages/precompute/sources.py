"""Have the data set's files changed since the store was made, and can more of them be read now?

A stat cache (sources.jsonl: bytes and modification time of every image and label) spares reading
them all again; a file whose entry differs is hashed, and the hash decides. Images that could not be
used are tried again each time: a disk or a network that failed once has left no other trace.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from stages.cache.recipe import fingerprint
from stages.cache.store import Writer
from stages.data.samples import Sample
from stages.data.spec import DatasetSpec
from stages.errors import CacheError
from stages.precompute.progress import Meter
from stages.precompute.rows import Hashes, content_hashes, read_row
from stages.precompute.threads import in_threads

State = Literal["same", "relabelled", "changed", "usable", "useless"]
"""Of a row, by its receipt: `relabelled` when only its visible label is another, `usable` when it
had failed and can be read now, `useless` when it had failed and fails otherwise now."""

Receipts = Mapping[int, Mapping[str, Any]]
"""Receipts of artifact `index` by shard."""

_FROM_LABELS = ("regions", "local")  # what visible labels decide, besides `index`
_SHOWN = 10

logger = logging.getLogger(__name__)


def withdraw_changed(
    writer: Writer,
    spec: DatasetSpec,
    root: Path,
    samples: Sequence[Sample],
    *,
    committed: Receipts,
    update: bool,
    meter: Meter,
) -> list[int]:
    """Withdraw from the store what is made of files that are others now, or can be read only now.

    Only the `committed` shards are looked at. Returns those whose `index` is to be written again
    though it is still committed: only visible labels changed, and what is made of the images stays.
    Without `update`, changed files raise CacheError. The stat cache is saved after every shard, so
    that an interrupted check goes on where it was; a stat older than the content that it stands for
    does no harm: the next run hashes that file.
    """
    described, entries = _described(spec), [_entry(sample, root) for sample in samples]
    saved = writer.sources()
    # Another description of the labels can change them all without touching a file.
    known = {old["id"]: old for old in saved[1:]} if saved[:1] == [described] else {}
    doubtful: dict[int, list[int]] = {}
    for shard, receipt in committed.items():
        rows = [
            row
            for row in writer.rows_of(shard)
            if known.get(samples[row].id) != entries[row] or str(row) in receipt["failures"]
        ]
        if rows:
            doubtful[shard] = rows
    if doubtful and saved[:1] != [described]:
        writer.save_sources([described])
    meter.expect(sum(map(len, doubtful.values())))
    states: dict[int, State] = {}
    for shard, rows in doubtful.items():
        with meter.phase("read"):
            look = partial(_state, spec, root, samples, writer.rows_of(shard), committed[shard])
            found = dict(zip(rows, in_threads(look, rows), strict=True))
            meter.advance(len(rows))
        states |= found
        sound = [entries[row] for row in rows if found[row] == "same"]
        if any(known.get(entry["id"]) != entry for entry in sound):
            writer.add_sources(sound)
    if not update:
        _refuse_changed(writer, samples, states)
    relabelled = _withdraw(writer, states, update=update)
    # A relabelled row counts as known when its index has been written.
    known_now = [entry for row, entry in enumerate(entries) if states.get(row) != "relabelled"]
    if (writer.sources() if doubtful else saved) != [described, *known_now]:
        writer.save_sources([described, *known_now])
    return relabelled


def _state(
    spec: DatasetSpec,
    root: Path,
    samples: Sequence[Sample],
    rows: range,
    receipt: Mapping[str, Any],
    row: int,
) -> State:
    place = row - rows.start
    recorded = Hashes(receipt["images"][place], receipt["labels"][place])
    if str(row) in receipt["failures"]:
        found = read_row(spec, root, samples[row])
        if found.picture:
            return "usable"
        return "same" if found.hashes == recorded else "useless"
    hashes = content_hashes(spec, samples[row])
    if hashes == recorded:
        return "same"
    if hashes.image == recorded.image and read_row(spec, root, samples[row]).picture:
        return "relabelled"
    return "changed"


def _refuse_changed(writer: Writer, samples: Sequence[Sample], states: Mapping[int, State]) -> None:
    changed = [
        samples[row].id for row in sorted(states) if states[row] in ("changed", "relabelled")
    ]
    if changed:
        named = ", ".join(changed[:_SHOWN])
        raise CacheError(
            f"{writer.path}: {len(changed)} of {len(samples)} images or their labels have changed "
            f"since the store was made from them: {named}{', ...' * (len(changed) > _SHOWN)}. "
            "Add --update to compute their shards again, or put the files back"
        )


def _withdraw(writer: Writer, states: Mapping[int, State], *, update: bool) -> list[int]:
    """Withdraw what the states say; the shards of which only labels changed."""

    def shards(*wanted: State) -> set[int]:
        return {row // writer.manifest.shard_rows for row, s in states.items() if s in wanted}

    anew = shards("changed", "usable", "useless") if update else shards("usable")
    relabelled = shards("relabelled") - anew
    if usable := [row for row, state in states.items() if state == "usable"]:
        logger.info("%d images can be read now that could not before", len(usable))
    if anew:
        writer.forget(sorted(anew))
    if relabelled:
        writer.forget(sorted(relabelled), only=_FROM_LABELS)
    return sorted(relabelled)


def _described(spec: DatasetSpec) -> dict[str, Any]:
    """First entry: what besides the files decides a visible label."""
    fields = {"layout", "classes", "unseen", "encoding", "ignore", "patterns"}
    return {"labels": fingerprint(spec.model_dump(mode="json", include=fields))}


def _entry(sample: Sample, root: Path) -> dict[str, Any]:
    """The label's path too: another file may have the same size and time."""
    label = sample.label.relative_to(root).as_posix() if sample.label else None
    return {
        "id": sample.id,
        "image": _stat(sample.image),
        "label": _stat(sample.label),
        "file": label,
    }


def _stat(path: Path | None) -> list[int] | None:
    """Bytes and modification time in ns; None when there is no file."""
    try:
        stat = path.stat() if path else None
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns] if stat else None
