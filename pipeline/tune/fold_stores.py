"""The store of a fold: what labels do not change is copied, regions and their crops are made again.

The teacher is loaded for it and encodes the crops of regions that are new; where nothing that is
tried looks at local tokens, none are made, and no image passes the teacher.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zsseg.pipeline import console
from zsseg.pipeline.tables import precompute_words
from zsseg.pipeline.tune.folds import Fold
from zsseg.stages.cache.format.codec import stored_format
from zsseg.stages.cache.reader import Store
from zsseg.stages.precompute.plan.stored_settings import find_origin, recall_settings
from zsseg.stages.precompute.progress import Progress
from zsseg.stages.precompute.run import precompute

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoreOrigin:
    """What the stores of folds are made from."""

    store: Store
    root: Path
    teacher: str | None
    """Where the teacher is now; None: where it was."""
    folder: Path
    """Where they are put."""
    local: bool
    """Are local tokens needed?"""


def fold_stores(origin: StoreOrigin, folds: Sequence[Fold], *, quiet: bool) -> dict[str, Store]:
    """The finished stores of all folds, by the fold's key."""
    stores = {}
    for number, fold in enumerate(folds, start=1):
        title = f"store of fold {number} of {len(folds)}"
        with console.progress(title, quiet=quiet) as advance:

            def show(now: Progress, advance: console.Advance = advance) -> None:
                advance(now.done, now.total, precompute_words(now))

            stores[fold.key] = fold_store(origin, fold, show)
    return stores


def fold_store(origin: StoreOrigin, fold: Fold, progress: Callable[[Progress], None]) -> Store:
    """The finished store of a fold's training images; made, or gone on with, where it is not.

    Raises what `precompute` raises, and CacheError when teacher or data set are not found.
    """
    store = origin.store
    settings = recall_settings(store.path, store.manifest)
    root, files = find_origin(
        store.path, settings, store.manifest, root=origin.root, teacher=origin.teacher
    )
    local = settings.config.local
    config = settings.config.model_copy(
        update={
            "device": "auto",
            "local": local.model_copy(update={"enabled": local.enabled and origin.local}),
        }
    )
    if stored_format(store.recipes.get("dense", {})) == "none":
        _log.warning("%s keeps no dense tokens: each fold makes them again", store.path)
    request = settings.request(
        root=root,
        teacher=files.spec,
        typed=origin.teacher is not None,
        cache=origin.folder,
    )
    made = precompute(
        replace(
            request,
            spec=fold.spec,
            limit=fold.held_out.trained,
            config=config,
            copy_from=store.path,
        ),
        update=True,
        progress=progress,
    )
    return Store.open(made.path)
