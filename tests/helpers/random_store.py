"""A small store of random tokens for the `folder` data set of conftest, made without a teacher."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.cache.disk.hashing import hash_file
from zsseg.stages.cache.reader import Store
from zsseg.stages.cache.writer import ArraySpec, Artifact, Writer
from zsseg.stages.data.geometry import WHOLE
from zsseg.stages.data.spec import load_spec
from zsseg.stages.data.splits import training_samples

WIDTH = 22
GRID = (6, 8)
"""Token grid: 8 x 8 pixels of the 48 x 64 images per token."""
MAP_GRID = (11, 17)
"""Of the map of names: no whole number of pixels per cell."""
MASKS = (0, 1, 2, 1001, 1002, 1003, -1)
"""Masks of every image: its visible classes, its latent regions, and an empty slot."""


def _views(count: int, number: int) -> NDArray[np.float32]:
    """(N, 1 + number, 6) the whole image, and boxes of a quarter to a half of each side."""
    rng = np.random.default_rng(0)
    view_NV6 = np.tile(WHOLE.as_row(), (count, 1 + number, 1))
    view_NV6[:, 1:, :2] = rng.uniform(0, 0.5, (count, number, 2))
    view_NV6[:, 1:, 2:4] = rng.uniform(0.25, 0.5, (count, number, 2))
    view_NV6[:, 1:, 4] = np.arange(number) % 2
    return view_NV6


def write_store(
    path: Path,
    description: Path,
    *,
    failed: tuple[int, ...] = (),
    dense: bool = True,
    regions: bool = True,
    local: bool = True,
    views: int = 0,
    names: bool = False,
    seed: int = 0,
) -> Store:
    """A sealed store of the training images; rows in `failed` have status 1.

    `views`: recorded crops per image, off every grid, mirrored in turns. `names`: a map of names.
    """
    rng = np.random.default_rng(seed)
    spec, root = load_spec(str(description)), description.parent
    samples = training_samples(spec, root, "train")
    count, classes = len(samples), len(spec.classes)
    text_CD = rng.normal(size=(classes, WIDTH)).astype(np.float32)
    text_CD /= np.linalg.norm(text_CD, axis=1, keepdims=True)
    status_N = np.isin(np.arange(count), failed).astype(np.uint8)
    arrays: dict[str, NDArray[Any]] = {
        "size": np.tile(np.array([48, 64], np.int32), (count, 1)),
        "status": status_N,
        "views": _views(count, views),
        "cls": rng.normal(size=(count, 1 + views, WIDTH)).astype(np.float16),
        "dense": rng.normal(size=(count, WIDTH, *GRID)).astype(np.float16),
        "regions": rng.integers(0, 4, (count, *GRID)).astype(np.uint8),
        "local": rng.normal(size=(count, len(MASKS), WIDTH)).astype(np.float16),
        "local_ids": np.tile(np.array(MASKS, np.int16), (count, 1)),
    }

    maps = ("pixel_names", "unseen_names")
    for name in maps if names else ():
        arrays[name] = rng.integers(0, 256, (count, 4, *MAP_GRID)).astype(np.uint8)
        arrays[name][:, :2] %= classes

    def artifact(name: str, *names: str) -> Artifact:
        specs = (ArraySpec(n, arrays[n].shape[1:], str(arrays[n].dtype)) for n in names)
        return Artifact(name=name, recipe={"seed": seed}, arrays=tuple(specs))

    text = Artifact(
        name="text",
        recipe={"templates": "single", "seed": seed},
        arrays=(ArraySpec("text", text_CD.shape, "float32"),),
        per_row=False,
    )
    artifacts = [artifact("index", "size", "status"), artifact("cls", "views", "cls")]
    artifacts += [artifact("dense", "dense")] * dense + [artifact("regions", "regions")] * regions
    artifacts += [artifact("local", "local", "local_ids")] * local
    artifacts += [artifact("pixel_names", *maps)] if names else []
    identity = {
        "dataset": spec.name,
        "split": "train",
        "classes": spec.classes,
        "unseen": spec.unseen,
    }
    index = [
        {
            "id": sample.id,
            "image": sample.image.relative_to(root).as_posix(),
            "label": sample.label and sample.label.relative_to(root).as_posix(),
        }
        for sample in samples
    ]
    with Writer.open(
        path,
        identity=identity,
        artifacts=[*artifacts, text],
        index=index,
        shard_rows=4,
        info={"teacher": "local-dir:nowhere"},
    ) as writer:
        writer.write("text", 0, {"text": text_CD})
        for made in artifacts:
            for shard in writer.missing()[made.name]:
                rows = writer.rows_of(shard)
                part = {
                    each.name: arrays[each.name][rows.start : rows.stop] for each in made.arrays
                }
                hashes = [hash_file(samples[row].image) for row in rows]
                notes = {"images": hashes} if made.name == "index" else {}
                writer.write(made.name, shard, part, notes=notes)
        writer.seal()
    return Store.open(path)
