"""The formats of stored dense tokens: which arrays each has, encoding and decoding.

format   arrays                                    a token of D numbers is
fp16     dense (D, h, w) float16                   itself, in half precision
int8     dense (D, h, w) int8, dense_scale (h, w)  scale * int8, with scale = max|x| / 127
pca:d    dense (d, h, w) float16; pca_basis (d, D) basis^T x coefficients + mean
         and pca_mean (D,) float32, of the store
none     -                                         not stored

`Store` and `Writer` decode `dense` to tokens, whatever the format.
Legend: N images, D CLIP width, d components, h w token grid.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.cache.format.manifest import ArraySpec

DENSE = "dense"
"""Name of the artifact, and of its first array."""

BASIS = "pca"
"""Name of the artifact that holds the basis of format pca:d, one per store."""

NOT_KEPT = (
    "keeps no dense tokens (dense.format none). Run the `zsseg precompute` command that made it "
    "again, with --update and --set dense.format=fp16, int8 or pca:128 in place of none"
)
"""The message for a store without dense tokens, to follow its path."""

_LEVELS = np.float32(127)  # without -128, so that -x is stored as the negative of x


def stored_format(recipe: Mapping[str, Any]) -> str:
    """Format of the dense tokens that a recipe describes."""
    return str(recipe.get("format", "fp16"))


def components(form: str) -> int | None:
    """The number d of format pca:d; None of another format."""
    return int(form.removeprefix("pca:")) if form.startswith("pca:") else None


def basis_specs(number: int, width: int) -> tuple[ArraySpec, ...]:
    """The arrays of a basis of `number` components."""
    return (
        ArraySpec("pca_basis", (number, width), "float32"),
        ArraySpec("pca_mean", (width,), "float32"),
    )


def dense_specs(form: str, *, width: int, grid: tuple[int, int]) -> tuple[ArraySpec, ...]:
    """The arrays of a format, for tokens of `width` numbers on a grid (h, w)."""
    if form == "none":
        return ()
    if form == "int8":
        return (
            ArraySpec(DENSE, (width, *grid), "int8"),
            ArraySpec("dense_scale", grid, "float32"),
        )
    if (number := components(form)) is not None:
        return (ArraySpec(DENSE, (number, *grid), "float16"),)
    assert form == "fp16", form
    return (ArraySpec(DENSE, (width, *grid), "float16"),)


def encode(
    form: str, token_NDhw: NDArray[np.float32], basis: Mapping[str, NDArray[np.float32]]
) -> dict[str, NDArray[Any]]:
    """The arrays of a format that hold these tokens (N, D, h, w).

    `basis`: the arrays of artifact `pca`, for format pca:d. Values that are not finite, or too
    large for the format, are not finite in the arrays either: writing a shard refuses them.
    """
    if form == "int8":
        return _to_int8(token_NDhw)
    if components(form) is not None:
        number, width, *grid = token_NDhw.shape
        centred_NDT = token_NDhw.reshape(number, width, -1) - basis["pca_mean"][:, None]
        return {DENSE: half((basis["pca_basis"] @ centred_NDT).reshape(number, -1, *grid))}
    assert form == "fp16", form
    return {DENSE: half(token_NDhw)}


def decode(recipe: Mapping[str, Any], fetch: Callable[[str], NDArray[Any]]) -> NDArray[Any]:
    """Tokens (..., D, h, w), with any leading axes; `fetch` returns an array of the format by name.

    float16 from format fp16, else float32.
    """
    form = stored_format(recipe)
    if form == "int8":
        return np.asarray(fetch(DENSE) * fetch("dense_scale")[..., None, :, :])
    if components(form) is not None:
        coefficient_dhw = fetch(DENSE).astype(np.float32)
        *leading, _, height, columns = coefficient_dhw.shape
        coefficient_dT = coefficient_dhw.reshape(*coefficient_dhw.shape[:-2], height * columns)
        token_DT = fetch("pca_basis").T @ coefficient_dT + fetch("pca_mean")[:, None]
        return np.asarray(token_DT.reshape(*leading, -1, height, columns))
    return fetch(DENSE)


def half(tokens: NDArray[np.float32]) -> NDArray[np.float16]:
    """Tokens in half precision; values beyond its range become infinity."""
    with np.errstate(over="ignore"):
        return tokens.astype(np.float16)


def _to_int8(token_NDhw: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """One scale per token, which is NaN or infinity where a number of the token is."""
    scale_N1hw = np.abs(token_NDhw).max(axis=1, keepdims=True) / _LEVELS
    level_NDhw = np.zeros_like(token_NDhw)
    usable_N1hw = np.isfinite(scale_N1hw) & (scale_N1hw > 0)
    np.divide(token_NDhw, scale_N1hw, out=level_NDhw, where=usable_N1hw)
    # A scale near the limits of float32 is coarse, so that the largest number may exceed 127.
    np.clip(np.rint(level_NDhw, out=level_NDhw), -_LEVELS, _LEVELS, out=level_NDhw)
    return {DENSE: level_NDhw.astype(np.int8), "dense_scale": scale_N1hw[:, 0]}
