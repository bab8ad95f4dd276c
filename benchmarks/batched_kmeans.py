"""Regions of many images at once by torch against one by one by scikit-learn.

    python -m benchmarks.batched_kmeans data_cache/STORE [--root DIR] [--images 64] [--device cpu]

From a store's dense tokens, with the settings of `zsseg precompute`. Prints the share of unlabelled
tokens that have the cluster which scikit-learn gives them when it is run to the end from the same
seeds, and the processor time of both for all of mining (by the clock on a GPU).
Legend: B images, N unlabelled tokens, S seeds, D CLIP width, h w token grid.
"""

import argparse
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import sklearn.cluster
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.metrics.cluster import contingency_matrix

from benchmarks.kmeans_backends import stored_images
from benchmarks.ratio import ROUNDS, Ratio
from zsseg.pipeline.named_stores import dataset_root
from zsseg.stages.cache.reader import Store
from zsseg.stages.precompute.make.batched_kmeans import batched_seeds, lloyd
from zsseg.stages.precompute.make.kmeans import EMPTIED
from zsseg.stages.precompute.make.regions import (
    mine_batch,
    mine_regions,
    region_windows,
)
from zsseg.stages.precompute.precompute_config import RegionConfig

AT_ONCE = 16
Images = tuple[NDArray[np.floating], NDArray[np.bool_]]
"""Dense tokens (B, D, h, w), and which are unlabelled (B, h, w)."""


def same_clusters(images: Images, config: RegionConfig, device: torch.device) -> tuple[int, int]:
    """Of how many unlabelled tokens the cluster is scikit-learn's, up to names; and of how many.

    Both start from the same seeds: those that a token is nearest to.
    """
    same = tokens = 0
    for dense_Dhw, unlabelled_hw in zip(*images, strict=True):
        if not unlabelled_hw.any():
            continue
        windows = [
            (torch.from_numpy(down).to(device), torch.from_numpy(across).to(device))
            for down, across in region_windows(config.windows, unlabelled_hw.shape)
        ]
        dense_1Dhw = torch.from_numpy(dense_Dhw).float()[None].to(device)
        unit_1hwD = F.normalize(dense_1Dhw, dim=1).permute(0, 2, 3, 1)
        mask_1hw = torch.from_numpy(unlabelled_hw)[None].to(device)
        seed_1SD, there_1S = batched_seeds(unit_1hwD, mask_1hw, windows)
        point_1ND, seed_SD = unit_1hwD[mask_1hw][None], seed_1SD[there_1S].cpu().numpy()
        all_1N = torch.ones(point_1ND.shape[:2], dtype=torch.bool, device=device)
        label_1N, _ = lloyd(point_1ND, all_1N, seed_1SD, there_1S, iterations=config.iterations)
        point_ND = point_1ND[0].cpu().numpy()
        start_KD = seed_SD[np.unique(cdist(point_ND, seed_SD).argmin(1))]
        model = sklearn.cluster.KMeans(len(start_KD), init=start_KD, n_init=1, max_iter=300, tol=0)
        shared = contingency_matrix(model.fit(point_ND).labels_, label_1N[0].cpu().numpy())
        same += int(shared[linear_sum_assignment(-shared)].sum())
        tokens += len(point_ND)
    return same, tokens


def mining_time(images: Images, config: RegionConfig, device: torch.device) -> Ratio:
    """Seconds of torch / of scikit-learn, in turn, for the regions of all images."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter

    def by_torch() -> None:
        for first in range(0, len(images[0]), AT_ONCE):
            few = slice(first, first + AT_ONCE)
            mine_batch(images[0][few], images[1][few], config, device=device)

    def by_sklearn() -> None:
        for dense_Dhw, unlabelled_hw in zip(*images, strict=True):
            mine_regions(dense_Dhw, unlabelled_hw, config, backend="sklearn")

    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(ROUNDS + 1):  # the first warms up
        for mine, spent in zip((by_torch, by_sklearn), seconds, strict=True):
            start = clock()
            mine()
            if number:
                spent.append(clock() - start)
    name = f"regions by torch on {device.type} / by scikit-learn, {len(images[0])} images"
    return Ratio(name, tuple(seconds[0]), tuple(seconds[1]), target="at most 2")


def main() -> None:
    """Print the agreement and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    store, config, device = Store.open(given.store), RegionConfig(), torch.device(given.device)
    every = max(1, len(store.index) // given.images)
    root = dataset_root(given.root, store)
    found = list(stored_images(store, root, every=every, share=config.unlabelled_share))
    images = np.stack([tokens for tokens, _ in found]), np.stack([mask for _, mask in found])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", EMPTIED)
        same, tokens = same_clusters(images, config, device)
        sys.stdout.write(
            f"same cluster as scikit-learn's: {100 * same / tokens:.2f} % of {tokens} tokens\n"
            f"{mining_time(images, config, device)}\n"
        )


if __name__ == "__main__":
    main()
