"""k-means of many images at once: against scikit-learn, and what it must not do on a GPU."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.cluster
import torch
from helpers import clip_store
from helpers.drawn_world import draw_world
from helpers.no_answers import NoAnswers
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode

from zsseg.stages.cache.reader import Store
from zsseg.stages.precompute.make.batched_kmeans import (
    batched_clusters,
    batched_seeds,
    lloyd,
    packed,
)
from zsseg.stages.precompute.make.regions import mine_batch, region_windows, window_seeds
from zsseg.stages.precompute.plan.stored_settings import recall_settings
from zsseg.stages.precompute.precompute_config import (
    DenseConfig,
    PrecomputeConfig,
    RegionConfig,
    TextConfig,
)

CPU = torch.device("cpu")
Arrays = tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32], NDArray[np.bool_]]


def ragged(seed: int, sizes: tuple[tuple[int, int], ...], *, width: int = 16) -> Arrays:
    """Unit points around a few directions, and seeds: of each image as many as `sizes` says."""
    rng = np.random.default_rng(seed)
    points, seeds = max(n for n, _ in sizes), max(s for _, s in sizes)
    point_BND = np.zeros((len(sizes), points, width), np.float32)
    seed_BSD = np.full((len(sizes), seeds, width), 7, np.float32)  # what is not there is anything
    there_BN, seed_there_BS = (
        np.zeros((len(sizes), points), bool),
        np.zeros(seed_BSD.shape[:2], bool),
    )
    for i, (n, s) in enumerate(sizes):
        centre_KD = rng.normal(size=(6, width))
        made_ND = centre_KD[rng.integers(6, size=n)] + rng.normal(0, 0.8, (n, width))
        point_BND[i, :n] = made_ND / np.linalg.norm(made_ND, axis=1, keepdims=True)
        seed_BSD[i, :s] = point_BND[i, rng.choice(n, s, replace=False)]
        there_BN[i, :n], seed_there_BS[i, :s] = True, True
    order_S = rng.permutation(seeds)  # seeds that are not there may stand anywhere
    return point_BND, there_BN, seed_BSD[:, order_S], seed_there_BS[:, order_S]


def run(
    given: Arrays, iterations: int, *, ask: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    label_BN, centre_BSD = lloyd(*map(torch.from_numpy, given), iterations=iterations, ask=ask)
    return label_BN.numpy(), centre_BSD.numpy()


SIZES = ((200, 9), (31, 9), (1, 1), (120, 4), (80, 7))


@pytest.mark.parametrize("ask", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_clusters_are_those_of_scikit_learn_run_to_the_end(seed: int, ask: bool) -> None:
    given = ragged(seed, SIZES)
    label_BN, centre_BSD = run(given, 40, ask=ask)
    point_BND, there_BN, seed_BSD, seed_there_BS = given
    for i, (n, _) in enumerate(SIZES):
        points_ND = point_BND[i][there_BN[i]].astype(np.float64)
        starts = np.flatnonzero(seed_there_BS[i])
        distance_NS = ((points_ND[:, None] - seed_BSD[i, starts]) ** 2).sum(2)
        starts = starts[np.unique(distance_NS.argmin(1))]
        model = sklearn.cluster.KMeans(
            len(starts), init=seed_BSD[i, starts].astype(np.float64), n_init=1, max_iter=300, tol=0
        ).fit(points_ND)
        assert len(points_ND) == n
        np.testing.assert_array_equal(label_BN[i][there_BN[i]], starts[model.labels_])
        np.testing.assert_allclose(centre_BSD[i, starts], model.cluster_centers_, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@pytest.mark.parametrize("iterations", range(2, 7))
def test_a_cluster_that_empties_begins_anew_at_the_farthest_point(iterations: int) -> None:
    """As in scikit-learn: twelve points of which the fourth cluster loses its last one."""
    points = [11, 8, 8, 6, 2, 7, 2, 1, 9, 5, 1, 9, 1, 6, 3, 4, 0, 8, 4, 0, 2, 3, 2, 4]
    seeds = [11.323731, 4.083475, 11.079343, 8.999149, 2.648931, 11.361311, 6.596394, 8.119661]
    point_ND = np.array(points, np.float32).reshape(12, 2)
    seed_SD = np.array(seeds, np.float32).reshape(4, 2)
    there, known = np.ones((1, 12), bool), np.ones((1, 4), bool)
    label_1N, centre_1SD = run((point_ND[None], there, seed_SD[None], known), iterations)
    model = sklearn.cluster.KMeans(4, init=seed_SD, n_init=1, max_iter=iterations, tol=0)
    model.fit(point_ND)
    np.testing.assert_array_equal(label_1N[0], model.labels_)
    np.testing.assert_allclose(centre_1SD[0], model.cluster_centers_, atol=1e-5)


def test_what_is_not_there_changes_nothing() -> None:
    point_BND, there_BN, seed_BSD, seed_there_BS = given = ragged(3, SIZES)
    label_BN, centre_BSD = run(given, 10)
    rng = np.random.default_rng(0)
    point_BND[~there_BN] = rng.normal(size=(int((~there_BN).sum()), 16))
    seed_BSD[~seed_there_BS] = rng.normal(size=(int((~seed_there_BS).sum()), 16))
    again_BN, other_BSD = run(given, 10)
    np.testing.assert_array_equal(label_BN[there_BN], again_BN[there_BN])
    np.testing.assert_array_equal(centre_BSD[seed_there_BS], other_BSD[seed_there_BS])


def test_images_do_not_see_each_other() -> None:
    given = ragged(4, SIZES)
    label_BN, _ = run(given, 10)
    for i, (n, _) in enumerate(SIZES):
        alone_1N, _ = run(tuple(each[i : i + 1] for each in given), 10)  # type: ignore[arg-type]
        np.testing.assert_array_equal(alone_1N[0, :n], label_BN[i, :n])


class Counting(TorchDispatchMode):
    """Counts the operations within."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_the_number_of_operations_does_not_depend_on_that_of_images() -> None:
    counts = []
    for sizes in (SIZES[:1], SIZES * 4):
        given = [torch.from_numpy(each) for each in ragged(0, sizes)]
        with Counting() as counting:  # type: ignore[no-untyped-call]
            lloyd(*given, iterations=10)
        counts.append(counting.count)
    assert counts[0] == counts[1]


