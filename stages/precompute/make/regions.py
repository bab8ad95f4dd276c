"""Latent regions: parts of an image without visible labels that look alike to the teacher.

Paper 1 (SDD+RST) section III-B, Eq. 3-4 and Algorithm 1 step 1; paper 2 (CLIP-to-Seg) section 3.1,
Eq. 1: seeds are means over sliding windows of several sizes, k-means clusters the tokens without a
visible label from those seeds, clusters with similar centres are merged.

Legend: H W pixels, h w token grid, D CLIP width, S seeds or centres, N unlabelled tokens,
P Q window positions down and across, G groups.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from zsseg.stages.data.spec import VOID
from zsseg.stages.precompute.make.batched_kmeans import batched_clusters
from zsseg.stages.precompute.make.kmeans import kmeans
from zsseg.stages.precompute.precompute_config import RegionConfig

MAX_REGIONS = 255
"""Region maps are 8-bit and 0 means no region."""


def _overlap(cells: int, pixels: int) -> NDArray[np.int64]:
    """(cells, pixels): length shared by each cell and each pixel of an axis that both divide.

    In units of 1 / (cells x pixels) of the axis, so that every length is a whole number.
    """
    cell_h1 = np.arange(cells)[:, None] * pixels
    pixel_1H = np.arange(pixels)[None, :] * cells
    shared_hH = np.minimum(cell_h1 + pixels, pixel_1H + cells) - np.maximum(cell_h1, pixel_1H)
    return np.asarray(np.maximum(shared_hH, 0), dtype=np.int64)


def unlabelled_tokens(
    visible_HW: NDArray[np.uint8], grid: tuple[int, int], share: float
) -> NDArray[np.bool_]:
    """(h, w): True where at least `share` of a token's area has no visible label.

    The areas are exact for all sizes: a pixel on the border of two tokens counts for each with the
    part that lies in it.
    """
    height, width = visible_HW.shape
    # Sums of whole numbers: exact in float32 up to 2^24 (one axis), then in float64.
    row_hW = _overlap(grid[0], height).astype(np.float32) @ (visible_HW == VOID).astype(np.float32)
    area_hw = row_hW.astype(np.float64) @ _overlap(grid[1], width).T.astype(np.float64)
    return np.asarray(area_hw >= share * height * width)


def _windows(cells: int, size: int) -> NDArray[np.float32]:
    """(P, cells): 1 where a window of `size` covers a cell, at 0, step, 2 step, ..., cells - size.

    The step is half a window, at least 1. The last position is a window too where the steps miss
    it, so no token at the right or bottom is left out (Eq. 4 of paper 1 ends in H_d - k).
    """
    last = cells - size
    start_P = np.unique([*range(0, last, max(1, size // 2)), last])
    cell_h = np.arange(cells)
    covered_Ph = (cell_h >= start_P[:, None]) & (cell_h < start_P[:, None] + size)
    return covered_Ph.astype(np.float32)


def _window_sizes(windows: tuple[int, ...], grid: tuple[int, int]) -> list[tuple[int, int]]:
    """Rows and columns of each window size: one larger than an axis is cut to it, none is twice."""
    rows, columns = grid
    return list(dict.fromkeys((min(size, rows), min(size, columns)) for size in windows))


def region_windows(
    windows: tuple[int, ...], grid: tuple[int, int]
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """By window size: which rows (P, h) and which columns (Q, w) each position covers (1 or 0)."""
    rows, columns = grid
    return [
        (_windows(rows, high), _windows(columns, wide))
        for high, wide in _window_sizes(windows, grid)
    ]


def window_seeds(
    dense_hwD: NDArray[np.float32], unlabelled_hw: NDArray[np.bool_], windows: tuple[int, ...]
) -> NDArray[np.float32]:
    """(S, D): mean of the unlabelled tokens in each window, for every window size.

    Paper 1 Eq. 3-4 (paper 2 Eq. 1 divides by the window's area, the same direction). Windows
    without an unlabelled token are dropped. A size larger than an axis is cut to it, and sizes
    that become equal so are used once.
    """
    rows, columns = unlabelled_hw.shape
    masked_hwD = np.where(unlabelled_hw[..., None], dense_hwD, np.float32(0))
    count_hw = unlabelled_hw.astype(np.float32)
    seeds = []
    for down_Ph, across_Qw in region_windows(windows, (rows, columns)):
        count_PQ = down_Ph @ count_hw @ across_Qw.T
        sum_PwD = np.tensordot(down_Ph, masked_hwD, axes=1)
        sum_PQD = across_Qw @ sum_PwD
        used_PQ = count_PQ > 0
        seeds.append(sum_PQD[used_PQ] / count_PQ[used_PQ][:, None])
    return np.concatenate(seeds)


def merge_centres(centres_SD: NDArray[np.float32], threshold: float) -> NDArray[np.int64]:
    """(S,): group of each centre; the two centres of a merged pair share the lower one's index.

    Pairs whose cosine exceeds `threshold` are merged, most similar first, and each centre takes
    part in one merge only (the mask merging of CLIP-ZSS, which both papers use).
    """
    length_S1 = np.linalg.norm(centres_SD, axis=1, keepdims=True)
    unit_SD = centres_SD / np.maximum(length_S1, 1e-12)
    group_S = np.arange(len(centres_SD))
    cosine_SS = unit_SD @ unit_SD.T
    cosine_SS[np.tril_indices_from(cosine_SS)] = -2  # each pair once, and none with itself
    while cosine_SS.max() > threshold:
        low, high = divmod(int(cosine_SS.argmax()), len(group_S))
        group_S[high] = low
        cosine_SS[[low, high], :] = -2
        cosine_SS[:, [low, high]] = -2
    return group_S


def _number(group_N: NDArray[np.int64], minimum: int) -> NDArray[np.uint8]:
    """(N,): region id of each token from its group: 1 is the largest, ties by first token.

    Groups of fewer than `minimum` tokens, and those beyond the 255th, become 0.
    """
    _, first_G, index_N, size_G = np.unique(
        group_N, return_index=True, return_inverse=True, return_counts=True
    )
    order_G = np.lexsort((first_G, -size_G))
    kept = order_G[size_G[order_G] >= minimum][:MAX_REGIONS]
    region_G = np.zeros(len(size_G), dtype=np.uint8)
    region_G[kept] = np.arange(1, len(kept) + 1)
    return region_G[index_N]


def mine_batch(
    dense_BDhw: NDArray[np.floating],
    unlabelled_Bhw: NDArray[np.bool_],
    config: RegionConfig,
    *,
    device: torch.device,
) -> NDArray[np.uint8]:
    """(B, h, w) region maps of several images, all of whose k-means are one: see `mine_regions`."""
    _, rows, columns = unlabelled_Bhw.shape
    windows = region_windows(config.windows, (rows, columns))
    clusters = batched_clusters(
        dense_BDhw, unlabelled_Bhw, windows, iterations=config.iterations, device=device
    )
    region_Bhw = np.zeros(unlabelled_Bhw.shape, dtype=np.uint8)
    for region_hw, unlabelled_hw, (cluster_N, centres_SD) in zip(
        region_Bhw, unlabelled_Bhw, clusters, strict=True
    ):
        region_hw[unlabelled_hw] = _merged(cluster_N, centres_SD, config)
    return region_Bhw


def mine_regions(
    dense_Dhw: NDArray[np.floating],
    unlabelled_hw: NDArray[np.bool_],
    config: RegionConfig,
    *,
    backend: Literal["cuml", "sklearn"],
) -> NDArray[np.uint8]:
    """(h, w) region map of one image: 0 labelled or in no region, 1..U latent regions by size.

    `dense_Dhw` needs no normalisation. Paper 1 Algorithm 1 lines 1-8; as in paper 2, k-means
    clusters the unlabelled tokens themselves and the window means only start it.
    """
    region_hw = np.zeros(unlabelled_hw.shape, dtype=np.uint8)
    if not unlabelled_hw.any():
        return region_hw
    dense_hwD = np.ascontiguousarray(dense_Dhw.transpose(1, 2, 0), dtype=np.float32)
    dense_hwD /= np.maximum(np.linalg.norm(dense_hwD, axis=2, keepdims=True), 1e-12)
    cluster_N, centres_SD = kmeans(
        dense_hwD[unlabelled_hw],
        window_seeds(dense_hwD, unlabelled_hw, config.windows),
        iterations=config.iterations,
        backend=backend,
    )
    region_hw[unlabelled_hw] = _merged(cluster_N, centres_SD, config)
    return region_hw


def _merged(
    cluster_N: NDArray[np.int64], centres_SD: NDArray[np.float32], config: RegionConfig
) -> NDArray[np.uint8]:
    """(N,) region of each token, from its cluster and the clusters' centres."""
    if not len(cluster_N):
        return np.zeros(0, dtype=np.uint8)
    occupied, index_N = np.unique(cluster_N, return_inverse=True)
    group_S = merge_centres(centres_SD[occupied], config.merge_threshold)
    return _number(group_S[index_N], config.minimum_tokens)
