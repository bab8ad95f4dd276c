"""Stores that came about by changes, compared with ones made anew of the same files."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helpers.clip_store import CONFIG as MERGED
from helpers.clip_store import load_once
from helpers.clip_store import run as run_stage
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.images import read_image
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import load_spec
from zsseg.stages.data.visible import read_visible_label
from zsseg.stages.precompute.make.class_crops import class_crops
from zsseg.stages.precompute.precompute_config import PrecomputeConfig
from zsseg.stages.precompute.run import PrecomputeResult
from zsseg.stages.precompute.teacher.teacher_files import resolve_teacher

PER_ROW = ("index", "cls", "dense", "regions", "local")
# Of the two thresholds this one keeps regions apart that the other merges.
CONFIG = MERGED.model_copy(
    update={"regions": MERGED.regions.model_copy(update={"merge_threshold": 0.97})}
)
IN_ORDER = CONFIG.model_copy(update={"shards_at_once": 1})
Change = Callable[[Path], Mapping[str, Any]]
"""Changes a world; what to ask of the next run."""


def run(world: Path, clip: str, cache: Path, **more: Any) -> PrecomputeResult:
    return run_stage(world, clip, cache, **{"config": CONFIG} | more)


def few(config: PrecomputeConfig) -> PrecomputeConfig:
    return config.model_copy(update={"shard_images": 2})


def copy(made: tuple[Path, Path], folder: Path) -> tuple[Path, Path]:
    """The world and its store in `folder`, with the other images beside; files keep their dates."""
    world, store = made
    shutil.copytree(world.parent, folder / "world")
    shutil.copytree(world.parents[1] / "more", folder / "more")
    shutil.copytree(store, folder / "cache" / store.name)
    return folder / "world" / world.name, folder / "cache" / store.name


def equal(path: StorePath, other: StorePath) -> None:
    """Two stores hold the same, but for the last bit of what other batches give."""
    store, wanted = Store.open(path), Store.open(other)
    assert store.index == wanted.index
    for name in wanted.manifest.arrays:
        values, expected = store.read_all(name), wanted.read_all(name)
        if values.dtype == np.float16:
            np.testing.assert_allclose(values, expected, rtol=2**-10, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(values, expected, err_msg=name)
    for artifact in wanted.manifest.artifacts:
        for shard in wanted.manifest.shards(artifact):
            receipts = [each.receipt(artifact.name, shard) for each in (store, wanted)]
            for receipt in receipts:
                receipt.pop("files")
            assert receipts[0] == receipts[1], (artifact.name, shard)
    assert not (path / ".previous").exists()


def equal_to_anew(path: Path, world: Path, clip: str, **more: Any) -> None:
    anew = run(world, clip, path.parents[1] / "anew", **more)
    assert path.name == anew.path.name
    equal(path, anew.path)


def values(path: StorePath) -> dict[str, NDArray[Any]]:
    store = Store.open(path)
    return {name: store.read_all(name) for name in store.manifest.arrays}


def history(path: Path) -> Mapping[str, Any]:
    """The history's entry of the last run that computed anything."""
    return next(entry for entry in reversed(Store.open(path).history) if "forwards" in entry)


def crops_of(world: Path, path: Path, clip: str, config: PrecomputeConfig) -> list[list[bytes]]:
    """Pixels of each crop of each image as the teacher sees them, from the region maps stored."""
    spec, store = load_spec(str(world)), Store.open(path)
    teacher = load_once(resolve_teacher(clip), device="cpu")
    found = []
    for row, entry in enumerate(store.index):
        image, label = (world.parent / entry[kind] for kind in ("image", "label"))
        crops, _, _ = class_crops(
            read_image(image),
            read_visible_label(spec, Sample(entry["id"], image, label)),
            store.read("regions", row),
            margin=config.local.margin,
            max_masks=config.local.max_masks,
        )
        masked = (crop.masked(teacher.mean_colour) for crop in crops)
        found.append([teacher.fitted(crop, teacher.native_size).tobytes() for crop in masked])
    return found
