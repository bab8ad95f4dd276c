"""Artifact `pca`: the basis that dense.format=pca:d keeps dense tokens in, once per store.

Legend: D CLIP width, d components.
"""

from typing import TYPE_CHECKING, Any

from zsseg.stages.cache.format.codec import BASIS, basis_specs, components
from zsseg.stages.cache.format.manifest import ArraySpec, Manifest
from zsseg.stages.errors import UserError
from zsseg.stages.precompute.make.artifact_kind import (
    Arrays,
    ArtifactKind,
    RecipeInputs,
    StoreInputs,
    no_settings,
)
from zsseg.stages.precompute.make.dense_artifact import token_recipe
from zsseg.stages.precompute.make.pca_basis import fit_basis, sampled_tokens
from zsseg.stages.precompute.precompute_config import BASIS_IMAGES, PrecomputeConfig

if TYPE_CHECKING:
    from zsseg.stages.precompute.teacher.teacher_protocol import Teacher


def _number(config: PrecomputeConfig) -> int:
    number = components(config.dense.format)
    assert number is not None
    return number


def _in_store(config: PrecomputeConfig) -> bool:
    return components(config.dense.format) is not None


def _recipe(inputs: RecipeInputs) -> dict[str, Any]:
    return {**token_recipe(inputs), "images": BASIS_IMAGES}


def _arrays(inputs: RecipeInputs) -> tuple[ArraySpec, ...]:
    """Raises UserError for more principal components than tokens have numbers."""
    number, width = _number(inputs.config), inputs.traits.width
    if number > width:
        raise UserError(
            f"dense.format={inputs.config.dense.format}: the tokens of {inputs.files.spec} have "
            f"{width} numbers. Use at most pca:{width}, or another format"
        )
    return basis_specs(number, width)


def _make(teacher: "Teacher", inputs: StoreInputs) -> Arrays:
    """The basis (d, D) and the tokens' mean (D,)."""
    config = inputs.config.dense
    tokens = sampled_tokens(
        inputs.spec, inputs.root, inputs.samples, teacher=teacher, config=config
    )
    basis_dD, mean_D = fit_basis(tokens, _number(inputs.config))
    return {"pca_basis": basis_dD, "pca_mean": mean_D}


def _images(manifest: Manifest) -> int:
    return min(manifest.rows, BASIS_IMAGES)


PCA_BASIS = ArtifactKind(
    name=BASIS,
    recipe=_recipe,
    arrays=_arrays,
    settings=no_settings,
    in_store=_in_store,
    make_once=_make,
    steps=_images,
)
