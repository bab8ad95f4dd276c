"""k-means from seeds: against a float64 Lloyd, and what each backend is called with."""

import os
import subprocess
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from zsseg.stages.precompute.make import regions, regions_artifact
from zsseg.stages.precompute.make.kmeans import EMPTIED, kmeans
from zsseg.stages.precompute.make.pictures import Picture
from zsseg.stages.precompute.precompute_config import RegionConfig


def blobs(
    seed: int, *, clusters: int, each: int, width: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit points around unit centres, and the noisy seeds of those centres."""
    rng = np.random.default_rng(seed)
    centre_KD = rng.normal(size=(clusters, width))
    centre_KD /= np.linalg.norm(centre_KD, axis=1, keepdims=True)
    point_ND = np.repeat(centre_KD, each, axis=0) + rng.normal(0, 0.1, (clusters * each, width))
    point_ND /= np.linalg.norm(point_ND, axis=1, keepdims=True)
    seed_KD = centre_KD + rng.normal(0, 0.05, centre_KD.shape)
    return point_ND.astype(np.float32), seed_KD.astype(np.float32)


def lloyd(points: NDArray[Any], seeds: NDArray[Any], iterations: int) -> NDArray[np.int64]:
    """Lloyd's algorithm word for word, one point at a time, in float64."""
    centres = [np.asarray(seed, dtype=np.float64) for seed in seeds]
    for _ in range(iterations):
        label = [int(np.argmin([np.sum((p - c) ** 2) for c in centres])) for p in points]
        centres = [
            np.mean([p for p, k in zip(points, label, strict=True) if k == own], axis=0)
            for own in range(len(centres))
        ]
    return np.array([int(np.argmin([np.sum((p - c) ** 2) for c in centres])) for p in points])


def test_labels_and_centres_equal_a_plain_lloyd() -> None:
    points_ND, seeds_SD = blobs(0, clusters=6, each=15, width=16)
    labels_N, centres_SD = kmeans(points_ND, seeds_SD, iterations=10, backend="sklearn")
    np.testing.assert_array_equal(labels_N, lloyd(points_ND, seeds_SD, 10))
    means = [points_ND[labels_N == cluster].mean(0) for cluster in range(6)]
    np.testing.assert_allclose(centres_SD, means, atol=1e-6)
    assert labels_N.dtype == np.int64
    assert centres_SD.dtype == np.float32


def test_more_iterations_are_used() -> None:
    """Two seeds inside the same blob need several iterations to move apart."""
    points_ND = np.array([[0.0], [1.0], [2.0], [3.0], [12.0]], dtype=np.float32)
    seeds_SD = np.array([[0.0], [1.0]], dtype=np.float32)
    first, _ = kmeans(points_ND, seeds_SD, iterations=1, backend="sklearn")
    last, centres = kmeans(points_ND, seeds_SD, iterations=10, backend="sklearn")
    # By hand: {0} {1,2,3,12} -> 0, 4.5 -> {0,1,2} {3,12} -> 1, 7.5 -> {0,1,2,3} {12}.
    assert first.tolist() == [0, 0, 0, 1, 1]
    assert last.tolist() == [0, 0, 0, 0, 1]
    np.testing.assert_allclose(centres, [[1.5], [12.0]])


def test_seeds_without_points_are_dropped() -> None:
    points_ND = np.array([[0.0], [0.1], [5.0], [5.1]], dtype=np.float32)
    seeds_SD = np.array([[0.0], [100.0], [5.0], [5.0], [-50.0]], dtype=np.float32)
    labels_N, centres_SD = kmeans(points_ND, seeds_SD, iterations=5, backend="sklearn")
    assert labels_N.tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(centres_SD, [[0.05], [5.05]], atol=1e-6)


@pytest.mark.parametrize("points", [1, 2, 7])
def test_more_seeds_than_points(points: int) -> None:
    rng = np.random.default_rng(points)
    points_ND = rng.normal(size=(points, 8)).astype(np.float32)
    seeds_SD = rng.normal(size=(40, 8)).astype(np.float32)
    labels_N, centres_SD = kmeans(points_ND, seeds_SD, iterations=10, backend="sklearn")
    assert labels_N.shape == (points,)
    assert 1 <= len(centres_SD) <= points
    assert labels_N.max() < len(centres_SD)


def test_equal_points_are_one_cluster() -> None:
    points_ND = np.ones((9, 4), dtype=np.float32)
    seeds_SD = np.stack([np.full(4, value, dtype=np.float32) for value in (0.9, 1.0, 1.0, 1.2)])
    labels_N, centres_SD = kmeans(points_ND, seeds_SD, iterations=3, backend="sklearn")
    assert set(labels_N.tolist()) == {0}
    np.testing.assert_allclose(centres_SD, np.ones((1, 4)))


def lose_a_cluster() -> NDArray[np.int64]:
    """Twelve points of which the fourth of four clusters loses its last one on the way."""
    points = [11, 8, 8, 6, 2, 7, 2, 1, 9, 5, 1, 9, 1, 6, 3, 4, 0, 8, 4, 0, 2, 3, 2, 4]
    seeds = [11.323731, 4.083475, 11.079343, 8.999149, 2.648931, 11.361311, 6.596394, 8.119661]
    labels_N, _ = kmeans(
        np.array(points, np.float32).reshape(12, 2),
        np.array(seeds, np.float32).reshape(4, 2),
        iterations=2,
        backend="sklearn",
    )
    return labels_N


def test_a_cluster_that_empties_on_the_way_is_told_by_labels_and_warning() -> None:
    with pytest.warns(ConvergenceWarning, match=f"^{EMPTIED}"):
        labels_N = lose_a_cluster()
    assert len(set(labels_N.tolist())) == 3


def test_mining_ignores_that_warning_in_all_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def mine(*_: Any, **__: Any) -> NDArray[np.uint8]:
        assert len(lose_a_cluster()) == 12  # warnings are errors here
        return np.zeros((2, 2), np.uint8)

    monkeypatch.setattr(regions, "mine_regions", mine)
    picture = Picture(np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 255, np.uint8))
    regions_artifact.region_arrays(
        np.zeros((40, 3, 2, 2), np.float16),
        [picture] * 40,
        RegionConfig(),
        backend="sklearn",
        advance=lambda _: None,
    )


