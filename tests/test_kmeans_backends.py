"""The benchmark of the two k-means libraries: its score by hand, and what it prints."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.random_store import write_store
from numpy.typing import NDArray

from benchmarks import kmeans_backends
from benchmarks.kmeans_backends import backend_agreement
from zsseg.stages.data.spec import load_spec
from zsseg.stages.precompute.make import kmeans
from zsseg.stages.precompute.make.kmeans import Backend
from zsseg.stages.precompute.precompute_config import RegionConfig

CONFIG = RegionConfig(windows=(2,), minimum_tokens=1, merge_threshold=0.99)


def pairs_index(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    """Adjusted Rand index by its definition: pairs that both, one, the other, neither join."""
    both = first = second = pairs = 0
    for a in range(len(one)):
        for b in range(a):
            joined, united = one[a] == one[b], other[a] == other[b]
            both, first, second = both + (joined and united), first + joined, second + united
            pairs += 1
    expected = first * second / pairs
    return float((both - expected) / ((first + second) / 2 - expected))


def four_blocks(seed: int) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """8 x 8 tokens in four quarters of one direction each; the last column is labelled."""
    rng = np.random.default_rng(seed)
    quarter_hw = np.repeat(np.repeat([[0, 1], [2, 3]], 4, axis=0), 4, axis=1)
    dense_Dhw = np.eye(4)[quarter_hw].transpose(2, 0, 1) + rng.normal(0, 0.02, (4, 8, 8))
    unlabelled_hw = np.ones((8, 8), bool)
    unlabelled_hw[:, -1] = False
    return dense_Dhw.astype(np.float16), unlabelled_hw


def quarters(monkeypatch: pytest.MonkeyPatch, change: dict[int, int]) -> list[Backend]:
    """k-means finds the quarters, and cuML renames or unites some; returns who was asked."""
    asked: list[Backend] = []

    def found_kmeans(
        points_ND: NDArray[np.float32], seeds_SD: object, *, iterations: int, backend: Backend
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        asked.append(backend)
        label_N = points_ND.argmax(1)
        if backend == "cuml":
            label_N = np.array([change.get(label, label) for label in label_N.tolist()])
        return label_N, np.eye(4, dtype=np.float32)

    monkeypatch.setattr("zsseg.stages.precompute.make.regions.kmeans", found_kmeans)
    return asked


def test_the_same_parts_agree_whatever_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    changes: tuple[dict[int, int], ...] = ({}, {0: 3, 3: 0, 1: 2, 2: 1})
    for change in changes:
        quarters(monkeypatch, change)
        found = backend_agreement([four_blocks(0), four_blocks(1)], CONFIG)
        assert found is not None
        assert (found.images, found.mean, found.worst) == (2, 1.0, 1.0)


def test_other_parts_agree_as_far_as_their_pairs_do(monkeypatch: pytest.MonkeyPatch) -> None:
    quarters(monkeypatch, {1: 0})
    dense_Dhw, unlabelled_hw = four_blocks(0)
    none_left = np.zeros((8, 8), bool)
    left_half = unlabelled_hw.copy()
    left_half[:, 4:] = False  # quarters 0 and 2 only: nothing is united there
    found = backend_agreement(
        [(dense_Dhw, unlabelled_hw), (dense_Dhw, none_left), (dense_Dhw, left_half)], CONFIG
    )
    # By hand: parts of 16, 12, 16, 12 against 28, 16, 12 of 56 tokens. Pairs joined: 372 of one,
    # 564 of the other, 372 of both, of 1540 in all.
    expected = 372 * 564 / 1540
    united = (372 - expected) / ((372 + 564) / 2 - expected)
    row_hw, column_hw = np.indices((8, 8)) // 4
    quarter_N = (2 * row_hw + column_hw)[unlabelled_hw]
    assert united == pytest.approx(pairs_index(quarter_N, np.where(quarter_N == 1, 0, quarter_N)))
    assert found is not None
    assert found.images == 2
    assert found.worst == pytest.approx(united)
    assert found.mean == pytest.approx((united + 1) / 2)


def test_both_libraries_are_warmed_up_once_and_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = quarters(monkeypatch, {})
    clock = iter(range(100))
    monkeypatch.setattr(kmeans_backends, "perf_counter", lambda: next(clock))
    found = backend_agreement([four_blocks(0), four_blocks(1)], CONFIG)
    assert found
    assert list(found.seconds) == [2, 2]
    assert asked == ["sklearn", "sklearn", "cuml", "cuml", "sklearn", "cuml"]


def test_nothing_unlabelled_is_nothing_to_compare() -> None:
    dense_Dhw, _ = four_blocks(0)
    assert backend_agreement([(dense_Dhw, np.zeros((8, 8), bool))], CONFIG) is None


def run_benchmark(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["kmeans_backends", *map(str, words)])
    kmeans_backends.main()


def test_benchmark_without_a_gpu_says_why_and_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run_benchmark(monkeypatch, tmp_path / "no-store")
    assert capsys.readouterr().out.startswith("nothing to compare: regions.backend is 'cuml', but")


def test_benchmark_compares_the_images_of_a_store(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    tiny_world: Path,
) -> None:
    store = write_store(tmp_path / "store", tiny_world, failed=(2,), seed=3)
    monkeypatch.setattr(kmeans_backends, "choose_backend", lambda asked, device: asked)

    def sklearn_for_both(*words: object, backend: Backend, iterations: int) -> object:
        return kmeans.kmeans(*words, iterations=iterations, backend="sklearn")  # type: ignore[arg-type]

    monkeypatch.setattr("zsseg.stages.precompute.make.regions.kmeans", sklearn_for_both)
    # This small store has no description of its data set; `zsseg precompute` puts it in.
    monkeypatch.setattr(kmeans_backends, "stored_spec", lambda _: load_spec(str(tiny_world)))
    run_benchmark(monkeypatch, store.path, "--root", tiny_world.parent, "--every", 2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 images of store"
    assert lines[1] == "adjusted Rand index of the regions: mean 1.0000, worst 1.0000"
    assert [line.split(":")[0] for line in lines[2:]] == ["sklearn", "cuml"]
