"""Artifact `dense`: a token per patch of each image, in the format that is asked for.

Tokens of one pass are stored as the teacher gives them, not normalised; of several, the mean of
their unit tokens, whose length says how far the passes agree. What exceeds half precision becomes
infinity, which is refused, with the name of the image, where it is written.
Legend: N images, D CLIP width, h w token grid.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.cache.format.codec import BASIS, DENSE, dense_specs, encode, stored_format
from zsseg.stages.cache.format.manifest import ArraySpec
from zsseg.stages.cache.shards import check_finite
from zsseg.stages.precompute.make.artifact_kind import (
    Advance,
    ArtifactKind,
    Made,
    Recipe,
    RecipeInputs,
    ShardInputs,
)
from zsseg.stages.precompute.make.pictures import Picture, PictureOnDisk
from zsseg.stages.precompute.make.recorded_views import seen_whole
from zsseg.stages.precompute.precompute_config import PASS_SETTINGS, PATH_SETTINGS, DenseConfig
from zsseg.stages.precompute.teacher.dense_passes import passes_on_grid
from zsseg.stages.precompute.threads import in_threads, slices

if TYPE_CHECKING:
    from zsseg.stages.precompute.teacher.teacher_protocol import Seen, Teacher


def dense_arrays(
    teacher: "Teacher",
    pictures: Sequence[Picture | PictureOnDisk],
    config: DenseConfig,
    *,
    basis: Mapping[str, NDArray[np.float32]],
    batch: int,
    advance: Advance,
) -> dict[str, NDArray[Any]]:
    """The arrays (N, ...) that hold the dense tokens of each picture in the format of `config`.

    `basis`: the arrays of artifact `pca`; empty where the format needs none.
    """
    specs = dense_specs(config.format, width=teacher.width, grid=teacher.grid(config))
    arrays = {each.name: np.empty((len(pictures), *each.shape), each.dtype) for each in specs}

    def seen(each: Picture | PictureOnDisk) -> "Seen":
        return seen_whole(teacher, each, config)

    for part in slices(len(pictures), batch):
        images = in_threads(seen, pictures[part])
        for name, values in encode(config.format, teacher.dense(images, config), basis).items():
            arrays[name][part] = values
        advance(part.stop - part.start)
    return arrays


def unkept_tokens(
    teacher: "Teacher",
    pictures: Sequence[Picture | PictureOnDisk],
    config: DenseConfig,
    *,
    batch: int,
) -> NDArray[np.float16]:
    """(N, D, h, w) dense tokens for a store that keeps none; as format fp16 would store them."""
    kept = config.model_copy(update={"format": "fp16"})
    arrays = dense_arrays(teacher, pictures, kept, basis={}, batch=batch, advance=lambda _: None)
    return arrays[DENSE]


def shard_tokens(shard: ShardInputs) -> NDArray[np.floating]:
    """(N, D, h, w) dense tokens of the images to make: as they are stored, or else `unkept_tokens`.

    Those are made once per shard, for all artifacts. Raises NonFiniteError for tokens that do not
    fit into half precision.
    """
    clock, config = shard.clock, shard.config
    if DENSE in shard.manifest.arrays:
        with clock.phase("read"):
            return shard.stored(DENSE)
    lacking = [place for place in shard.fresh if place not in shard.unkept]
    pictures = [picture for place in lacking if (picture := shard.rows[place].picture)]
    with clock.phase("preprocess"):
        token_NDhw = unkept_tokens(shard.teacher, pictures, config.dense, batch=config.batch)
    check_finite(shard.path, DENSE, token_NDhw, ids=[shard.ids[place] for place in lacking])
    shard.unkept.update(zip(lacking, token_NDhw, strict=True))
    return np.stack([shard.unkept[place] for place in shard.fresh]) if shard.fresh else token_NDhw


def token_recipe(inputs: RecipeInputs) -> dict[str, Any]:
    """What dense tokens follow from, before they are stored in a format.

    Raises UserError for windows that do not fit the teacher.
    """
    config, path = inputs.config.dense, inputs.traits.dense_path
    height, columns = inputs.traits.grid
    passes_on_grid(config, (height, columns))  # before anything of a store is changed
    return {
        "teacher": inputs.files.recipe(),
        "size": list(config.pixels),
        "path": path,
        **_pass_settings(config),
        **{name: getattr(config, name) for name in PATH_SETTINGS.get(path, ())},
        **inputs.passes,
    }


def _pass_settings(config: DenseConfig) -> dict[str, Any]:
    """The recipe's entries for passes; none for what one plain pass has.

    It was once the only way, and the fingerprints of those stores must not change.
    """
    values = config.model_dump(mode="json", include=set(PASS_SETTINGS))
    plain = DenseConfig().model_dump(mode="json")
    if not config.windows.size:
        del values["windows"]
    return {name: value for name, value in values.items() if value != plain[name]}


def token_settings(recipe: Recipe) -> dict[str, Any]:
    """The settings that dense tokens were made with, but for size, path and format."""
    names = (*PASS_SETTINGS, *PATH_SETTINGS.get(recipe["path"], ()))
    return {name: recipe[name] for name in names if name in recipe}


def _recipe(inputs: RecipeInputs) -> dict[str, Any]:
    # fp16 was once the only format: naming it would change the fingerprints of those stores.
    form = inputs.config.dense.format
    return {**token_recipe(inputs), **({"format": form} if form != "fp16" else {})}


def _arrays(inputs: RecipeInputs) -> tuple[ArraySpec, ...]:
    height, columns = inputs.traits.grid
    form, width = inputs.config.dense.format, inputs.traits.width
    return dense_specs(form, width=width, grid=(height, columns))


def _settings(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Without size and path as they were asked for: the store's identity has these."""
    return {"dense": {"format": stored_format(recipe), **token_settings(recipe)}}


def _make(shard: ShardInputs) -> Made:
    config, advance = shard.config, shard.clock.advance
    if DENSE not in shard.manifest.arrays:
        advance(len(shard.fresh))
        return Made({})
    basis = shard.stored_once("pca_basis", "pca_mean")
    with shard.clock.phase("preprocess"):
        arrays = dense_arrays(
            shard.teacher,
            shard.pictures,
            config.dense,
            basis=basis,
            batch=config.batch,
            advance=advance,
        )
    return Made(arrays)


DENSE_TOKENS = ArtifactKind(
    name=DENSE,
    depends=("index", BASIS),
    recipe=_recipe,
    arrays=_arrays,
    settings=_settings,
    make=_make,
)
