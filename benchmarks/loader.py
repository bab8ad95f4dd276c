"""What reading the cache costs the loader, beside images and labels: `python -m benchmarks.loader`.

Photographs of 500 x 375 pixels (JPEG, drawn) with labels (PNG), crops of 512 x 512, and a store as
of ViT-B/16 at 512 x 512: 32 x 32 dense tokens of 512 numbers in half precision, regions, CLS and 16
local tokens per image. Both loaders have the same loader processes; each round reads every image.

Both are bound by the processor, so the processor time of all processes is compared too: what else
the machine does meanwhile changes the one that waits, not the other.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.ratio import ROUNDS, Ratio, timed_in_turn
from stages.cache.reader import Store
from stages.cache.store import ArraySpec, Artifact, Writer
from stages.data.geometry import WHOLE
from stages.data.samples import list_samples
from stages.data.spec import DatasetSpec, load_spec
from stages.train.config import RunConfig
from stages.train.loader import make_loader

IMAGES, BATCH, WORKERS = 64, 8, 2
CLASSES, WIDTH, GRID, MASKS = 20, 512, (32, 32), 16

PLAIN: dict[str, Any] = {}
CACHED: dict[str, dict[str, Any]] = {
    "SDD + RST (CLS, regions)": {
        "objectives": {"sdd": 1.0},
        "self_training": {"method": "rst", "start": 0.0},
    },
    "CLIP-to-Seg (CLS, regions, local)": {
        "objectives": {"global_distillation": 1.0, "local_distillation": 1.0},
        "latent": {"enabled": True},
    },
    "dense distillation (dense)": {"objectives": {"dense": 1.0}},
}


def write_data(folder: Path) -> tuple[DatasetSpec, Path]:
    """A data set of the `folder` layout: smooth shapes with the grain of a photograph."""
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind / "train").mkdir(parents=True)
    for number in range(IMAGES):
        class_hw = rng.integers(0, CLASSES, (6, 8), dtype=np.uint8)
        label_HW = np.asarray(
            Image.fromarray(class_hw).resize((500, 375), Image.Resampling.NEAREST)
        )
        colour_C3 = rng.integers(0, 256, (CLASSES, 3))
        image_HW3 = colour_C3[label_HW] + rng.normal(0, 12, (375, 500, 3))
        image = Image.fromarray(np.clip(image_HW3, 0, 255).astype(np.uint8))
        image.save(folder / "images" / "train" / f"{number:03d}.jpg", quality=90)
        Image.fromarray(label_HW).save(folder / "labels" / "train" / f"{number:03d}.png")
    names = ", ".join(f"class{number}" for number in range(CLASSES))
    description = folder / "data.yaml"
    description.write_text(
        f"name: drawn\nlayout: folder\nclasses: [{names}]\nunseen: [class{CLASSES - 1}]\n"
        'ignore: [255]\npatterns: {images: "images/{split}", labels: "labels/{split}"}\n'
    )
    return load_spec(str(description)), folder


def write_store(path: Path, spec: DatasetSpec, root: Path) -> Store:
    """A store of random tokens with the shapes of ViT-B/16's at 512 x 512 pixels."""
    rng = np.random.default_rng(0)
    arrays: dict[str, dict[str, NDArray[Any]]] = {
        "index": {
            "size": np.tile(np.array([375, 500], np.int32), (IMAGES, 1)),
            "status": np.zeros(IMAGES, np.uint8),
        },
        "cls": {
            "views": np.tile(WHOLE.as_row(), (IMAGES, 1, 1)),
            "cls": rng.normal(size=(IMAGES, 1, WIDTH)).astype(np.float16),
        },
        "dense": {"dense": rng.normal(size=(IMAGES, WIDTH, *GRID)).astype(np.float16)},
        "regions": {"regions": rng.integers(0, 12, (IMAGES, *GRID)).astype(np.uint8)},
        "local": {
            "local": rng.normal(size=(IMAGES, MASKS, WIDTH)).astype(np.float16),
            "local_ids": np.tile(np.arange(MASKS, dtype=np.int16), (IMAGES, 1)),
        },
        "text": {"text": np.eye(CLASSES, WIDTH, dtype=np.float32)},
    }

    def artifact(name: str) -> Artifact:
        per_row = name != "text"
        specs = tuple(
            ArraySpec(
                array,
                values.shape[1:] if per_row else values.shape,
                str(values.dtype),
                compressed=name == "regions",
            )
            for array, values in arrays[name].items()
        )
        recipe = {"templates": "single"} if name == "text" else {}
        return Artifact(name, recipe, specs, (), per_row)

    identity = {"dataset": spec.name, "split": "train", "classes": spec.classes}
    index = [
        {"id": each.id, "image": str(each.image.relative_to(root)), "label": str(each.label)}
        for each in list_samples(spec, root, "train")
    ]
    artifacts = {name: artifact(name) for name in arrays}
    with Writer.open(
        path,
        identity=identity | {"unseen": spec.unseen},
        artifacts=list(artifacts.values()),
        index=index,
        shard_rows=IMAGES,
        info={"teacher": "random", "spec": spec.model_dump(mode="json")},
    ) as writer:
        for name, values in arrays.items():
            writer.write(name, 0, values)
        writer.seal()
    return Store.open(path)


def cached_over_plain(
    name: str, store: Store, spec: DatasetSpec, root: Path
) -> tuple[Ratio, Ratio]:
    """Time to load crops with what an objective needs of the cache / images and labels only.

    By the clock, and in processor seconds of the loader's processes and this one.
    """
    spent: dict[bool, list[float]] = {True: [], False: []}

    def load(sections: dict[str, Any]) -> None:
        before = sum(os.times()[:4])
        train = {"batch": BATCH, "steps": IMAGES // BATCH, "workers": WORKERS, "device": "cpu"}
        config = RunConfig.model_validate({"train": train, **sections})
        assert sum(len(batch.row_B) for batch in make_loader(store, spec, root, config)) == IMAGES
        spent[sections is PLAIN].append(sum(os.times()[:4]) - before)

    what = f"loading for {name} / images and labels only, {IMAGES} crops"
    clock = timed_in_turn(
        f"{what}, {WORKERS} loader processes", lambda: load(CACHED[name]), lambda: load(PLAIN)
    )
    # The first round warms up.
    return clock, Ratio(f"{what}, processor time", tuple(spent[False][1:]), tuple(spent[True][1:]))


def loader_ratios() -> list[Ratio]:
    """Every objective of CACHED, each beside a loader of images and labels."""
    with tempfile.TemporaryDirectory() as folder:
        spec, root = write_data(Path(folder) / "data")
        store = write_store(Path(folder) / "store", spec, root)
        return [ratio for name in CACHED for ratio in cached_over_plain(name, store, spec, root)]


def main() -> None:
    """Print every ratio."""
    sys.stdout.write(
        f"{os.cpu_count()} cores, torch {torch.__version__}, median of {ROUNDS} rounds\n"
    )
    for ratio in loader_ratios():
        sys.stdout.write(f"{ratio}\n")


if __name__ == "__main__":
    main()
