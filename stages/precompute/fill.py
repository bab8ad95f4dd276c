"""The visible loop of stage one: every missing shard of every artifact, computed and committed.

Each artifact is made from what is stored, never from what is still in memory, so an interrupted
run that was continued ends with the same bytes as one that was not interrupted. Dense tokens that
the store does not keep are made where regions need them, the same ones each time.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.cache.codec import BASIS, DENSE, components
from stages.cache.shards import check_finite
from stages.cache.store import Writer
from stages.data.samples import Sample
from stages.data.spec import DatasetSpec
from stages.errors import CacheError
from stages.precompute.artifacts import (
    cls_arrays,
    dense_arrays,
    local_arrays,
    region_arrays,
    unkept_tokens,
)
from stages.precompute.basis import fit_basis, sampled_tokens
from stages.precompute.config import PrecomputeConfig
from stages.precompute.kmeans import Backend
from stages.precompute.progress import Meter
from stages.precompute.rows import Row, index_arrays, read_row
from stages.precompute.teacher import Teacher
from stages.precompute.text import embed_classes
from stages.precompute.threads import in_threads

_ORDER = ("index", "cls", "dense", "regions", "local")  # each from what stands before it
_EMPTY = {"local_ids": -1}  # rows of failed images, where they are not 0

logger = logging.getLogger(__name__)


def fill(
    writer: Writer,
    missing: Mapping[str, Sequence[int]],
    *,
    spec: DatasetSpec,
    root: Path,
    samples: Sequence[Sample],
    teacher: Teacher,
    backend: Backend,
    config: PrecomputeConfig,
    meter: Meter,
) -> None:
    """Write the shards that are missing, by artifact. An interrupt loses at most the one at work.

    Raises CacheError when a file changes under the run, NonFiniteError for tokens that do not fit
    into half precision.
    """
    if not _keeps_dense(writer) and (shards := missing.get("regions")):
        logger.info(
            "%s keeps no dense tokens: they are made in memory for the regions of %d shards",
            writer.path,
            len(shards),
        )
    if "text" in missing:
        with meter.phase("teacher"):
            text_CD = embed_classes(teacher, spec.prompt_names, config.text.templates)
            meter.advance(len(text_CD))
        writer.write("text", 0, {"text": text_CD})
    if BASIS in missing:
        number = components(config.dense.format)
        assert number is not None
        tokens = sampled_tokens(
            spec, root, samples, teacher=teacher, config=config.dense, meter=meter
        )
        basis_dD, mean_D = fit_basis(tokens, number)
        writer.write(BASIS, 0, {"pca_basis": basis_dD, "pca_mean": mean_D})
    for shard in sorted({shard for name in _ORDER for shard in missing.get(name, ())}):
        numbers = writer.rows_of(shard)
        with meter.phase("read"):
            rows = in_threads(partial(read_row, spec, root), samples[numbers.start : numbers.stop])
        todo = [name for name in _ORDER if shard in missing.get(name, ())]
        _check_unchanged(writer, shard, rows, labels="index" not in todo)
        for name in todo:
            arrays, notes = _make(
                name,
                writer,
                shard=shard,
                rows=rows,
                samples=samples[numbers.start : numbers.stop],
                teacher=teacher,
                backend=backend,
                config=config,
                meter=meter,
            )
            with meter.phase("write"):
                writer.write(name, shard, arrays, notes=notes)


def _make(
    name: str,
    writer: Writer,
    *,
    shard: int,
    rows: Sequence[Row],
    samples: Sequence[Sample],
    teacher: Teacher,
    backend: Backend,
    config: PrecomputeConfig,
    meter: Meter,
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays and notes of one shard of a per-row artifact."""
    first = writer.rows_of(shard).start
    if name == "index":
        for row, failure in enumerate((row.failure for row in rows), start=first):
            if failure:
                logger.warning("row %d cannot be used: %s", row, failure)
        meter.advance(len(rows))
        return index_arrays(rows, first)
    good = [i for i, row in enumerate(rows) if row.picture]
    pictures = [row.picture for row in rows if row.picture]
    notes: dict[str, Any] = {}
    match name:
        case "cls":
            with meter.phase("teacher"):
                arrays = cls_arrays(
                    teacher, pictures, config.views, batch=config.batch, advance=meter.advance
                )
        case "dense" if not _keeps_dense(writer):
            return {}, {}
        case "dense":
            with meter.phase("teacher"):
                arrays = dense_arrays(
                    teacher,
                    pictures,
                    config.dense,
                    basis=_basis(writer),
                    batch=config.batch,
                    advance=meter.advance,
                )
        case "regions":
            if _keeps_dense(writer):
                dense_NDhw = writer.read(DENSE, shard)[good]
            else:
                with meter.phase("teacher"):
                    dense_NDhw = unkept_tokens(teacher, pictures, config.dense, batch=config.batch)
                ids = [sample.id for sample in samples]
                check_finite(
                    writer.path, DENSE, _spread(dense_NDhw, good, len(rows), DENSE), ids=ids
                )
            with meter.phase("regions"):
                arrays = region_arrays(
                    dense_NDhw, pictures, config.regions, backend=backend, advance=meter.advance
                )
        case _:
            region_Nhw = writer.read("regions", shard)[good]
            with meter.phase("crops"):
                arrays, left_out = local_arrays(
                    teacher,
                    pictures,
                    region_Nhw,
                    config.local,
                    batch=config.batch,
                    advance=meter.advance,
                )
            counts = zip(good, left_out, strict=True)
            notes = {"left_out": {str(first + i): count for i, count in counts if count}}
    meter.advance(len(rows) - len(good))
    return {key: _spread(values, good, len(rows), key) for key, values in arrays.items()}, notes


def _basis(writer: Writer) -> dict[str, NDArray[np.float32]]:
    """The basis as it is stored; empty where the format of the dense tokens needs none."""
    names = [name for name in ("pca_basis", "pca_mean") if name in writer.manifest.arrays]
    return {name: writer.read(name, 0) for name in names}


def _keeps_dense(writer: Writer) -> bool:
    return DENSE in writer.manifest.arrays


def _spread(values: NDArray[Any], good: Sequence[int], rows: int, array: str) -> NDArray[Any]:
    """The values of the good rows among all rows."""
    if len(good) == rows:
        return values
    spread = np.full((rows, *values.shape[1:]), _EMPTY.get(array, 0), values.dtype)
    spread[good] = values
    return spread


def _check_unchanged(writer: Writer, shard: int, rows: Sequence[Row], *, labels: bool) -> None:
    """Are the files those that the store's other artifacts of this shard are made from?

    Without `labels` the images alone: an `index` that is there and to be written again has other
    labels only. Where there is none, nothing is made from it.
    """
    if (receipt := writer.receipt("index", shard)) is None:
        return
    for number, row, *recorded in zip(
        writer.rows_of(shard), rows, receipt["images"], receipt["labels"], strict=True
    ):
        if str(number) in receipt["failures"]:
            same = row.picture is None  # whatever its bytes are: it has zeros in every array
        else:
            found = [row.hashes.image, row.hashes.label]
            same = row.picture is not None and found[: 1 + labels] == recorded[: 1 + labels]
        if same:
            continue
        raise CacheError(
            f"{writer.path}: files of shard {shard} changed while the run was going on. What is "
            "committed is safe: run the same command again"
        )
