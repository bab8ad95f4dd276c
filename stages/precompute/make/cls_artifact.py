"""Artifact `cls`: a CLS token of the whole of each image and of each of its recorded crops.

Tokens are stored as the teacher gives them, not normalised, in half precision. What exceeds it
becomes infinity, which is refused, with the name of the image, where it is written.
Legend: N images, V views with the whole image first, M views of a batch, D CLIP width.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zsseg.stages.cache.format.codec import half
from zsseg.stages.cache.format.manifest import ArraySpec
from zsseg.stages.data.geometry import WHOLE
from zsseg.stages.precompute.make.artifact_kind import (
    Advance,
    Arrays,
    ArtifactKind,
    Made,
    Recipe,
    RecipeInputs,
    ShardInputs,
)
from zsseg.stages.precompute.make.pictures import Picture, PictureOnDisk
from zsseg.stages.precompute.make.recorded_views import image_views, seen_by_teacher
from zsseg.stages.precompute.precompute_config import ViewConfig
from zsseg.stages.precompute.threads import in_threads, slices

if TYPE_CHECKING:
    from zsseg.stages.precompute.teacher.teacher_protocol import Seen, Teacher


def cls_arrays(
    teacher: "Teacher",
    pictures: Sequence[Picture | PictureOnDisk],
    config: ViewConfig,
    *,
    batch: int,
    advance: Advance,
) -> Arrays:
    """The views of each picture (N, V, 6), and one CLS token per view (N, V, D)."""
    views = 1 + config.number
    view_NV6 = np.empty((len(pictures), views, 6), np.float32)
    cls_NVD = np.empty((len(pictures), views, teacher.width), np.float16)

    def look(i: int) -> "list[Seen]":
        size = teacher.native_size
        if teacher.by_id:
            view_NV6[i] = WHOLE.as_row()
            return [pictures[i].id]
        with pictures[i].opened() as picture:
            view_NV6[i] = image_views(picture.image_HW3, config)
            return [
                seen_by_teacher(teacher, picture.image_HW3, view_6, size) for view_6 in view_NV6[i]
            ]

    for part in slices(len(pictures), batch):
        made = in_threads(look, range(part.start, part.stop))
        images = [image for each in made for image in each]
        token_MD = np.empty((len(images), teacher.width), np.float16)
        for few in slices(len(images), batch):
            token_MD[few] = half(teacher.cls(images[few]))
        cls_NVD[part] = token_MD.reshape(-1, views, teacher.width)
        advance(part.stop - part.start)
    return {"views": view_NV6, "cls": cls_NVD}


def _recipe(inputs: RecipeInputs) -> dict[str, Any]:
    views = inputs.config.views
    return {
        "teacher": inputs.files.recipe(),
        "size": inputs.traits.native_size,
        # Without crops the recipe is that of stores made before there were any.
        "views": views.model_dump(mode="json") if views.number else "the whole image",
        **inputs.passes,
    }


def _arrays(inputs: RecipeInputs) -> tuple[ArraySpec, ...]:
    views = 1 + inputs.config.views.number
    return (
        ArraySpec("views", (views, 6), "float32"),
        ArraySpec("cls", (views, inputs.traits.width), "float16"),
    )


def _settings(recipe: Recipe) -> dict[str, dict[str, Any]]:
    views = recipe["views"]
    return {"views": {} if isinstance(views, str) else dict(views)}


def _make(shard: ShardInputs) -> Made:
    config, advance = shard.config, shard.clock.advance
    with shard.clock.phase("preprocess"):
        arrays = cls_arrays(
            shard.teacher, shard.pictures, config.views, batch=config.batch, advance=advance
        )
    return Made(arrays)


CLS = ArtifactKind(
    name="cls",
    depends=("index",),
    recipe=_recipe,
    arrays=_arrays,
    settings=_settings,
    make=_make,
)
