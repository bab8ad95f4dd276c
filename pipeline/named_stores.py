"""Finds the store, the data set's description and its folder that a command's options mean."""

import json
from pathlib import Path

from zsseg.stages.cache.catalogue import choose_store, locate_store
from zsseg.stages.cache.disk.store_path import StorePath, store_path
from zsseg.stages.cache.format.codec import DENSE
from zsseg.stages.cache.format.manifest import read_manifest
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.errors import CacheError, DatasetError, ResourceError


def training_store(cache: StorePath) -> StorePath:
    """The store to train from: the path itself, else the only one of split `train` there.

    Another split is never taken unasked: who trains on `val` by mistake evaluates on it too.
    """
    return choose_store(cache, split="train")


def teacher_store(training: str, split: str) -> Store | None:
    """The store of a split beside that of a training, alike but for the split.

    None where there is none, it is not finished, or it has nothing of the teacher to score.
    """
    try:
        path = store_path(training)
        manifest = read_manifest(path)
        beside = locate_store(
            path.parent,
            manifest.identity | {"split": split, "limit": None},
            dataset=str(manifest.identity["dataset"]),
            split=split,
            teacher=str(manifest.info["teacher"]),
        )
        store = Store.open(beside)
    except (CacheError, ResourceError, KeyError):
        return None
    return store if store.has(DENSE) or store.has("pixel_names") else None


def stored_spec(store: Store) -> DatasetSpec:
    """The data set's description as it was when the store was made."""
    return DatasetSpec.model_validate_json(json.dumps(store.info["spec"]))


def dataset_root(given: Path | None, store: Store) -> Path:
    """The folder of the data set: as given, else where it was when the store was written."""
    if given is not None:
        return given
    root = store.last("root")
    if root is None or not Path(root).is_dir():
        where = f"{root} is no longer there" if root else "it does not say where its images lie"
        raise DatasetError(f"{store.path}: {where}; give the data set's folder with --root")
    return Path(root)
