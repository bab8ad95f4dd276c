"""Artifact `regions`: the latent regions of each image.

Legend: N images, D CLIP width, h w token grid.
"""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.cache.format.manifest import ArraySpec
from zsseg.stages.precompute.make.artifact_kind import (
    Advance,
    Arrays,
    ArtifactKind,
    Made,
    Recipe,
    RecipeInputs,
    ShardInputs,
)
from zsseg.stages.precompute.make.dense_artifact import shard_tokens
from zsseg.stages.precompute.make.pictures import Picture, PictureOnDisk
from zsseg.stages.precompute.precompute_config import RegionConfig
from zsseg.stages.precompute.threads import in_threads, slices

if TYPE_CHECKING:
    import torch

    from zsseg.stages.precompute.make.kmeans import Backend

_AT_ONCE = 64
"""Pictures between two reports of progress."""
_TORCH_AT_ONCE = 16
"""Pictures whose k-means torch runs together: of 32 x 32 tokens of 512 numbers, 100 MB."""


def region_arrays(
    dense_NDhw: NDArray[np.floating],
    pictures: Sequence[Picture | PictureOnDisk],
    config: RegionConfig,
    *,
    backend: "Backend",
    advance: Advance,
    device: "torch.device | None" = None,
) -> Arrays:
    """The latent regions (N, h, w) of each picture, from its dense tokens as they are stored.

    `device`: where torch mines; others need none.
    """
    # Imports torch and scikit-learn: not where a run finds everything done, and before the threads,
    # which limit the libraries that are loaded.
    from zsseg.stages.precompute.make.kmeans import EMPTIED
    from zsseg.stages.precompute.make.regions import mine_batch, mine_regions, unlabelled_tokens

    *_, height, width = dense_NDhw.shape

    def unlabelled(i: int) -> NDArray[np.bool_]:
        with pictures[i].opened_label() as visible_HW:
            return unlabelled_tokens(visible_HW, (height, width), config.unlabelled_share)

    def mine(i: int) -> NDArray[np.uint8]:
        assert backend != "torch"
        return mine_regions(dense_NDhw[i], unlabelled(i), config, backend=backend)

    # Not undone: filters belong to the whole process, where other threads mine at the same time.
    # Nothing is lost: `mine_regions` looks at the labels, where an empty cluster does not appear.
    warnings.filterwarnings("ignore", EMPTIED)
    region_Nhw = np.empty((len(pictures), height, width), np.uint8)
    if backend == "torch":
        assert device is not None
        for part in slices(len(pictures), _TORCH_AT_ONCE):
            unlabelled_Bhw = np.stack(in_threads(unlabelled, range(part.start, part.stop)))
            region_Nhw[part] = mine_batch(dense_NDhw[part], unlabelled_Bhw, config, device=device)
            advance(part.stop - part.start)
    elif backend == "cuml":  # one GPU, one job at a time
        for i in range(len(pictures)):
            region_Nhw[i] = mine(i)
            advance(1)
    else:
        for part in slices(len(pictures), _AT_ONCE):
            region_Nhw[part] = in_threads(mine, range(part.start, part.stop))
            advance(part.stop - part.start)
    return {"regions": region_Nhw}


def recipe_backend(recipe: Recipe) -> "Backend":
    """The k-means library that a recipe names: `auto` in it stands for scikit-learn.

    It was once the only library, and the fingerprints of those stores must not change.
    """
    named: Backend = recipe["backend"]
    return named if named in ("cuml", "torch") else "sklearn"


def _recipe(inputs: RecipeInputs) -> dict[str, Any]:
    config = inputs.config.regions
    library = config.backend if config.backend in ("cuml", "torch") else "auto"
    return config.model_dump(mode="json") | {"backend": library}


def _arrays(inputs: RecipeInputs) -> tuple[ArraySpec, ...]:
    height, columns = inputs.traits.grid
    return (ArraySpec("regions", (height, columns), "uint8", compressed=True),)


def _settings(recipe: Recipe) -> dict[str, dict[str, Any]]:
    values = {name: recipe[name] for name in RegionConfig.model_fields}
    return {"regions": values | {"backend": recipe_backend(recipe)}}


def _make(shard: ShardInputs) -> Made:
    clock, config, backend = shard.clock, shard.config, shard.backend
    dense_NDhw = shard_tokens(shard)
    device = shard.teacher.device
    on_device = backend == "cuml" or (backend == "torch" and device.type != "cpu")
    with clock.alone("regions") if on_device else clock.phase("regions"):
        arrays = region_arrays(
            dense_NDhw,
            shard.pictures,
            config.regions,
            backend=backend,
            advance=clock.advance,
            device=device,
        )
    return Made(arrays)


REGIONS = ArtifactKind(
    name="regions",
    depends=("dense", "index"),
    recipe=_recipe,
    arrays=_arrays,
    settings=_settings,
    from_labels=True,
    make=_make,
)
