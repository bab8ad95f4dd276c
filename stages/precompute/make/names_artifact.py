"""Artifact `pixel_names`: the map of names, the classes that the teacher gives each pixel.

Of every cell the best two of all classes, and the best two of the unseen classes alone: who learns
from pixels without a label of a seen class knows that it is none of these.
Legend: N images, C classes, U unseen classes, D CLIP width, h w token grid, y x grid of the map.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.cache.format.manifest import ArraySpec
from zsseg.stages.cache.format.name_scores import score_codes
from zsseg.stages.data.images import resize_image
from zsseg.stages.data.spec import VOID, DatasetSpec
from zsseg.stages.precompute.make.artifact_kind import (
    ArtifactKind,
    Made,
    Recipe,
    RecipeInputs,
    ShardInputs,
)
from zsseg.stages.precompute.make.dense_artifact import shard_tokens
from zsseg.stages.precompute.precompute_config import PixelNamesConfig, PrecomputeConfig
from zsseg.stages.precompute.threads import in_threads, slices

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NAME = "pixel_names"
"""Of the artifact, and of its array for all classes."""

UNSEEN = "unseen_names"
"""Of its array for the unseen classes alone."""

_AT_ONCE = 16
"""Pictures between two reports of progress."""


@dataclass(frozen=True)
class Naming:
    """What names the pixels of a store's images."""

    text_CD: NDArray[np.float32]
    """L2-normalised embeddings of all classes, or (C, S, D) of all their names (`best_names`)."""
    unseen_ids: tuple[int, ...]
    grid: tuple[int, int]
    """(y, x)"""
    config: PixelNamesConfig


