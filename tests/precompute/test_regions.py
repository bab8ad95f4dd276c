"""Region mining against literal transcriptions of the papers' equations."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from zsseg.stages.data.spec import VOID
from zsseg.stages.precompute.make.regions import (
    merge_centres,
    mine_regions,
    unlabelled_tokens,
    window_seeds,
)
from zsseg.stages.precompute.precompute_config import RegionConfig


def share_without_label(visible: NDArray[np.uint8], grid: tuple[int, int], i: int, j: int) -> Any:
    """Exact share of token (i, j)'s area without a visible label, one pixel at a time."""
    height, width = visible.shape

    def shared(cell: int, cells: int, pixel: int, pixels: int) -> Fraction:
        low = max(Fraction(cell, cells), Fraction(pixel, pixels))
        high = min(Fraction(cell + 1, cells), Fraction(pixel + 1, pixels))
        return max(high - low, Fraction(0))

    area = sum(
        shared(i, grid[0], y, height) * shared(j, grid[1], x, width)
        for y in range(height)
        for x in range(width)
        if visible[y, x] == VOID
    )
    return area * grid[0] * grid[1]


@pytest.mark.parametrize(
    ("size", "grid"),
    [((12, 16), (3, 4)), ((11, 13), (3, 5)), ((4, 3), (6, 7)), ((7, 20), (7, 3)), ((1, 1), (2, 2))],
)
@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_unlabelled_share_is_the_exact_area(
    size: tuple[int, int], grid: tuple[int, int], share: float
) -> None:
    rng = np.random.default_rng(size[0] * size[1])
    for part in (0.3, 0.5, 0.9, 1.0):
        visible = np.where(rng.random(size) < part, VOID, 2).astype(np.uint8)
        expected = [
            [share_without_label(visible, grid, i, j) >= Fraction(share) for j in range(grid[1])]
            for i in range(grid[0])
        ]
        np.testing.assert_array_equal(unlabelled_tokens(visible, grid, share), expected)


def test_a_share_exactly_met_counts() -> None:
    visible = np.array([[VOID, 0, VOID, VOID], [VOID, 0, 0, 0]], dtype=np.uint8)
    assert unlabelled_tokens(visible, (1, 2), 0.5).tolist() == [[True, True]]
    assert unlabelled_tokens(visible, (1, 2), 0.51).tolist() == [[False, False]]


