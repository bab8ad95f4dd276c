"""Checks that a store holds what a run needs, and that its data set is still there."""

import logging
from pathlib import Path

import numpy as np

from zsseg.stages.cache.format.codec import DENSE, NOT_KEPT, stored_format
from zsseg.stages.cache.format.manifest import VISIBLE_PIXELS
from zsseg.stages.cache.format.recipe import differing_fields
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.label_warning import visible_warning
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import VOID, DatasetSpec
from zsseg.stages.data.splits import training_samples
from zsseg.stages.data.visible import count_visible
from zsseg.stages.errors import CacheError, DatasetError, UserError
from zsseg.stages.train.run_config import RunConfig

_log = logging.getLogger(__name__)


def check_store(store: Store, spec: DatasetSpec, config: RunConfig) -> None:
    """Raise CacheError when the store is of another data set, or lacks what the run needs.

    Raises UserError for more masks and classes than a label can hold.
    """
    stored = {name: store.identity[name] for name in ("dataset", "classes", "unseen")}
    asked = {"dataset": spec.name, "classes": spec.classes, "unseen": spec.unseen}
    if changed := differing_fields(stored, asked):
        raise CacheError(
            f"{store.path}: was made for other classes than those asked for:",
            *map("  {}".format, changed),
            "Make a store for these with `zsseg precompute`, or give the data set of this one",
        )
    pooled = config.objectives.token == "pooled"
    needs = {
        "text": True,
        "regions": config.uses_regions,
        "local": config.uses_local,
        "cls": config.uses_token and not pooled,
        "dense": (config.uses_token and pooled) or reads_dense(store, config),
    }
    if lacking := [name for name, needed in needs.items() if needed and not store.has(name)]:
        if lacking == [DENSE] and stored_format(store.recipes.get(DENSE, {})) == "none":
            raise CacheError(f"{store.path}: this experiment needs dense, and the store {NOT_KEPT}")
        if lacking == ["local"]:
            raise CacheError(
                f"{store.path}: was made without local tokens, which this experiment needs. Add "
                "them with --update and --set local.enabled=true to the `zsseg precompute` command "
                "of this store (its README.md has it)"
            )
        raise CacheError(
            f"{store.path}: holds no {', '.join(lacking)}, which this experiment needs. Make a "
            "complete store with `zsseg precompute`"
        )
    if config.augmentation.views == "recorded" and not recorded_views(store):
        raise CacheError(
            f"{store.path}: keeps no recorded views, which augmentation.views=recorded needs. Add "
            "them with --update --views 8 to the `zsseg precompute` command of this store (its "
            "README.md has it), or use --set augmentation.views=random"
        )
    if config.latent.enabled:
        _, spec_of_ids = store.manifest.arrays["local_ids"]
        if (classes := len(spec.classes) + spec_of_ids.shape[0]) > VOID:
            raise UserError(
                f"latent.enabled: {len(spec.classes)} classes and {spec_of_ids.shape[0]} masks per "
                f"image are {classes}, and labels hold {VOID}. Make the store with a smaller "
                "local.max_masks"
            )


def name_map(store: Store, config: RunConfig) -> str | None:
    """The array that is the store's map of names of unseen classes, if the run asks for names.

    None where it does not, or where the store has none: then dense tokens name pixels. Nor where no
    class is unseen: the map of all classes would name seen ones.
    """
    if not config.asks_teacher or not store.identity["unseen"]:
        return None
    # Where all classes are unseen, their map is that of all classes.
    return next((name for name in ("unseen_names", "pixel_names") if store.has(name)), None)


def reads_dense(store: Store, config: RunConfig) -> bool:
    """Are the store's dense tokens looked at one by one: distilled, or to name pixels?"""
    names = config.asks_teacher and name_map(store, config) is None
    return config.objectives.need("dense") or names


def warn_of_labels(store: Store, spec: DatasetSpec, root: Path) -> None:
    """Say which seen classes no label of the store's images shows.

    A store of an earlier version may not know: then labels are looked at.
    """
    if all(entry["label"] is None for entry in store.index):
        return
    visible = store.last(VISIBLE_PIXELS)
    if visible is None:
        samples = stored_samples(store, spec, root)
        usable = np.flatnonzero(store.read_all("status") == 0)
        visible = count_visible(spec, [samples[row] for row in usable])
    if told := visible_warning(spec, str(store.identity["split"]), visible):
        _log.warning("%s", told)


def recorded_views(store: Store) -> int:
    """How many crops with a CLS token each the store keeps of an image; 0: the whole image only."""
    if not store.has("views"):
        return 0
    _, spec_of_views = store.manifest.arrays["views"]
    return spec_of_views.shape[0] - 1


def stored_samples(store: Store, spec: DatasetSpec, root: Path) -> list[Sample]:
    """The data set's samples in the order of the store's rows.

    Raises DatasetError when an image of the store, or the label of one, is no longer there.
    """
    split = str(store.identity["split"])
    samples = {sample.id: sample for sample in training_samples(spec, root, split)}
    ids = [str(entry["id"]) for entry in store.index]
    if gone := [id_ for id_ in ids if id_ not in samples]:
        raise DatasetError(
            f"{root}: {len(gone)} of the {len(ids)} images in {store.path} are not there, such as "
            f"'{gone[0]}'. Give the data set that the store was made from with --root, or make a "
            "store of this one with `zsseg precompute`"
        )
    had_label = [str(entry["id"]) for entry in store.index if entry["label"] is not None]
    if gone := [id_ for id_ in had_label if samples[id_].label is None]:
        raise DatasetError(
            f"{root}: the labels of {len(gone)} of the {len(had_label)} labelled images in "
            f"{store.path} are not there, such as that of '{gone[0]}'. Put them back, or make a "
            "store of the data set as it is now with `zsseg precompute`"
        )
    return [samples[id_] for id_ in ids]
