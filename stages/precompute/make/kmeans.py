"""k-means from given seeds, of one image: on the GPU by cuML, on the CPU by scikit-learn.

For torch, and many images at once, see `batched_kmeans`; `backend_choice` chooses between them.

Legend: N points, S seeds, K starts (seeds that are used), D width.
"""

import threading
from typing import Any, Literal

import numpy as np
import sklearn.cluster  # not on first use: `in_threads` limits the libraries that are loaded
from numpy.typing import NDArray

Backend = Literal["cuml", "sklearn", "torch"]
"""The library; torch is `batched_kmeans.py`, for several images at once."""

_ONE_JOB = threading.Lock()
"""Held while cuML works: calls at the same time would share the memory of one device."""

EMPTIED = "Number of distinct clusters"
"""Beginning of scikit-learn's warning of clusters that became empty, for a filter."""


def kmeans(
    points_ND: NDArray[np.float32],
    seeds_SD: NDArray[np.float32],
    *,
    iterations: int,
    backend: Literal["cuml", "sklearn"],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Lloyd's algorithm from the seeds: cluster of each point (N,), centres (at most S, D).

    Distances are Euclidean; for unit-length points that orders clusters by cosine up to the
    centres' lengths. Seeds that no point is nearest to are dropped before the first iteration:
    they are the empty clusters (the libraries would move them to far points instead), the second
    of two equal seeds, and whatever exceeds the number of points. A cluster can still lose its
    last point on the way: the labels show it, and scikit-learn warns of it (`EMPTIED`).

    scikit-learn's sums depend on the number of its threads in the last digit: for equal bytes call
    it from one thread of `in_threads`. Calls of cuML wait for each other.
    """
    points_ND = np.ascontiguousarray(points_ND, dtype=np.float32)
    # |p - s|^2 = |p|^2 - 2 p.s + |s|^2; the first term is the same for every seed.
    distance_NS = np.square(seeds_SD).sum(1) - 2 * points_ND @ seeds_SD.T
    starts_KD = np.ascontiguousarray(seeds_SD[np.unique(distance_NS.argmin(1))], dtype=np.float32)
    if backend == "cuml":
        return _with_cuml(points_ND, starts_KD, iterations)
    model = sklearn.cluster.KMeans(
        n_clusters=len(starts_KD), init=starts_KD, n_init=1, max_iter=iterations, random_state=0
    ).fit(points_ND)
    return _results(model)


def _with_cuml(
    points_ND: NDArray[np.float32], starts_KD: NDArray[np.float32], iterations: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """`kmeans` on the first GPU that the process may see (CUDA_VISIBLE_DEVICES)."""
    from cuml.cluster import KMeans

    # Both libraries stop when the centres' squared shifts add up to less than a tolerance. By 1e-4
    # scikit-learn means 1e-4 of the points' mean variance, cuML the number itself, which is far too
    # large for unit vectors of some hundred numbers. It refuses 0.
    tolerance = max(1e-4 * float(points_ND.var(0).mean()), 1e-12)
    with _ONE_JOB:
        model = KMeans(
            n_clusters=len(starts_KD),
            init=starts_KD,
            n_init=1,  # with an array as `init` the default is ten equal runs
            max_iter=iterations,
            tol=tolerance,
            random_state=0,
            output_type="numpy",  # instead of the default of the process
        ).fit(points_ND)
        return _results(model)  # reading an attribute copies it from the device


def _results(model: Any) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    return (
        np.asarray(model.labels_, dtype=np.int64),
        np.asarray(model.cluster_centers_, dtype=np.float32),
    )
