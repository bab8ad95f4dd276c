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
    from zsseg.stages.precompute.make.kmeans import Backend

_AT_ONCE = 64
"""Pictures between two reports of progress."""


def region_arrays(
    dense_NDhw: NDArray[np.floating],
    pictures: Sequence[Picture | PictureOnDisk],
    config: RegionConfig,
    *,
    backend: "Backend",
    advance: Advance,
) -> Arrays:
    """The latent regions (N, h, w) of each picture, from its dense tokens as they are stored."""
    # Imports torch and scikit-learn: not where a run finds everything done, and before the threads,
    # which limit the libraries that are loaded.
    from zsseg.stages.precompute.make.kmeans import EMPTIED
    from zsseg.stages.precompute.make.regions import mine_regions, unlabelled_tokens

    *_, height, width = dense_NDhw.shape

    def mine(i: int) -> NDArray[np.uint8]:
        with pictures[i].opened_label() as visible_HW:
            unlabelled_hw = unlabelled_tokens(visible_HW, (height, width), config.unlabelled_share)
        return mine_regions(dense_NDhw[i], unlabelled_hw, config, backend=backend)

    # Not undone: filters belong to the whole process, where other threads mine at the same time.
    # Nothing is lost: `mine_regions` looks at the labels, where an empty cluster does not appear.
    warnings.filterwarnings("ignore", EMPTIED)
    region_Nhw = np.empty((len(pictures), height, width), np.uint8)
    if backend == "cuml":  # one GPU, one job at a time
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
    return "cuml" if recipe["backend"] == "cuml" else "sklearn"


def _recipe(inputs: RecipeInputs) -> dict[str, Any]:
    config = inputs.config.regions
    library = "cuml" if config.backend == "cuml" else "auto"
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
    with clock.alone("regions") if backend == "cuml" else clock.phase("regions"):
        arrays = region_arrays(
            dense_NDhw, shard.pictures, config.regions, backend=backend, advance=clock.advance
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
