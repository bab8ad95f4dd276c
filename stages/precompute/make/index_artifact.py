"""Artifact `index`: size and status of each image. Its receipt keeps hashes and failures.

Legend: N images.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.cache.format.manifest import ArraySpec
from zsseg.stages.precompute.make.artifact_kind import (
    ArtifactKind,
    Made,
    RecipeInputs,
    ShardInputs,
    no_settings,
)
from zsseg.stages.precompute.make.pictures import ShardRow


def index_arrays(
    rows: Sequence[ShardRow], first: int
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays and notes of rows; `first` is the number of the first one.

    Size (N, 2: height, width; 0 of a failed image) and status (N,: 1 failed). The notes hold both
    hashes of every row, and the reason of every failure by row number.
    """
    sizes = [row.picture.shape if row.picture else (0, 0) for row in rows]
    failed = [row.picture is None for row in rows]
    notes = {
        "images": [row.hashes.image for row in rows],
        "labels": [row.hashes.label for row in rows],
        "failures": {str(first + i): row.failure for i, row in enumerate(rows) if row.failure},
    }
    return {"size": np.array(sizes, np.int32), "status": np.array(failed, np.uint8)}, notes


def _recipe(inputs: RecipeInputs) -> dict[str, Any]:
    return {"classes": list(inputs.spec.classes), "unseen": list(inputs.spec.unseen)}


def _arrays(_: RecipeInputs) -> tuple[ArraySpec, ...]:
    return (ArraySpec("size", (2,), "int32"), ArraySpec("status", (), "uint8"))


def _make(shard: ShardInputs) -> Made:
    arrays, notes = index_arrays(shard.rows, shard.first)
    shard.clock.advance(len(shard.fresh))
    return Made({name: values[list(shard.fresh)] for name, values in arrays.items()}, notes)


IMAGE_INDEX = ArtifactKind(
    name="index",
    recipe=_recipe,
    arrays=_arrays,
    settings=no_settings,
    from_labels=True,
    make=_make,
)
