"""What reading the cache costs the loader, beside images and labels: `python -m benchmarks.loader`.

Crops of 512 x 512 of drawn photographs, and a store as of ViT-B/16 (`drawn.py`). Both loaders have
the same loader processes, whose start counts too; each round reads every image several times.

Both are bound by the processor, so the processor time of all processes is compared too: what else
the machine does meanwhile changes the one that waits, not the other.

Rows of a store on a disk are read without zarr (`stages/cache/format/stored_rows.py`): `row_ratios`
says what that buys.
"""

import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from benchmarks.drawn import write_data, write_store
from benchmarks.ratio import ROUNDS, Ratio, timed_in_turn
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.train.batches.loader import make_loader
from zsseg.stages.train.batches.training_data import TrainingData
from zsseg.stages.train.run_config import RunConfig

IMAGES, CROPS, BATCH, WORKERS = 64, 512, 8, 2
CLASSES = 20

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
    "labels of the teacher (map of names)": {
        "self_training": {"method": "st", "source": "teacher", "start": 0.0},
    },
    "best (CLS, regions, local, map of names)": {
        "objectives": {"sdd": 0.5, "local_distillation": 0.5},
        "self_training": {"method": "st", "source": "teacher", "start": 0.0},
    },
    "dense distillation (dense)": {"objectives": {"dense": 1.0}},
}


def cached_over_plain(
    name: str, store: Store, spec: DatasetSpec, root: Path
) -> tuple[Ratio, Ratio]:
    """Time to load crops with what an objective needs of the cache / images and labels only.

    By the clock, and in processor seconds of the loader's processes and this one.
    """
    spent: dict[bool, list[float]] = {True: [], False: []}

    def load(sections: dict[str, Any]) -> None:
        before = sum(os.times()[:4])
        train = {"batch": BATCH, "steps": CROPS // BATCH, "workers": WORKERS, "device": "cpu"}
        config = RunConfig.model_validate({"train": train, **sections})
        assert (
            sum(len(batch.row_B) for batch in make_loader(TrainingData(store, spec, root), config))
            == CROPS
        )
        spent[sections is PLAIN].append(sum(os.times()[:4]) - before)

    what = f"loading for {name} / images and labels only, {CROPS} crops"
    clock = timed_in_turn(
        f"{what}, {WORKERS} loader processes",
        lambda: load(CACHED[name]),
        lambda: load(PLAIN),
        target="at most 1.05",
    )
    # The first round warms up.
    return clock, Ratio(f"{what}, processor time", tuple(spent[False][1:]), tuple(spent[True][1:]))


def loader_ratios() -> list[Ratio]:
    """Every objective of CACHED, each beside a loader of images and labels."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        spec = write_data(root, images=IMAGES, classes=CLASSES)
        store = write_store(Path(folder) / "store", spec, root)
        return [ratio for name in CACHED for ratio in cached_over_plain(name, store, spec, root)]


def row_ratios() -> list[Ratio]:
    """Time to read rows in any order through zarr / by `stored_rows`, for each array of a store."""
    rows = [int(row) for row in np.random.default_rng(0).permutation(IMAGES)]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        spec = write_data(root, images=IMAGES, classes=CLASSES)
        store = write_store(Path(folder) / "store", spec, root)

        names = ("cls", "regions", "local", "dense")
        arrays = {name: zarr.open_array(store.path / name, mode="r") for name in names}

        def through_zarr(name: str) -> None:
            for row in rows:
                np.asarray(arrays[name][row])

        def without(name: str) -> None:
            for row in rows:
                store.read(name, row)

        return [
            timed_in_turn(
                f"rows of {name} through zarr / without it, {IMAGES} rows",
                partial(through_zarr, name),
                partial(without, name),
                target="above 1",
            )
            for name in names
        ]


def main() -> None:
    """Print every ratio."""
    sys.stdout.write(
        f"{os.cpu_count()} cores, torch {torch.__version__}, median of {ROUNDS} rounds\n"
    )
    for ratio in [*loader_ratios(), *row_ratios()]:
        sys.stdout.write(f"{ratio}\n")


if __name__ == "__main__":
    main()
