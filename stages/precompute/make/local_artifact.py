"""Artifact `local`: a CLS token of the crop of each mask. Its receipt keeps the crops' hashes.

Legend: N images, K masks of an image, M crops of a batch, D CLIP width, h w token grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.cache.format.codec import half
from zsseg.stages.cache.format.manifest import ArraySpec
from zsseg.stages.errors import CacheError
from zsseg.stages.precompute.make.artifact_kind import (
    Advance,
    Arrays,
    ArtifactKind,
    Made,
    Recipe,
    RecipeInputs,
    ShardInputs,
)
from zsseg.stages.precompute.make.class_crops import class_crops, crop_salt
from zsseg.stages.precompute.make.pictures import Picture, PictureOnDisk
from zsseg.stages.precompute.make.pooled_tokens import POOLED, pooled_arrays
from zsseg.stages.precompute.precompute_config import LocalConfig, PrecomputeConfig
from zsseg.stages.precompute.threads import in_threads, slices

if TYPE_CHECKING:
    from zsseg.stages.precompute.teacher.teacher_protocol import Teacher


@dataclass(frozen=True)
class KnownCrops:
    """Crops that were encoded before."""

    salt: str
    """Part of each hash: see `crop_salt`."""
    tokens: Mapping[str, NDArray[np.float16]]
    """Token (D,) by hash of the crop."""


@dataclass(frozen=True)
class CropNotes:
    """The hash of the crop of each mask of a picture, and how many masks had no room."""

    hashes: tuple[str, ...]
    left_out: int


def local_arrays(
    teacher: "Teacher",
    pictures: Sequence[Picture | PictureOnDisk],
    region_Nhw: NDArray[np.uint8],
    config: LocalConfig,
    *,
    known: KnownCrops,
    batch: int,
    advance: Advance,
) -> tuple[Arrays, list[CropNotes]]:
    """One CLS token per mask of each picture, mask ids (-1: none), and notes on the crops (N,).

    A crop whose pixels, as the teacher would see them, are `known` is not encoded again. A teacher
    that knows images by id has no crops: its tokens are `pooled_arrays`.
    """
    if teacher.by_id:
        pooled, left_out = pooled_arrays(
            teacher, pictures, region_Nhw, max_masks=config.max_masks, batch=batch
        )
        advance(len(pictures))
        return pooled, [CropNotes((), number) for number in left_out]
    local_NKD = np.zeros((len(pictures), config.max_masks, teacher.width), np.float16)
    id_NK = np.full((len(pictures), config.max_masks), -1, np.int16)
    done: list[CropNotes] = []

    def cut(i: int) -> tuple[dict[str, NDArray[np.uint8]], list[int], CropNotes]:
        images, hashes = {}, []
        with pictures[i].opened() as picture:
            crops, ids, left_out = class_crops(
                picture.image_HW3,
                picture.visible_HW,
                region_Nhw[i],
                margin=config.margin,
                max_masks=config.max_masks,
            )
            for each in crops:
                hashes.append(each.digest(known.salt))
                if hashes[-1] not in known.tokens:
                    filled_HW3 = each.masked(teacher.mean_colour)
                    images[hashes[-1]] = teacher.fitted(filled_HW3, teacher.native_size)
        return images, ids, CropNotes(tuple(hashes), left_out)

    for part in slices(len(pictures), batch):
        made = in_threads(cut, range(part.start, part.stop))
        images = {name: image for each, _, _ in made for name, image in each.items()}
        names, tokens = list(images), dict(known.tokens)
        for few in slices(len(names), batch):
            encoded_MD = half(teacher.cls([images[name] for name in names[few]]))
            tokens |= zip(names[few], encoded_MD, strict=True)
        for i, (_, ids, notes) in enumerate(made, start=part.start):
            for slot, name in enumerate(notes.hashes):
                local_NKD[i, slot] = tokens[name]
            id_NK[i, : len(ids)] = ids
            done.append(notes)
        advance(part.stop - part.start)
    return {"local": local_NKD, "local_ids": id_NK}, done


def _in_store(config: PrecomputeConfig) -> bool:
    return config.local.enabled


def _recipe(inputs: RecipeInputs) -> dict[str, Any]:
    pooled = inputs.files.kind == "tokens"
    return {
        "teacher": inputs.files.recipe(),
        **({"of": POOLED} if pooled else {"size": inputs.traits.native_size}),
        **inputs.config.local.model_dump(exclude={"enabled"}),
        **inputs.passes,
    }


def _arrays(inputs: RecipeInputs) -> tuple[ArraySpec, ...]:
    masks = inputs.config.local.max_masks
    return (
        ArraySpec("local", (masks, inputs.traits.width), "float16"),
        ArraySpec("local_ids", (masks,), "int16"),
    )


def _settings(recipe: Recipe) -> dict[str, dict[str, Any]]:
    fields = (name for name in LocalConfig.model_fields if name != "enabled")
    return {"local": {name: recipe[name] for name in fields}}


def _known_tokens(shard: ShardInputs) -> dict[str, NDArray[np.float16]]:
    """Tokens of an earlier store by hash of their crop; fewer where its data is damaged."""
    tokens: dict[str, NDArray[np.float16]] = {}
    for row in shard.old.values():
        if row.crops:
            try:
                local_KD = shard.old_values("local", row)
            except CacheError:  # the data is damaged: these crops are encoded again
                continue
            tokens |= zip(row.crops, local_KD, strict=False)
    return tokens


def _make(shard: ShardInputs) -> Made:
    salt = crop_salt(shard.manifest.arrays["local"][0].recipe)
    known = KnownCrops(salt, _known_tokens(shard))
    with shard.clock.phase("crops"):
        arrays, made = local_arrays(
            shard.teacher,
            shard.pictures,
            shard.stored("regions"),
            shard.config.local,
            known=known,
            batch=shard.config.batch,
            advance=shard.clock.advance,
        )
    copied = {place: CropNotes(row.crops, row.left_out) for place, row in shard.copied.items()}
    notes = dict(zip(shard.fresh, made, strict=True)) | copied
    reused = sum(name in known.tokens for each in made for name in each.hashes)
    return Made(
        arrays,
        {
            "crops": [
                list(notes[place].hashes) if place in notes else []
                for place in range(len(shard.rows))
            ],
            "left_out": {
                str(shard.first + place): each.left_out
                for place, each in sorted(notes.items())
                if each.left_out
            },
        },
        kept=reused + sum(len(each.hashes) for each in copied.values()),
    )


LOCAL = ArtifactKind(
    name="local",
    depends=("index", "regions"),
    recipe=_recipe,
    arrays=_arrays,
    settings=_settings,
    settings_without={"local": {"enabled": False}},
    in_store=_in_store,
    from_labels=True,
    empty={"local_ids": -1},
    make=_make,
)