CENTRES = """
import numpy as np
from zsseg.stages.precompute.make.kmeans import kmeans
from zsseg.stages.precompute.threads import in_threads
rng = np.random.default_rng(0)
points = [rng.normal(size=(3000, 16)).astype(np.float32) for _ in range(6)]
made = in_threads(lambda p: kmeans(p, p[:8], iterations=10, backend="sklearn")[1], points)
centres = b"".join(centres.tobytes() for centres in made)
"""


def test_bytes_do_not_depend_on_the_number_of_threads() -> None:
    """scikit-learn adds up the sums of its threads: other threads, other last digits."""
    here: dict[str, bytes] = {}
    exec(CENTRES, here)
    there = subprocess.run(
        [sys.executable, "-c", f"{CENTRES}\nimport sys; sys.stdout.buffer.write(centres)"],
        cwd=Path(__file__).resolve().parents[2],
        check=True,
        stdout=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "4"},
    )
    assert there.stdout == here["centres"]


class OnDevice:
    """An array in a GPU's memory, as cupy's: numpy cannot read it without being asked to."""

    def __init__(self, values: NDArray[Any]) -> None:
        self._values = values

    def __array__(self, *_: Any, **__: Any) -> NDArray[Any]:
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def get(self) -> NDArray[Any]:
        """A copy in the host's memory."""
        return self._values.copy()


class FakeCumlKMeans:
    """cuML's documented class (26.08 to 26.10): constructor, `fit`, and what is read of a model.

    It checks what cuML checks or silently punishes: keywords only, float32 or float64 points and
    starts of one type, C order (anything else is copied), `init` of shape (k, d), no more clusters
    than points, tol above 0, and `n_init='auto'` meaning ten runs with an array as `init`. It stops
    as cuML does, by the sum of squared shifts itself, and lets empty clusters stay where they are.
    """

    calls = 0
    at_work = 0
    output_type_of_all = "cupy"
    """What `cuml.set_global_output_type` has set; an estimator's own comes first."""

    def __init__(
        self,
        *,
        n_clusters: int = 8,
        max_iter: int = 300,
        tol: float = 1e-4,
        verbose: bool = False,
        random_state: int | None = None,
        init: str | NDArray[np.float32] = "scalable-k-means++",
        n_init: int | str = "auto",
        oversampling_factor: float = 2.0,
        max_samples_per_batch: int = 1 << 15,
        device_buffer_samples: int = 0,
        init_size: int = 0,
        output_type: str | None = None,
    ) -> None:
        assert isinstance(init, np.ndarray), "starts are given"
        assert type(n_init) is int, "'auto' is ten runs when init is an array"
        assert n_init == 1
        assert type(tol) is float, "a C++ double"
        assert tol > 0
        assert init.dtype == np.float32
        assert init.shape[0] == n_clusters
        assert init.flags.c_contiguous
        assert type(max_iter) is int
        self.centres, self.iterations, self.tolerance = init, max_iter, tol
        self.output_type = output_type or self.output_type_of_all

    def fit(
        self,
        X: NDArray[np.float32],
        y: None = None,
        sample_weight: NDArray[np.float32] | None = None,
    ) -> "FakeCumlKMeans":
        assert isinstance(X, np.ndarray)
        assert X.dtype == self.centres.dtype, "cuML takes no half floats"
        assert X.flags.c_contiguous
        assert len(self.centres) <= len(X)
        assert self.centres.shape[1] == X.shape[1]
        FakeCumlKMeans.calls += 1
        FakeCumlKMeans.at_work += 1
        time.sleep(0.002)
        assert FakeCumlKMeans.at_work == 1, "one job at a time"
        centre_KD = self.centres.astype(np.float64)
        self.n_iter_ = 0
        for _ in range(self.iterations):
            self.n_iter_ += 1
            label_N = ((X[:, None] - centre_KD) ** 2).sum(2).argmin(1)
            moved_KD = np.stack(
                [
                    X[label_N == k].mean(0) if (label_N == k).any() else centre_KD[k]
                    for k in range(len(centre_KD))
                ]
            )
            shift, centre_KD = ((moved_KD - centre_KD) ** 2).sum(), moved_KD
            if shift < self.tolerance:
                break
        label_N = ((X[:, None] - centre_KD) ** 2).sum(2).argmin(1)
        self._model = label_N.astype(np.int32), centre_KD.astype(np.float32)
        FakeCumlKMeans.at_work -= 1
        FakeCumlKMeans.last = self
        return self

    last: "FakeCumlKMeans"

    def _out(self, values: NDArray[Any]) -> Any:
        return values if self.output_type == "numpy" else OnDevice(values)

    @property
    def labels_(self) -> Any:
        return self._out(self._model[0])

    @property
    def cluster_centers_(self) -> Any:
        return self._out(self._model[1])


