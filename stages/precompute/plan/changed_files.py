"""Which files of the data set have changed since the store was made, and which can be read now.

Files of the same size and modification time count as unchanged; others are hashed.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.errors import CacheError, DatasetError
from zsseg.stages.file_bytes import may_have_passed
from zsseg.stages.precompute.engine.jobs import KILLED
from zsseg.stages.precompute.make.pictures import (
    Hashes,
    OldRow,
    content_hashes,
    file_hash,
    read_image_row,
)
from zsseg.stages.precompute.plan.stat_cache import StatCache
from zsseg.stages.precompute.progress import Meter
from zsseg.stages.precompute.threads import in_threads
from zsseg.stages.printable import counted

RowState = Literal["relabelled", "changed", "usable", "useless"]
"""How a row has changed: `relabelled`, only its visible label has; `changed`, its image has, or it
cannot be read any more; `usable`, it had failed and can be read now, or is to be tried again;
`useless`, it had failed and fails for another reason now."""

_SHOWN = 10


def row_states(
    spec: DatasetSpec,
    root: Path,
    samples: Sequence[Sample],
    old: Mapping[int, OldRow],
    cache: StatCache,
    *,
    retry_failed: bool,
    meter: Meter,
) -> tuple[dict[int, RowState], list[int]]:
    """Returns the rows of a store that have changed, and those found unchanged by their hash.

    Rows that the stat cache knows to be unchanged are in neither, unless they had failed and
    `retry_failed` is given. Failed images whose file has changed are read again, and so are those
    that failed by what a file system answers for a moment.
    """
    doubtful = [
        row
        for row, known in old.items()
        if not cache.knows(samples[row])
        or (known.failure is not None and (retry_failed or may_have_passed(known.failure)))
    ]
    if not doubtful:
        return {}, []
    meter.expect(len(doubtful))
    with meter.phase("read"):
        look = partial(_state, spec, root, samples, old, retry_failed)
        found = dict(zip(doubtful, in_threads(look, doubtful), strict=True))
    meter.advance(len(doubtful))
    states = {row: state for row, state in found.items() if state is not None}
    return states, [row for row in doubtful if row not in states]


def _state(
    spec: DatasetSpec,
    root: Path,
    samples: Sequence[Sample],
    old: Mapping[int, OldRow],
    retry_failed: bool,
    row: int,
) -> RowState | None:
    known = old[row]
    if known.failure is not None:
        if known.failure.startswith(KILLED):  # reading it would kill this process too
            same = file_hash(samples[row].image) == known.hashes.image
            return None if same and not retry_failed else "usable"
        read = read_image_row(spec, root, samples[row])
        if read.picture:
            return "usable"
        return None if read.hashes == known.hashes else "useless"
    hashes = content_hashes(spec, samples[row])
    if hashes == known.hashes:
        return None
    if hashes.image == known.hashes.image and read_image_row(spec, root, samples[row]).picture:
        return "relabelled"
    return "changed"


def refuse_changed(
    store: StorePath, samples: Sequence[Sample], states: Mapping[int, RowState]
) -> None:
    """Raise CacheError, naming images, when files have changed."""
    changed = [
        samples[row].id for row in sorted(states) if states[row] in ("changed", "relabelled")
    ]
    if changed:
        named = ", ".join(changed[:_SHOWN])
        raise CacheError(
            f"{store}: {len(changed)} of {len(samples)} images or their labels have changed "
            f"since the store was made from them: {named}{', ...' * (len(changed) > _SHOWN)}. "
            "Add --update to compute their rows again, or put the files back"
        )


def refuse_failures(root: Path, reasons: Collection[str], *, at_most: int | None) -> None:
    """Raise DatasetError when more than `at_most` images cannot be used; None: any number may."""
    if at_most is not None and len(reasons) > at_most:
        *_, last = reasons
        raise DatasetError(
            f"{root}: {counted(len(reasons), 'image')} cannot be used, more than --max-failures "
            f"{at_most}. The last: {last}. What is committed is kept: fix the images, or run the "
            "same command with a higher number"
        )


def old_rows(
    index: Mapping[str, Any], local: Mapping[str, Any] | None, rows: range
) -> Iterator[OldRow]:
    """The rows of a shard as the notes in the receipts of its `index` and `local` have them."""
    local = local or {}
    crops, left_out = local.get("crops"), local.get("left_out", {})
    for place, row in enumerate(rows):
        yield OldRow(
            row=row,
            hashes=Hashes(index["images"][place], index["labels"][place]),
            failure=index["failures"].get(str(row)),
            crops=tuple(crops[place]) if crops else (),
            left_out=left_out.get(str(row), 0),
        )