def seeds_of_the_paper(
    dense: NDArray[Any], unlabelled: NDArray[np.bool_], windows: tuple[int, ...]
) -> list[NDArray[np.float64]]:
    """Paper 1 Eq. 3 and 4, window by window and token by token."""
    seeds = []
    for k in windows:
        positions: list[list[int]] = []
        for size in unlabelled.shape:
            steps = list(range(0, size - k + 1, max(1, k // 2)))
            positions.append(steps if steps[-1] == size - k else [*steps, size - k])
        for i in positions[0]:
            for j in positions[1]:
                total, valid = np.zeros(dense.shape[2]), 0
                for u in range(i, i + k):
                    for v in range(j, j + k):
                        if unlabelled[u, v]:
                            total += dense[u, v]
                            valid += 1
                if valid:
                    seeds.append(total / valid)
    return seeds


@pytest.mark.parametrize("grid", [(8, 8), (7, 12), (9, 6)])
@pytest.mark.parametrize("windows", [(1,), (2, 3), (4, 6), (5,)])
def test_seeds_equal_the_equation(grid: tuple[int, int], windows: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    dense_hwD = rng.normal(size=(*grid, 5)).astype(np.float32)
    for part in (0.15, 0.6, 1.0):
        unlabelled_hw = rng.random(grid) < part
        expected = seeds_of_the_paper(dense_hwD, unlabelled_hw, windows)
        np.testing.assert_allclose(
            window_seeds(dense_hwD, unlabelled_hw, windows), expected, rtol=1e-5, atol=1e-6
        )


def test_positions_worked_by_hand() -> None:
    """One row of seven tokens, window 4: step 2 gives 0, 2 and the last position 3."""
    dense_hwD = np.arange(7, dtype=np.float32).reshape(1, 7, 1)
    seeds = window_seeds(dense_hwD, np.ones((1, 7), bool), (4,))
    assert seeds[:, 0].tolist() == [1.5, 3.5, 4.5]
    unlabelled_hw = np.array([[True, False, False, False, False, True, True]])
    seeds = window_seeds(dense_hwD, unlabelled_hw, (4,))
    assert seeds[:, 0].tolist() == [0.0, 5.0, 5.5]


def test_the_divisor_of_paper_2_gives_the_same_directions() -> None:
    """Eq. 1 of paper 2 zeroes labelled tokens and divides by the window's area."""
    rng = np.random.default_rng(5)
    dense_hwD = rng.normal(size=(6, 6, 4)).astype(np.float32)
    unlabelled_hw = rng.random((6, 6)) < 0.7
    seeds_SD = window_seeds(dense_hwD, unlabelled_hw, (4,))
    zeroed = np.where(unlabelled_hw[..., None], dense_hwD, 0).astype(np.float64)
    second = np.stack(
        [zeroed[i : i + 4, j : j + 4].sum((0, 1)) / 16 for i in (0, 2) for j in (0, 2)]
    )
    for own, other in zip(seeds_SD, second, strict=True):
        assert own @ other == pytest.approx(np.linalg.norm(own) * np.linalg.norm(other), rel=1e-5)


def test_windows_larger_than_the_grid_are_cut_and_used_once() -> None:
    rng = np.random.default_rng(7)
    dense_hwD = rng.normal(size=(4, 10, 3)).astype(np.float32)
    whole = np.ones((4, 10), bool)
    seeds_SD = window_seeds(dense_hwD, whole, (16, 12, 99))
    np.testing.assert_allclose(seeds_SD, [dense_hwD.mean((0, 1))], rtol=1e-5)
    # 8 is cut to 4 rows by 8 columns: columns 0 to 7, and 2 to 9.
    seeds_SD = window_seeds(dense_hwD, whole, (8,))
    expected = [dense_hwD[:, :8].mean((0, 1)), dense_hwD[:, 2:].mean((0, 1))]
    np.testing.assert_allclose(seeds_SD, expected, rtol=1e-5)


def merge_of_the_paper(centres: NDArray[Any], threshold: float) -> list[int]:
    """Sort all pairs by cosine; merge from the top; none twice."""

    def cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    number = len(centres)
    pairs = sorted(
        (-cosine(centres[i].astype(float), centres[j].astype(float)), i, j)
        for i in range(number)
        for j in range(i + 1, number)
    )
    group, used = list(range(number)), set()
    for negative, i, j in pairs:
        if -negative > threshold and i not in used and j not in used:
            group[j] = i
            used |= {i, j}
    return group


@pytest.mark.parametrize("threshold", [-0.9, 0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("number", [1, 2, 9, 40])
def test_merging_equals_sorting_all_pairs(threshold: float, number: int) -> None:
    rng = np.random.default_rng(number)
    centres_SD = rng.normal(size=(number, 3)).astype(np.float32)
    merged = merge_centres(centres_SD, threshold)
    assert merged.tolist() == merge_of_the_paper(centres_SD, threshold)


def test_a_centre_merges_once_with_its_most_similar() -> None:
    angles = np.deg2rad([0.0, 10.0, 18.0, 90.0])
    centres_SD = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    centres_SD *= np.array([[1.0], [0.2], [3.0], [1.0]], dtype=np.float32)  # lengths do not count
    # 1 and 2 are nearest (8 degrees); 0 would join 1 (10 degrees) but 1 is used.
    assert merge_centres(centres_SD, 0.98).tolist() == [0, 1, 1, 3]
    # 0 may join neither: all pairs left are beyond 11.5 degrees.
    assert merge_centres(centres_SD, 0.995).tolist() == [0, 1, 2, 3]


def scene(
    seed: int, grid: tuple[int, int], *, parts: int, noise: float, width: int = 12
) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
    """Dense tokens of a scene of vertical and horizontal patches, un-normalised, and its parts."""
    rng = np.random.default_rng(seed)
    centre_KD = rng.normal(size=(parts, width))
    cell_hw = np.add.outer(np.arange(grid[0]) // 3 * 7, np.arange(grid[1]) // 4 * 3) % parts
    dense_hwD = centre_KD[cell_hw] + rng.normal(0, noise, (*grid, width))
    dense_hwD *= rng.uniform(0.5, 4, (*grid, 1))
    return dense_hwD.transpose(2, 0, 1).astype(np.float16), cell_hw


def mined_by_the_papers(
    dense: NDArray[Any], unlabelled: NDArray[np.bool_], config: RegionConfig
) -> NDArray[np.int64]:
    """Normalise, seeds (Eq. 3-4), Lloyd, merge, number: plain loops in float64."""
    tokens = dense.transpose(1, 2, 0).astype(np.float64)
    tokens = tokens / np.linalg.norm(tokens, axis=2, keepdims=True)
    centres = seeds_of_the_paper(tokens, unlabelled, config.windows)
    places = [tuple(place) for place in np.argwhere(unlabelled)]
    members: dict[int, list[Any]] = {}
    for round_ in range(config.iterations + 1):
        members = {}
        for place in places:
            distances = [np.sum((tokens[place] - centre) ** 2) for centre in centres]
            members.setdefault(int(np.argmin(distances)), []).append(place)
        keys = sorted(members)
        members = {new: members[old] for new, old in enumerate(keys)}
        if round_ < config.iterations:
            centres = [
                np.mean([tokens[place] for place in own], axis=0) for own in members.values()
            ]
        else:
            centres = [centres[key] for key in keys]
    group = merge_of_the_paper(np.stack(centres), config.merge_threshold)
    regions: dict[int, list[Any]] = {}
    for cluster, own in members.items():
        regions.setdefault(group[cluster], []).extend(own)
    kept = [sorted(own) for own in regions.values() if len(own) >= config.minimum_tokens]
    result = np.zeros(unlabelled.shape, dtype=np.int64)
    for number, own in enumerate(sorted(kept, key=lambda own: (-len(own), own[0])), start=1):
        for place in own:
            result[place] = number
    return result


@pytest.mark.parametrize("grid", [(9, 12), (12, 8)])
@pytest.mark.parametrize(
    "config",
    [
        RegionConfig(windows=(3,), merge_threshold=0.9, minimum_tokens=1),
        RegionConfig(windows=(2, 4), merge_threshold=0.5, minimum_tokens=4),
        RegionConfig(windows=(4, 8), merge_threshold=1.0, minimum_tokens=2),
    ],
)
def test_mining_equals_the_papers(grid: tuple[int, int], config: RegionConfig) -> None:
    for seed in range(3):
        dense_Dhw, _ = scene(seed, grid, parts=5, noise=0.05)
        unlabelled_hw = np.random.default_rng(seed).random(grid) < 0.8
        mined = mine_regions(dense_Dhw, unlabelled_hw, config, backend="sklearn")
        expected = mined_by_the_papers(dense_Dhw, unlabelled_hw, config)
        assert mined.dtype == np.uint8
        np.testing.assert_array_equal(mined, expected)


def test_clean_parts_are_found() -> None:
    """Seeds that each lie in one part, and no merge: the regions are the parts."""
    dense_Dhw, part_hw = scene(11, (12, 12), parts=4, noise=0.02)
    config = RegionConfig(windows=(3,), merge_threshold=0.99, minimum_tokens=1)
    mined = mine_regions(dense_Dhw, np.ones((12, 12), bool), config, backend="sklearn")
    for region in range(1, mined.max() + 1):
        assert len(set(part_hw[mined == region].tolist())) == 1
    sizes = np.bincount(mined.ravel())
    assert sizes[0] == 0
    assert (np.diff(sizes[1:]) <= 0).all()


def test_ids_go_by_size_then_by_first_token() -> None:
    """Three flat areas of 2, 4 and 2 tokens on one row."""
    one_hot = np.eye(3)[[2, 2, 0, 0, 0, 0, 1, 1]]
    dense_Dhw = one_hot.T[:, None, :].astype(np.float16)
    config = RegionConfig(windows=(1,), minimum_tokens=1, merge_threshold=0.9)
    mined = mine_regions(dense_Dhw, np.ones((1, 8), bool), config, backend="sklearn")
    assert mined.tolist() == [[2, 2, 1, 1, 1, 1, 3, 3]]


def test_small_regions_are_dropped_after_merging() -> None:
    """Two clusters of two tokens each, alike enough to merge, make one of four."""
    angles = np.deg2rad([0, 0, 10, 10, 90, 90])
    dense_Dhw = np.stack([np.cos(angles), np.sin(angles)])[:, None, :].astype(np.float16)
    config = RegionConfig(windows=(2,), minimum_tokens=3, merge_threshold=0.98)
    mined = mine_regions(dense_Dhw, np.ones((1, 6), bool), config, backend="sklearn")
    assert mined.tolist() == [[1, 1, 1, 1, 0, 0]]


def test_labelled_tokens_are_in_no_region_and_change_nothing() -> None:
    dense_Dhw, _ = scene(2, (8, 8), parts=4, noise=0.2)
    unlabelled_hw = np.random.default_rng(1).random((8, 8)) < 0.5
    config = RegionConfig(windows=(3,), minimum_tokens=1)
    mined = mine_regions(dense_Dhw, unlabelled_hw, config, backend="sklearn")
    assert ((mined > 0) == unlabelled_hw).all()
    other_Dhw = np.where(unlabelled_hw, dense_Dhw, np.float16(7))
    again = mine_regions(other_Dhw, unlabelled_hw, config, backend="sklearn")
    np.testing.assert_array_equal(mined, again)


def test_the_length_of_tokens_does_not_count() -> None:
    dense_Dhw, _ = scene(4, (8, 8), parts=4, noise=0.2)
    whole, config = np.ones((8, 8), bool), RegionConfig(windows=(3,))
    factor_hw = 2.0 ** np.random.default_rng(0).integers(-3, 4, (8, 8))
    mined = mine_regions(dense_Dhw.astype(np.float32), whole, config, backend="sklearn")
    scaled = mine_regions(
        dense_Dhw.astype(np.float32) * factor_hw, whole, config, backend="sklearn"
    )
    np.testing.assert_array_equal(mined, scaled)


def test_nothing_unlabelled_is_no_region() -> None:
    dense_Dhw, _ = scene(0, (5, 6), parts=3, noise=0.1)
    mined = mine_regions(dense_Dhw, np.zeros((5, 6), bool), RegionConfig(), backend="sklearn")
    assert mined.shape == (5, 6)
    assert not mined.any()


def test_one_unlabelled_token_is_one_region() -> None:
    dense_Dhw, _ = scene(0, (5, 6), parts=3, noise=0.1)
    unlabelled_hw = np.zeros((5, 6), bool)
    unlabelled_hw[2, 3] = True
    config = RegionConfig(minimum_tokens=1)
    mined = mine_regions(dense_Dhw, unlabelled_hw, config, backend="sklearn")
    np.testing.assert_array_equal(mined, unlabelled_hw)


def test_at_most_255_regions() -> None:
    """300 orthogonal tokens, the first two alike: the largest region and the first 254 others."""
    dense_DN = np.eye(300, dtype=np.float16)
    dense_DN[:, 299] = dense_DN[:, 298]
    config = RegionConfig(windows=(1,), minimum_tokens=1)
    mined = mine_regions(
        dense_DN.reshape(300, 15, 20), np.ones((15, 20), bool), config, backend="sklearn"
    ).ravel()
    assert mined[298] == mined[299] == 1
    assert mined[:254].tolist() == list(range(2, 256))
    assert not mined[254:298].any()