@pytest.fixture
def fake_cuml(monkeypatch: pytest.MonkeyPatch) -> type[FakeCumlKMeans]:
    """A module `cuml` with the one class that zsseg uses."""
    package, cluster = types.ModuleType("cuml"), types.ModuleType("cuml.cluster")
    cluster.KMeans = FakeCumlKMeans  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuml", package)
    monkeypatch.setitem(sys.modules, "cuml.cluster", cluster)
    FakeCumlKMeans.calls = FakeCumlKMeans.at_work = 0
    return FakeCumlKMeans


def test_cuml_gives_the_same_clusters(fake_cuml: type[FakeCumlKMeans]) -> None:
    points_ND, seeds_SD = blobs(1, clusters=4, each=10, width=8)
    seeds_SD = np.concatenate([seeds_SD, np.full((3, 8), 9, np.float32)])
    labels_N, centres_SD = kmeans(points_ND, seeds_SD, iterations=10, backend="cuml")
    other_N, other_SD = kmeans(points_ND, seeds_SD, iterations=10, backend="sklearn")
    assert fake_cuml.calls == 1
    assert labels_N.dtype == np.int64
    np.testing.assert_array_equal(labels_N, other_N)
    np.testing.assert_allclose(centres_SD, other_SD, atol=1e-6)


def test_cuml_stops_where_scikit_learn_does(fake_cuml: type[FakeCumlKMeans]) -> None:
    """Its own 1e-4 is no share of the variance: these points would stop after one iteration."""
    rng = np.random.default_rng(3)
    points_ND = (rng.normal(size=(400, 64)) * 2e-4).astype(np.float32)
    seeds_SD = points_ND[:12]
    labels_N, centres_SD = kmeans(points_ND, seeds_SD, iterations=40, backend="cuml")
    other_N, other_SD = kmeans(points_ND, seeds_SD, iterations=40, backend="sklearn")
    assert fake_cuml.last.n_iter_ > 3
    np.testing.assert_array_equal(labels_N, other_N)
    np.testing.assert_allclose(centres_SD, other_SD, atol=1e-9)
    equal_N, _ = kmeans(np.ones((5, 3), np.float32), seeds_SD[:1, :3], iterations=3, backend="cuml")
    assert equal_N.tolist() == [0] * 5  # no variance at all, and a tolerance all the same


def test_cuml_gets_contiguous_points_of_one_job_at_a_time(
    fake_cuml: type[FakeCumlKMeans],
) -> None:
    points_ND, seeds_SD = blobs(4, clusters=3, each=8, width=6)
    turned_ND = np.asfortranarray(points_ND)
    with ThreadPoolExecutor(4) as threads:
        made = list(
            threads.map(
                lambda _: kmeans(turned_ND, seeds_SD, iterations=3, backend="cuml"), range(8)
            )
        )
    assert fake_cuml.calls == 8
    for labels_N, _ in made:
        np.testing.assert_array_equal(labels_N, made[0][0])


def test_half_precision_points_reach_cuml_as_float32(fake_cuml: type[FakeCumlKMeans]) -> None:
    points_ND, seeds_SD = blobs(2, clusters=3, each=5, width=8)
    half: Any = points_ND.astype(np.float16)
    kmeans(half, seeds_SD, iterations=2, backend="cuml")
    assert fake_cuml.calls == 1
