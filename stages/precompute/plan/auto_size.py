"""The size that dense.size=auto stands for: resolved once, when the store is new.

A store that was made with it keeps its size, also when images are added: it is found by everything
else that makes it this store. A new one follows the shapes of a sample of the images, which the
teacher's stride is fitted to.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from zsseg.stages.cache.disk.json_files import plain
from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.manifest import AUTO_SIZE, read_manifest
from zsseg.stages.data.images import image_size
from zsseg.stages.data.samples import Sample
from zsseg.stages.errors import CacheError, DatasetError
from zsseg.stages.precompute.precompute_config import PrecomputeConfig

SAMPLED = 64
"""Images at most whose shape is looked at, evenly spread over the split."""

Pair = tuple[int, int]
Identity = Callable[[PrecomputeConfig], dict[str, Any]]
"""The identity of the store of settings without `auto`."""


def resolve_size(
    config: PrecomputeConfig,
    cache: StorePath,
    samples: Sequence[Sample],
    *,
    identity: Identity,
    ask_size: Callable[[Sequence[Pair]], Pair],
) -> PrecomputeConfig:
    """The settings with a number of pixels for `dense.size`.

    `ask_size` fits the shapes of images to the loaded teacher (`dense_passes.auto_size`); it is
    called for a new store only. Raises DatasetError when no image can be read.
    """
    if config.dense.size != "auto":
        return config
    size = _stored_size(cache, identity(_with_size(config, (0, 0))))
    return _with_size(config, size or ask_size(sampled_shapes(samples)))


def sampled_shapes(samples: Sequence[Sample]) -> list[Pair]:
    """Heights and widths of at most SAMPLED images, from their headers where these tell.

    Images that cannot be read are left out. Raises DatasetError when none is left.
    """
    places = np.linspace(0, len(samples) - 1, min(SAMPLED, len(samples))).round().astype(int)
    shapes: list[Pair] = []
    failure: DatasetError | None = None
    for place in places:
        try:
            shapes.append(image_size(samples[place].image))
        except DatasetError as error:
            failure = failure or error
    if failure is not None and not shapes:
        raise DatasetError(
            f"dense.size=auto: none of the {len(places)} images looked at can be read. Mend them. "
            f"The first: {failure}"
        )
    return shapes


def _with_size(config: PrecomputeConfig, size: Pair) -> PrecomputeConfig:
    return config.model_copy(update={"dense": config.dense.model_copy(update={"size": size})})


def _stored_size(cache: StorePath, wanted: dict[str, Any]) -> Pair | None:
    """The size of the first store in a folder that was made with `auto` and has this identity."""
    storage(cache).check_reachable()
    for path in storage(cache).subfolders():
        try:
            manifest = read_manifest(path)
            height, width = manifest.identity["dense"]["size"]
        except (CacheError, KeyError, TypeError, ValueError):  # not to be continued
            continue
        if not manifest.info.get(AUTO_SIZE):
            continue
        dense = wanted["dense"] | {"size": [height, width]}
        if manifest.identity == plain(wanted | {"dense": dense}):
            return height, width
    return None
