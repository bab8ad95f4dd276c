"""Data drawn for the benchmarks: photographs with labels, and a store as of ViT-B/16.

Photographs of 500 x 375 pixels (JPEG) with labels (PNG); of each image 32 x 32 dense tokens of 512
numbers in half precision, regions, CLS and 16 local tokens.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsseg.stages.cache.reader import Store
from zsseg.stages.cache.writer import ArraySpec, Artifact, Writer
from zsseg.stages.data.geometry import WHOLE
from zsseg.stages.data.spec import DatasetSpec, load_spec
from zsseg.stages.data.splits import list_samples

WIDTH, GRID, MASKS = 512, (32, 32), 16


def write_data(folder: Path, *, images: int, classes: int) -> DatasetSpec:
    """A data set of the `folder` layout: smooth shapes with the grain of a photograph.

    A tenth of the classes, the last ones, is unseen.
    """
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind / "train").mkdir(parents=True)
    for number in range(images):
        class_hw = rng.integers(0, classes, (6, 8), dtype=np.uint8)
        label_HW = np.asarray(
            Image.fromarray(class_hw).resize((500, 375), Image.Resampling.NEAREST)
        )
        colour_C3 = rng.integers(0, 256, (classes, 3))
        image_HW3 = colour_C3[label_HW] + rng.normal(0, 12, (375, 500, 3))
        image = Image.fromarray(np.clip(image_HW3, 0, 255).astype(np.uint8))
        image.save(folder / "images" / "train" / f"{number:03d}.jpg", quality=90)
        Image.fromarray(label_HW).save(folder / "labels" / "train" / f"{number:03d}.png")
    names = [f"class{number}" for number in range(classes)]
    description = folder / "data.yaml"
    description.write_text(
        f"name: drawn\nlayout: folder\nclasses: [{', '.join(names)}]\n"
        f"unseen: [{', '.join(names[-(classes // 10) :])}]\n"
        'ignore: [255]\npatterns: {images: "images/{split}", labels: "labels/{split}"}\n'
    )
    return load_spec(str(description))


def _name_maps(images: int, ids: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.uint8]:
    """(N, 4, 128, 128) parts of one class, and scores that no compression makes smaller."""
    part_N2yx = rng.choice(ids, (images, 2, 16, 16)).repeat(8, axis=2).repeat(8, axis=3)
    code_N2yx = rng.integers(1, 256, part_N2yx.shape)
    return np.concatenate([part_N2yx, code_N2yx], axis=1).astype(np.uint8)


def write_store(path: Path, spec: DatasetSpec, root: Path) -> Store:
    """A store of random tokens with the shapes of ViT-B/16's at 512 x 512 pixels."""
    rng, samples = np.random.default_rng(0), list_samples(spec, root, "train")
    images = len(samples)
    arrays: dict[str, dict[str, NDArray[Any]]] = {
        "index": {
            "size": np.tile(np.array([375, 500], np.int32), (images, 1)),
            "status": np.zeros(images, np.uint8),
        },
        "cls": {
            "views": np.tile(WHOLE.as_row(), (images, 1, 1)),
            "cls": rng.normal(size=(images, 1, WIDTH)).astype(np.float16),
        },
        "dense": {"dense": rng.normal(size=(images, WIDTH, *GRID)).astype(np.float16)},
        "regions": {"regions": rng.integers(0, 12, (images, *GRID)).astype(np.uint8)},
        "local": {
            "local": rng.normal(size=(images, MASKS, WIDTH)).astype(np.float16),
            "local_ids": np.tile(np.arange(MASKS, dtype=np.int16), (images, 1)),
        },
        "pixel_names": {
            "unseen_names": _name_maps(images, spec.unseen_ids, rng),
        },
        "text": {"text": np.eye(len(spec.classes), WIDTH, dtype=np.float32)},
    }

    def artifact(name: str) -> Artifact:
        per_row = name != "text"
        specs = tuple(
            ArraySpec(
                array,
                values.shape[1:] if per_row else values.shape,
                str(values.dtype),
                compressed=name in ("regions", "pixel_names"),
            )
            for array, values in arrays[name].items()
        )
        recipe = {"templates": "single"} if name == "text" else {}
        return Artifact(name, recipe, specs, (), per_row)

    identity = {"dataset": spec.name, "split": "train", "classes": spec.classes}
    index = [
        {"id": each.id, "image": str(each.image.relative_to(root)), "label": str(each.label)}
        for each in samples
    ]
    artifacts = {name: artifact(name) for name in arrays}
    with Writer.open(
        path,
        identity=identity | {"unseen": spec.unseen},
        artifacts=list(artifacts.values()),
        index=index,
        shard_rows=images,
        info={"teacher": "random", "spec": spec.model_dump(mode="json")},
    ) as writer:
        for name, values in arrays.items():
            writer.write(name, 0, values)
        writer.seal()
    return Store.open(path)
