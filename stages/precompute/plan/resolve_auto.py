"""The values of settings that are `auto`: those of an existing store, else what the machine has.

A store has one precision, one way to resize and one k-means library, on whatever machines it is
continued. torch is loaded for a new store only; a finished one is recognised without it.
"""

from collections.abc import Callable

from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.manifest import read_manifest
from zsseg.stages.errors import CacheError
from zsseg.stages.precompute.make.artifact_kind import recipe_precision, recipe_resize
from zsseg.stages.precompute.make.regions_artifact import recipe_backend
from zsseg.stages.precompute.precompute_config import PrecomputeConfig


def resolve_auto(
    config: PrecomputeConfig,
    path: StorePath,
    *,
    look: Callable[[PrecomputeConfig], dict[str, str]],
) -> PrecomputeConfig:
    """The settings of the store at `path`, with no `auto` in what changes its bytes.

    `look` asks the machine that computes a new store what it has (`questions.auto_values`).
    A setting that is not `auto` stays as it is, even where the store has another value: opening it
    says then what differs.
    Raises ResourceError for a new store when a GPU or cuML is asked for and not there.
    """
    values = _stored(path) or look(config)
    if config.precision != "auto":
        values = values | {"precision": config.precision}
    if config.resize != "auto":
        values = values | {"resize": config.resize}
    if config.regions.backend != "auto":
        values = values | {"backend": config.regions.backend}
    regions = config.regions.model_copy(update={"backend": values.pop("backend")})
    return config.model_copy(update={**values, "regions": regions})


def require_gpu() -> None:
    """Raise ResourceError when torch can use no GPU."""
    from zsseg.stages.device import choose_device

    choose_device("cuda")


def _stored(path: StorePath) -> dict[str, str] | None:
    """The values of an existing store; None when there is none, or it cannot be read."""
    try:
        recipes = {each.name: each.recipe for each in read_manifest(path).artifacts}
        return {
            "precision": recipe_precision(recipes["cls"]),
            "resize": recipe_resize(recipes["cls"]),
            "backend": recipe_backend(recipes["regions"]),
        }
    except (CacheError, KeyError):
        return None
