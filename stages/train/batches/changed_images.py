"""Refuses to train on images or labels that are not those the store was made from.

What stage one knows of each file is in the store: size and times (sources.jsonl), and the hashes of
content (the receipts of `index`). A file is hashed only where size or times differ: some at the
start, and where these are very many, each other one when it is first read.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import xxhash

from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.format.manifest import SOURCES
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.images import image_content
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.data.visible import read_visible_label
from zsseg.stages.errors import CacheError, DatasetError
from zsseg.stages.printable import counted

MOST_HASHED = 2000
"""Images hashed at most before the first step, spread over the rows: where all have other times,
the data set was copied, and reading all of it first would take long. The others are compared when
training first reads them."""

_SHOWN = 5

logger = logging.getLogger(__name__)


def check_unchanged(
    store: Store, spec: DatasetSpec, samples: Mapping[int, Sample]
) -> frozenset[int]:
    """Raise CacheError, naming images, when their content is not what the store was made from.

    `samples`: by row of the store. What cannot be read now is left to the training. Returns the
    rows that `check_row` has to look at when they are first read: beyond MOST_HASHED images whose
    size or times differ.
    """
    doubtful = doubtful_rows(store, samples)
    hashed = doubtful
    if len(doubtful) > MOST_HASHED:
        logger.warning(
            "%s: %d of %d images or their labels have other times than when the store was made, as "
            "a copy of the data set has; the content of %d of them is compared now, and that of "
            "each other one when it is first read",
            store.path,
            len(doubtful),
            len(samples),
            MOST_HASHED,
        )
        places = np.linspace(0, len(doubtful) - 1, MOST_HASHED).astype(int)
        hashed = [doubtful[place] for place in places]
    with ThreadPoolExecutor() as threads:
        same = threads.map(lambda row: _is_same(store, spec, samples[row], row), hashed)
    if changed := [samples[row].id for row, one in zip(hashed, same, strict=True) if not one]:
        raise _changed(store, changed)
    return frozenset(doubtful) - frozenset(hashed)


def check_row(store: Store, spec: DatasetSpec, sample: Sample, row: int) -> None:
    """Raise CacheError when an image or its label is not what this row was made from."""
    if not _is_same(store, spec, sample, row):
        raise _changed(store, [sample.id])


def _changed(store: Store, ids: Sequence[str]) -> CacheError:
    named = ", ".join(ids[:_SHOWN]) + ", ..." * (len(ids) > _SHOWN)
    found = counted(len(ids), "image or its label has", "images or their labels have")
    return CacheError(
        f"{store.path}: {found} changed since the store was "
        f"made from them: {named}. Put the files back, or bring the store up to date with "
        "--update added to its `zsseg precompute` command (its README.md has it) and train "
        "into another --out"
    )


def doubtful_rows(store: Store, samples: Mapping[int, Sample]) -> list[int]:
    """The rows whose files are not surely those that the store was made from.

    All, where the data set was copied to another disk: its files have other change times and
    inodes, and so has one whose images were all written again.
    """
    known = _entries(store)
    now = {
        row: (_stat(sample.image_file), _stat(sample.label_file)) for row, sample in samples.items()
    }
    return [row for row, files in now.items() if not _is_known(known.get(samples[row].id), files)]


def _entries(store: Store) -> dict[str, dict[str, Any]]:
    """What sources.jsonl knows of each image; {} where it is not there or cannot be read."""
    try:
        _, *lines = storage(store.path / SOURCES).read().splitlines()
        entries = [json.loads(line) for line in lines]
        return {str(entry["id"]): entry for entry in entries}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _stat(path: str | None) -> tuple[int, ...] | None:
    """Bytes, modification and change time in ns, inode, as sources.jsonl has them."""
    try:
        found = os.stat(path) if path else None  # noqa: PTH116 (a Path for each takes its time)
    except OSError:
        return None
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino) if found else None


def _is_known(entry: Mapping[str, Any] | None, files: tuple[tuple[int, ...] | None, ...]) -> bool:
    """Are both files those of the entry, by their size, times and inode?"""
    if entry is None:
        return False
    then = (entry.get("image"), entry.get("label"))
    return all(list(now or ()) == list(old or ()) for now, old in zip(files, then, strict=True))


def _is_same(store: Store, spec: DatasetSpec, sample: Sample, row: int) -> bool:
    """Have image and visible label the content that the store's receipt names?"""
    shard, place = divmod(row, store.shard_rows)
    receipt = store.receipt("index", shard)
    image, label = (receipt.get(name, [])[place:] for name in ("images", "labels"))
    try:
        if image and image[0] not in (None, _hash(image_content(sample.image))):
            return False
        if not label or label[0] is None:
            return True
        visible_HW = read_visible_label(spec, sample)
    except DatasetError:
        return True
    height, width = visible_HW.shape
    return bool(_hash(f"{height} {width} ".encode() + visible_HW.tobytes()) == label[0])


def _hash(content: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(content)
