"""Work besides shards that needs the teacher: functions that an engine sends to a worker."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zsseg.stages.cache.dense_loss import DenseLoss
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.precompute.engine.shard_worker import ShardWorker
from zsseg.stages.precompute.make.artifact_kind import Arrays, StoreInputs
from zsseg.stages.precompute.make.artifacts import KINDS
from zsseg.stages.precompute.make.token_loss import measure_dense
from zsseg.stages.precompute.precompute_config import PrecomputeConfig
from zsseg.stages.precompute.teacher.dense_passes import auto_size
from zsseg.stages.precompute.teacher.teacher_files import Traits

logger = logging.getLogger(__name__)


def teacher_traits(worker: ShardWorker, *, config: PrecomputeConfig) -> Traits:
    """The traits of the loaded teacher."""
    teacher = worker.teacher(config)
    taken = teacher.dense_path(config.dense)
    if taken != config.dense.path:
        logger.info("dense.path=%s: this teacher has %s instead", config.dense.path, taken)
    return Traits(
        width=teacher.width,
        native_size=list(teacher.native_size),
        grid=list(teacher.grid(config.dense)),
        dense_path=taken,
    )


def fitted_size(
    worker: ShardWorker, *, config: PrecomputeConfig, shapes: Sequence[tuple[int, int]]
) -> tuple[int, int]:
    """What dense.size=auto stands for with the loaded teacher and images of these shapes."""
    return auto_size(shapes, worker.teacher(config).strides)


def made_once(worker: ShardWorker, *, name: str, inputs: StoreInputs) -> Arrays:
    """The arrays of an artifact that a store has once."""
    make = KINDS[name].make_once
    assert make is not None
    return make(worker.teacher(inputs.config), inputs)


def dense_loss(
    worker: ShardWorker,
    *,
    path: StorePath,
    spec: DatasetSpec,
    root: Path,
    samples: Sequence[Sample],
    config: PrecomputeConfig,
) -> DenseLoss | None:
    """What the dense tokens of a sealed store have lost by their format."""
    return measure_dense(
        path,
        spec=spec,
        root=root,
        samples=samples,
        teacher=worker.teacher(config),
        config=config.dense,
    )


def device_and_library(worker: ShardWorker, *, config: PrecomputeConfig) -> dict[str, Any]:
    """What the shards are computed with, for the store's history."""
    device = str(worker.teacher(config).device)
    return {"device": device, "kmeans": config.regions.backend}


def auto_values(_: object, *, config: PrecomputeConfig) -> dict[str, str]:
    """The values of `auto` on this machine: precision, what resizes, and k-means library."""
    from zsseg.stages.device import choose_device
    from zsseg.stages.precompute.make.backend_choice import choose_backend
    from zsseg.stages.precompute.teacher.resizing import choose_resize
    from zsseg.stages.precompute.teacher.teacher_precision import choose_precision

    device = choose_device(config.device)
    return {
        "precision": choose_precision(config.precision, device),
        "resize": choose_resize(config.resize, device),
        "backend": choose_backend(config.regions.backend, device.type),
    }
