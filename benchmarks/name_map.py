"""What each setting of the map of names brings, on a store's own images, without unseen labels.

    python -m benchmarks.name_map data_cache/STORE [--root DIR] [--every 8] \\
        refinement=none iterations=10 "iterations=20 dilations=[1,2,4,8]"

One line per choice of settings (`pixel_names`, else their defaults): mean IoU of the seen classes,
where all classes compete and only visible labels count, and processor time per image. The maps are
made of the dense tokens that the store keeps; it need not have a map. First the tokens themselves.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from zsseg.pipeline.named_stores import dataset_root, stored_spec
from zsseg.pipeline.settings import apply_settings, build
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.images import read_image
from zsseg.stages.data.splits import list_samples
from zsseg.stages.data.visible import read_visible_label
from zsseg.stages.evaluate.labelling import upsampled_argmax
from zsseg.stages.evaluate.metrics import confusion, scores
from zsseg.stages.evaluate.teacher_evaluation import named_scores, teacher_label
from zsseg.stages.precompute.make.names_artifact import name_arrays, naming_of
from zsseg.stages.precompute.plan.stored_settings import stored_config
from zsseg.stages.precompute.precompute_config import PixelNamesConfig

Label = Callable[[NDArray[np.floating], NDArray[np.uint8]], NDArray[np.uint8]]
"""Labels (H, W) of an image from its dense tokens and its pixels."""


def main() -> None:
    """Print one line for the tokens and one per choice of settings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("settings", nargs="+", help="such as 'iterations=10 temperature=0.02'")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--every", type=int, default=8)
    options = parser.parse_args()
    store = Store.open(options.store)
    text_CD = store.read_all("text")
    ways: dict[str, Label] = {"tokens alone": _by_tokens(text_CD)}
    for given in options.settings:
        values = apply_settings({"enabled": True}, given.split())
        config = build(PixelNamesConfig, values, where=given)
        ways[given] = _by_map(store, text_CD, config)
    sys.stdout.write(f"every {options.every}th image of {store.path.name}\n")
    for name, (iou, seconds) in _scored(store, options.root, options.every, ways).items():
        sys.stdout.write(f"{name}: {100 * iou:.2f} % of seen classes, {1000 * seconds:.0f} ms\n")


def _by_tokens(text_CD: NDArray[np.float32]) -> Label:
    text = torch.from_numpy(text_CD)
    return lambda dense_Dhw, image_HW3: teacher_label(dense_Dhw, text, image_HW3.shape[:2])


def _by_map(store: Store, text_CD: NDArray[np.float32], settings: PixelNamesConfig) -> Label:
    config = stored_config(store.manifest).model_copy(update={"pixel_names": settings})
    naming = naming_of(store.identity, text_CD, config)

    def label(dense_Dhw: NDArray[np.floating], image_HW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
        made = name_arrays(dense_Dhw, image_HW3, naming, torch.device("cpu"))["pixel_names"]
        return upsampled_argmax(named_scores(made, len(text_CD)), image_HW3.shape[:2])

    return label


def _scored(
    store: Store, root: Path | None, every: int, ways: dict[str, Label]
) -> dict[str, tuple[float, float]]:
    """By way: mean IoU of the seen classes, and processor seconds per image."""
    spec = stored_spec(store)
    folder = dataset_root(root, store)
    samples = {s.id: s for s in list_samples(spec, folder, str(store.identity["split"]))}
    rows = np.flatnonzero(store.read_all("status") == 0)[::every]
    classes = len(spec.classes)
    counts = {name: np.zeros((classes, classes), np.int64) for name in ways}
    spent = dict.fromkeys(ways, 0.0)
    for row in rows:
        sample = samples[store.index[row]["id"]]
        image_HW3, visible_HW = read_image(sample.image), read_visible_label(spec, sample)
        dense_Dhw = store.read("dense", int(row))
        for name, label in ways.items():
            start = time.process_time()
            predicted_HW = label(dense_Dhw, image_HW3)
            spent[name] += time.process_time() - start
            counts[name] += confusion(predicted_HW, visible_HW, classes)
    return {
        name: (scores(counts[name], spec.unseen_ids).siou, spent[name] / len(rows)) for name in ways
    }


if __name__ == "__main__":
    main()