def map_grid(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """(y, x) of the map for images that the teacher sees with `size` (height, width) pixels."""
    height, width = size
    return math.ceil(height / stride), math.ceil(width / stride)


def has_unseen_map(spec: DatasetSpec) -> bool:
    """Is a map of the unseen classes alone another one than that of all classes?"""
    return 0 < len(spec.unseen) < len(spec.classes)


def name_arrays(
    dense_Dhw: NDArray[np.floating],
    image_HW3: NDArray[np.uint8],
    naming: Naming,
    device: "torch.device",
) -> dict[str, NDArray[np.uint8]]:
    """The map (4, y, x) of an image for each group: best and second best class, and the codes
    (`score_codes`) of their scores.

    Of two classes that are equal the one of the lower id is better. Where a group has but one
    class, VOID with code 0 is the second.
    """
    import torch

    with torch.inference_mode():
        cosine_Cyx = _cosines(dense_Dhw, naming, device)
        groups = {NAME: tuple(range(len(cosine_Cyx)))}
        if 0 < len(naming.unseen_ids) < len(cosine_Cyx):
            groups[UNSEEN] = naming.unseen_ids
        scores = [
            (cosine_Cyx[list(ids)] / naming.config.temperature).softmax(0)
            for ids in groups.values()
        ]
        refined = _refined(torch.cat(scores), image_HW3, naming)
        arrays: dict[str, NDArray[np.uint8]] = {}
        parts = refined.split([len(ids) for ids in groups.values()])
        for name, ids, score_Gyx in zip(groups, groups.values(), parts, strict=True):
            index_2yx, best_2yx = _best_two(score_Gyx.cpu())
            id_G = np.array([*ids, VOID], np.uint8)
            codes_2yx = score_codes(best_2yx.numpy())
            arrays[name] = np.concatenate([id_G[index_2yx.numpy()], codes_2yx])
            if len(ids) == 1:
                arrays[name][3] = 0
        return arrays


def _cosines(dense_Dhw: NDArray[np.floating], naming: Naming, device: "torch.device") -> "Tensor":
    """(C, y, x) cosines of the tokens and the class names, brought to the map's grid (bilinear)."""
    import torch
    import torch.nn.functional as F

    from zsseg.stages.best_names import best_names, name_rows

    token_Dhw = torch.from_numpy(dense_Dhw.astype(np.float32)).to(device)
    text_CD = torch.from_numpy(naming.text_CD).to(device)
    cosine_Nhw = torch.tensordot(name_rows(text_CD), F.normalize(token_Dhw, dim=0), dims=1)
    cosine_Chw = best_names(cosine_Nhw, text_CD, dim=0)
    return F.interpolate(cosine_Chw[None], size=naming.grid, mode="bilinear", align_corners=False)[
        0
    ]


def _refined(score_Gyx: "Tensor", image_HW3: NDArray[np.uint8], naming: Naming) -> "Tensor":
    import torch

    from zsseg.stages.precompute.make.pixel_refinement import pamr

    config = naming.config
    if config.refinement == "none":
        return score_Gyx
    small_yx3 = resize_image(image_HW3, naming.grid)
    image_3yx = torch.from_numpy(small_yx3).permute(2, 0, 1).to(score_Gyx)
    return pamr(score_Gyx, image_3yx, iterations=config.iterations, dilations=config.dilations)


def _best_two(score_Gyx: "Tensor") -> "tuple[Tensor, Tensor]":
    """(2, y, x) indices of the best two classes of a group, and their scores.

    Of a group of one class the second is number 1, with score 0.
    """
    import torch

    best_yx, index_yx = score_Gyx.max(0)
    if len(score_Gyx) == 1:
        others = torch.zeros_like(best_yx), torch.ones_like(index_yx)
    else:
        second = score_Gyx.scatter(0, index_yx[None], -1).max(0)
        others = second.values, second.indices
    return torch.stack([index_yx, others[1]]), torch.stack([best_yx, others[0]])


def _in_store(config: PrecomputeConfig) -> bool:
    return config.pixel_names.enabled


def _recipe(inputs: RecipeInputs) -> dict[str, Any]:
    config = inputs.config.pixel_names
    refined = ("iterations", "dilations") if config.refinement != "none" else ()
    fields = ("stride", "temperature", "refinement", *refined)
    return config.model_dump(mode="json", include=set(fields))


def _arrays(inputs: RecipeInputs) -> tuple[ArraySpec, ...]:
    grid = map_grid(inputs.config.dense.pixels, inputs.config.pixel_names.stride)
    names = [NAME, UNSEEN] if has_unseen_map(inputs.spec) else [NAME]
    return tuple(ArraySpec(name, (4, *grid), "uint8", compressed=True) for name in names)


def _settings(recipe: Recipe) -> dict[str, dict[str, Any]]:
    return {NAME: {"enabled": True, **recipe}}


def naming_of(
    identity: Mapping[str, Any], text_CD: NDArray[np.float32], config: PrecomputeConfig
) -> Naming:
    """What names the pixels of a store of this identity (`store_identity`)."""
    unseen = set(identity["unseen"])
    return Naming(
        text_CD=text_CD,
        unseen_ids=tuple(i for i, name in enumerate(identity["classes"]) if name in unseen),
        grid=map_grid(config.dense.pixels, config.pixel_names.stride),
        config=config.pixel_names,
    )


def _make(shard: ShardInputs) -> Made:
    clock, pictures = shard.clock, shard.pictures
    token_NDhw = shard_tokens(shard)
    text_CD = shard.stored_once("text")["text"]
    naming = naming_of(shard.manifest.identity, text_CD, shard.config)
    artifact, _ = shard.manifest.arrays[NAME]
    arrays = {
        each.name: np.empty((len(pictures), *each.shape), np.uint8) for each in artifact.arrays
    }

    def name(i: int) -> None:
        with pictures[i].opened() as picture:
            small_yx3 = resize_image(picture.image_HW3, naming.grid)
        made = name_arrays(token_NDhw[i], small_yx3, naming, shard.teacher.device)
        for array, values in made.items():
            arrays[array][i] = values

    with clock.phase("names"):
        for part in slices(len(pictures), _AT_ONCE):
            in_threads(name, range(part.start, part.stop))
            clock.advance(part.stop - part.start)
    return Made(arrays)


PIXEL_NAMES = ArtifactKind(
    name=NAME,
    depends=("index", "text", "dense"),
    recipe=_recipe,
    arrays=_arrays,
    settings=_settings,
    settings_without={NAME: {"enabled": False}},
    in_store=_in_store,
    from_unseen=True,
    make=_make,
)
