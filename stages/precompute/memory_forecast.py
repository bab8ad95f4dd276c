"""The most memory that a process of stage one will have, for `--dry-run`."""

from math import prod

import numpy as np

from zsseg.stages.machine_memory import resident_bytes, return_freed_memory
from zsseg.stages.precompute.engine.shard_worker import ShardWorker
from zsseg.stages.precompute.make.pixel_gate import BYTES_AT_WORK, BYTES_KEPT, MEGAPIXEL
from zsseg.stages.precompute.plan.wanted_store import WantedStore


def process_memory(worker: ShardWorker, *, wanted: WantedStore) -> dict[str, int]:
    """Bytes by what they are for: the bounds of what a process may have at the same time.

    Those of images follow from the settings alone, whatever their sizes, so most data sets take
    less. The memory of a teacher on a GPU is not the process's, and not in it.
    """
    config, manifest = wanted.config, wanted.manifest
    rows = min(manifest.shard_rows, manifest.rows)
    shards = min(config.shards_at_once, -(-manifest.rows // manifest.shard_rows))
    row = sum(
        prod(spec.shape) * np.dtype(spec.dtype).itemsize for _, spec in manifest.arrays.values()
    )
    return_freed_memory()
    return {
        "teacher and libraries": resident_bytes(),
        "its passes": config.batch * _pass_bytes(worker, wanted),
        "images at work": config.megapixels * MEGAPIXEL * BYTES_AT_WORK,
        "images kept": 2 * config.megapixels * MEGAPIXEL * BYTES_KEPT,
        # As they are made, and once more as they are written.
        "arrays of shards": 2 * shards * rows * row,
    }


def _pass_bytes(worker: ShardWorker, wanted: WantedStore) -> int:
    """Of a pass of one image for its dense tokens; 0 on a GPU, and where none passes."""
    from zsseg.stages.allocations import Allocations

    teacher = worker.teacher(wanted.config)
    if teacher.device.type != "cpu" or teacher.by_id:
        return 0
    grey_HW3 = np.full((*wanted.config.dense.pixels, 3), 127, np.uint8)
    with Allocations() as seen:
        teacher.dense([grey_HW3], wanted.config.dense)
    size: int = seen.peak()
    return size