def test_the_device_is_asked_nothing_and_no_sum_is_atomic() -> None:
    given = [torch.from_numpy(each) for each in ragged(0, SIZES)]
    with NoAnswers(also={"scatter_add", "scatter_add_", "index_add", "index_add_", "index_put_"}):
        lloyd(*given, iterations=3)


def test_packed_places_are_the_unlabelled_ones_row_by_row() -> None:
    unlabelled = np.zeros((3, 2, 3), bool)
    unlabelled[0, 1, 0] = unlabelled[0, 0, 2] = unlabelled[2, :, 1] = True
    unlabelled[2, 0, 0] = True
    place_BN, there_BN = packed(unlabelled)
    assert [place[there].tolist() for place, there in zip(place_BN, there_BN, strict=True)] == [
        [2, 3], [], [0, 1, 4],
    ]  # fmt: skip
    assert place_BN.shape == (3, 3)


def test_seeds_are_the_window_means_of_one_image() -> None:
    rng = np.random.default_rng(5)
    dense_BhwD = rng.normal(size=(3, 9, 12, 8)).astype(np.float32)
    unit_BhwD = dense_BhwD / np.linalg.norm(dense_BhwD, axis=3, keepdims=True)
    unlabelled_Bhw = rng.random((3, 9, 12)) < 0.3
    unlabelled_Bhw[1] = False
    unlabelled_Bhw[2, :, 4:] = False  # most of its windows hold no token
    windows = [
        (torch.from_numpy(down), torch.from_numpy(across))
        for down, across in region_windows((4, 20), (9, 12))
    ]
    seed_BSD, there_BS = batched_seeds(
        torch.from_numpy(unit_BhwD), torch.from_numpy(unlabelled_Bhw), windows
    )
    for unit_hwD, unlabelled_hw, seed_SD, there_S in zip(
        unit_BhwD, unlabelled_Bhw, seed_BSD.numpy(), there_BS.numpy(), strict=True
    ):
        expected_SD = window_seeds(unit_hwD, unlabelled_hw, (4, 20))
        np.testing.assert_allclose(seed_SD[there_S], expected_SD, atol=1e-6)
    assert there_BS[0].all()
    assert not there_BS[1].any()
    assert 0 < there_BS[2].sum() < len(there_BS[2])


def test_each_image_has_as_many_labels_as_unlabelled_tokens() -> None:
    rng = np.random.default_rng(6)
    dense_BDhw = rng.normal(size=(3, 8, 9, 12)).astype(np.float16)
    unlabelled_Bhw = rng.random((3, 9, 12)) < 0.3
    unlabelled_Bhw[1] = False
    windows = region_windows((4, 20), (9, 12))
    found = batched_clusters(dense_BDhw, unlabelled_Bhw, windows, iterations=1, device=CPU)
    assert [len(label_N) for label_N, _ in found] == unlabelled_Bhw.sum((1, 2)).tolist()


def test_regions_have_the_parts_of_one_image_at_a_time() -> None:
    """Four quarters of one direction each; the last column is labelled, one image wholly."""
    rng = np.random.default_rng(0)
    quarter_hw = np.repeat(np.repeat([[0, 1], [2, 3]], 4, axis=0), 4, axis=1)
    noise = rng.normal(0, 0.02, (3, 4, 8, 8))
    dense_BDhw = (np.eye(4)[quarter_hw].transpose(2, 0, 1) + noise).astype(np.float16)
    unlabelled_Bhw = np.ones((3, 8, 8), bool)
    unlabelled_Bhw[:, :, -1] = False
    unlabelled_Bhw[1] = False
    config = RegionConfig(windows=(4,), minimum_tokens=1)
    region_Bhw = mine_batch(dense_BDhw, unlabelled_Bhw, config, device=CPU)
    assert not region_Bhw[1].any()
    assert not region_Bhw[0][:, -1].any()
    for quarter in range(4):
        assert len(set(region_Bhw[0][(quarter_hw == quarter) & unlabelled_Bhw[0]])) == 1
    assert set(region_Bhw[2].flat) == {0, 1, 2, 3, 4}


def test_a_store_by_torch_is_one_of_its_own(tmp_path: Path, tiny_clip: str) -> None:
    world = draw_world(tmp_path / "world", images=5)
    config = PrecomputeConfig(
        text=TextConfig(templates="single"),
        dense=DenseConfig(size=(64, 96)),
        regions=RegionConfig(windows=(2,), minimum_tokens=1, backend="torch"),
        shard_images=3,
        device="cpu",
    )
    stores = [
        Store.open(clip_store.run(world, tiny_clip, tmp_path / name, config=config).path)
        for name in ("one", "two")
    ]
    regions = [store.read_all("regions") for store in stores]
    assert regions[0].any()
    assert (regions[0] == regions[1]).all()
    assert stores[0].recipes["regions"]["backend"] == "torch"
    assert recall_settings(stores[0].path, stores[0].manifest).config.regions.backend == "torch"
