"""What `auto` comes to: in an existing store what it was begun with, in a new one what is here.

One store has one precision and one k-means library, on whatever machines it is continued. torch is
loaded for a new store only: one that is finished is recognised without it.
"""

from collections.abc import Callable

from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.manifest import read_manifest
from zsseg.stages.errors import CacheError
from zsseg.stages.precompute.plan.recipes import recipe_precision
from zsseg.stages.precompute.precompute_config import PrecomputeConfig


def resolve_auto(
    config: PrecomputeConfig,
    path: StorePath,
    *,
    look: Callable[[PrecomputeConfig], dict[str, str]],
) -> PrecomputeConfig:
    """The settings of the store at `path`, with no `auto` in what changes its bytes.

    `look` asks the place that computes a new store what it has (`questions.found_where_asked`).
    What is asked for stays, even where the store has another: opening it then says what differs.
    Raises ResourceError for a new store when a GPU or cuML is asked for and not there.
    """
    settled = _stored(path) or look(config)
    if config.precision != "auto":
        settled = settled | {"precision": config.precision}
    if config.regions.backend != "auto":
        settled = settled | {"backend": config.regions.backend}
    regions = config.regions.model_copy(update={"backend": settled["backend"]})
    return config.model_copy(update={"precision": settled["precision"], "regions": regions})


def require_gpu() -> None:
    """Raise ResourceError when torch can use no GPU: before any work, where one is asked for."""
    from zsseg.stages.device import choose_device

    choose_device("cuda")


def _stored(path: StorePath) -> dict[str, str] | None:
    """What an existing store was begun with; None when there is none that can tell."""
    try:
        recipes = {each.name: each.recipe for each in read_manifest(path).artifacts}
        library = "cuml" if recipes["regions"]["backend"] == "cuml" else "sklearn"
        return {"precision": recipe_precision(recipes["cls"]), "backend": library}
    except (CacheError, KeyError):
        return None
