"""Finds the store, the data set's description and its folder that a command's options mean."""

import json
from pathlib import Path

from zsseg.stages.cache.catalogue import choose_store
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.errors import DatasetError


def training_store(cache: StorePath) -> StorePath:
    """The store to train from: the path itself, else the only one of split `train` there.

    Another split is never taken unasked: who trains on `val` by mistake evaluates on it too.
    """
    return choose_store(cache, split="train")


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
