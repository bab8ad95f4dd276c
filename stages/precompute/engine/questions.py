"""What is asked of a teacher beside the shards: each can be sent to the process that has one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.cache.dense_loss import DenseLoss
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.codec import components
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.precompute.engine.shard_worker import ShardWorker
from zsseg.stages.precompute.make.token_loss import measure_dense
from zsseg.stages.precompute.precompute_config import PrecomputeConfig
from zsseg.stages.precompute.teacher.teacher_files import Traits
from zsseg.stages.precompute.teacher.text_embeddings import embed_classes


def teacher_traits(worker: ShardWorker, *, config: PrecomputeConfig) -> Traits:
    """What only the loaded teacher knows of itself."""
    teacher = worker.teacher(config)
    return Traits(
        width=teacher.width,
        native_size=list(teacher.native_size),
        grid=list(teacher.grid(config.dense)),
        dense_path=teacher.dense_path(config.dense),
    )


def class_texts(
    worker: ShardWorker, *, names: Sequence[str], config: PrecomputeConfig
) -> NDArray[np.float32]:
    """(C, D) text embeddings of the classes."""
    return embed_classes(worker.teacher(config), names, config.text.templates)


def fitted_basis(
    worker: ShardWorker,
    *,
    spec: DatasetSpec,
    root: Path,
    samples: Sequence[Sample],
    config: PrecomputeConfig,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The basis (d, D) that dense tokens are kept in, fitted to these images, and the mean (D,)."""
    from zsseg.stages.precompute.make.pca_basis import fit_basis, sampled_tokens

    number = components(config.dense.format)
    assert number is not None
    tokens = sampled_tokens(
        spec, root, samples, teacher=worker.teacher(config), config=config.dense
    )
    return fit_basis(tokens, number)


def dense_loss(
    worker: ShardWorker,
    *,
    path: StorePath,
    spec: DatasetSpec,
    root: Path,
    samples: Sequence[Sample],
    config: PrecomputeConfig,
) -> DenseLoss | None:
    """What the sealed store's dense tokens have lost."""
    return measure_dense(
        path,
        spec=spec,
        root=root,
        samples=samples,
        teacher=worker.teacher(config),
        config=config.dense,
    )


def described(worker: ShardWorker, *, config: PrecomputeConfig) -> dict[str, Any]:
    """Where it all ran, for the store's history."""
    device = str(worker.teacher(config).device)
    return {"device": device, "kmeans": config.regions.backend}


def found_where_asked(_: object, *, config: PrecomputeConfig) -> dict[str, str]:
    """The precision and the k-means library that the process has that is asked."""
    from zsseg.stages.device import choose_device
    from zsseg.stages.precompute.make.kmeans import choose_backend
    from zsseg.stages.precompute.teacher.teacher_precision import choose_precision

    device = choose_device(config.device)
    return {
        "precision": choose_precision(config.precision, device),
        "backend": choose_backend(config.regions.backend),
    }
