"""How good latent regions are, by the true labels, for several windows and merge thresholds.

    python -m benchmarks.region_quality data_cache/STORE [--root DIR] [--every 12]

Mines again from a store's dense tokens. Purity: share of the regions' pixels that belong to their
region's majority class; coverage: share of the unlabelled tokens that are in a region; found:
share of the unseen classes of an image that are the majority of one of its regions.
"""

import argparse
import sys
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zsseg.pipeline.named_stores import dataset_root, stored_spec
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.geometry import WHOLE, crop_map
from zsseg.stages.data.labels import read_label
from zsseg.stages.data.spec import VOID, DatasetSpec
from zsseg.stages.data.splits import list_samples
from zsseg.stages.data.visible import read_visible_label
from zsseg.stages.precompute.make.regions import mine_regions, unlabelled_tokens
from zsseg.stages.precompute.precompute_config import RegionConfig

WINDOWS = ((8, 16), (4, 8, 16), (2, 4, 8), (16,))
THRESHOLDS = (0.9, 0.8, 0.7)


def qualities(
    region_hw: NDArray[np.uint8], label_HW: NDArray[np.uint8], spec: DatasetSpec
) -> tuple[int, int, float]:
    """Pixels in their region's majority class, pixels in regions, share of unseen classes found."""
    region_HW = crop_map(region_hw, WHOLE, (label_HW.shape[0], label_HW.shape[1]), fill=0)
    labelled_HW = label_HW != VOID
    right = total = 0
    majorities = set()
    for region in range(1, int(region_hw.max()) + 1):
        counts = np.bincount(label_HW[labelled_HW & (region_HW == region)], minlength=VOID)
        if counts.sum():
            right, total = right + int(counts.max()), total + int(counts.sum())
            majorities.add(int(counts.argmax()))
    present = set(np.unique(label_HW).tolist()) & set(spec.unseen_ids)
    return right, total, len(present & majorities) / len(present) if present else np.nan


def main() -> None:
    """Print one line per choice of windows and threshold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--every", type=int, default=12)
    options = parser.parse_args()
    store = Store.open(options.store)
    spec = stored_spec(store)
    root = dataset_root(options.root, store)
    samples = {s.id: s for s in list_samples(spec, root, str(store.identity["split"]))}
    rows = range(0, store.rows, options.every)
    sys.stdout.write(f"{len(rows)} images of {store.path.name}\n")
    sys.stdout.write("windows, threshold: regions per image, purity, coverage, found\n")
    for windows, threshold in product(WINDOWS, THRESHOLDS):
        config = RegionConfig(windows=windows, merge_threshold=threshold)
        regions, right, total, covered, unlabelled, found = [], 0, 0, 0, 0, []
        for row in rows:
            sample = samples[store.index[row]["id"]]
            dense_Dhw = store.read("dense", row).astype(np.float32)
            grid = (dense_Dhw.shape[1], dense_Dhw.shape[2])
            free_hw = unlabelled_tokens(
                read_visible_label(spec, sample), grid, config.unlabelled_share
            )
            region_hw = mine_regions(dense_Dhw, free_hw, config, backend="sklearn")
            more = qualities(region_hw, read_label(spec, sample), spec)
            regions.append(int(region_hw.max()))
            right, total = right + more[0], total + more[1]
            covered, unlabelled = covered + int((region_hw > 0).sum()), unlabelled + free_hw.sum()
            found.append(more[2])
        sys.stdout.write(
            f"{windows}, {threshold}: {np.mean(regions):.1f}, {right / max(total, 1):.3f}, "
            f"{covered / max(unlabelled, 1):.2f}, {np.nanmean(found):.2f}\n"
        )


if __name__ == "__main__":
    main()
