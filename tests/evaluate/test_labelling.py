"""Labels at full size against every class upsampled, by hand and by torch."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from zsseg.stages.evaluate import labelling
from zsseg.stages.evaluate.labelling import upsampled_argmax


def plainly(score_Chw: Tensor, size: tuple[int, int]) -> NDArray[np.int64]:
    score_CYX = F.interpolate(score_Chw[None], size=size, mode="bilinear")[0]
    return score_CYX.max(0).indices.numpy()


def smooth(classes: int, grid: tuple[int, int], *, noise: float, seed: int) -> Tensor:
    """Scores of a few regions with uneven borders, as a network gives them."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, classes, 4, 5, generator=rng)
    score_Chw = F.interpolate(coarse, size=grid, mode="bicubic")[0]
    return score_Chw + noise * torch.randn(classes, *grid, generator=rng)


SIZES = [(29, 41), (40, 48), (10, 12), (5, 7), (1, 1), (64, 12), (10, 100), (123, 145)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("chunk", [1, 4000, 2**24])
def test_against_bilinear_scores_by_hand(
    size: tuple[int, int], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, "CHUNK_VALUES", chunk)
    score_Chw = np.random.default_rng(3).normal(size=(9, 10, 12))
    label_YX = upsampled_argmax(torch.from_numpy(score_Chw).float(), size)

    expected = np.empty(size, dtype=np.uint8)
    for y in range(size[0]):
        for x in range(size[1]):
            row = min(max((y + 0.5) * 10 / size[0] - 0.5, 0), 9)
            column = min(max((x + 0.5) * 12 / size[1] - 0.5, 0), 11)
            top, left = int(row), int(column)
            bottom, right = min(top + 1, 9), min(left + 1, 11)
            upper = score_Chw[:, top, left] + (column - left) * (
                score_Chw[:, top, right] - score_Chw[:, top, left]
            )
            lower = score_Chw[:, bottom, left] + (column - left) * (
                score_Chw[:, bottom, right] - score_Chw[:, bottom, left]
            )
            expected[y, x] = np.argmax(upper + (row - top) * (lower - upper))
    assert label_YX.dtype == np.uint8
    np.testing.assert_array_equal(label_YX, expected)


@pytest.mark.parametrize("noise", [0.0, 0.1, 3.0])
@pytest.mark.parametrize("grid", [(16, 16), (1, 9), (7, 1), (13, 21)])
@pytest.mark.parametrize("factor", [1, 2, 3.3, 4, 8, 0.5])
def test_the_map_is_that_of_all_classes_upsampled(
    noise: float, grid: tuple[int, int], factor: float
) -> None:
    size = (max(1, round(grid[0] * factor)), max(1, round(grid[1] * factor)))
    for seed in range(3):
        score_Chw = smooth(60, grid, noise=noise, seed=seed)
        np.testing.assert_array_equal(upsampled_argmax(score_Chw, size), plainly(score_Chw, size))


def test_as_many_pixels_as_an_image_has() -> None:
    # 171 classes at 512 x 512, as alike as cosines are; rounding may decide between equal scores.
    differ = 0
    for seed, noise in enumerate((0.0, 0.05, 0.3)):
        score_Chw = 0.2 + 0.01 * smooth(171, (128, 128), noise=noise, seed=seed)
        expected_YX = plainly(score_Chw, (512, 512))
        assert len(np.unique(expected_YX)) > 20
        differ += int((upsampled_argmax(score_Chw, (512, 512)) != expected_YX).sum())
    assert differ <= 3  # of 786,432


def test_a_class_that_is_best_at_no_cell_wins_between_them() -> None:
    # Two cells; class 2 is second at both and first in the middle.
    score_Chw = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.8]])[:, None]
    assert upsampled_argmax(score_Chw, (1, 8)).tolist() == [[0, 0, 0, 2, 2, 1, 1, 1]]


@pytest.mark.parametrize("chunk", [1, 2**24])
def test_ties_go_to_the_lowest_id(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelling, "CHUNK_VALUES", chunk)
    score_Chw = torch.tensor([-2.0, -1.0, -1.0])[:, None, None].expand(3, 2, 2)
    assert (upsampled_argmax(score_Chw, (4, 4)) == 1).all()
    # Classes 1 and 4 are the same, and so are 2 and 3; each pair wins on one side.
    side = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    score_Chw = side[:, None].expand(5, 2, 2)
    assert upsampled_argmax(score_Chw, (2, 8)).tolist() == [[1, 1, 1, 1, 2, 2, 2, 2]] * 2
    # Equal at the first cell, of which the first two pixels are made alone.
    score_Chw = torch.tensor([[1.0, 0.0], [1.0, 2.0]])[:, None]
    assert upsampled_argmax(score_Chw, (1, 8)).tolist() == [[0, 0, 1, 1, 1, 1, 1, 1]]


@pytest.mark.parametrize("classes", [1, 2, 255])
def test_any_number_of_classes(classes: int) -> None:
    score_Chw = smooth(classes, (6, 7), noise=1.0, seed=0)
    label_YX = upsampled_argmax(score_Chw, (20, 20))
    np.testing.assert_array_equal(label_YX, plainly(score_Chw, (20, 20)))


def test_few_classes_are_upsampled() -> None:
    """What it is for: of the scores that the plain way computes, only a small part."""
    computed = 0

    class Count(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            nonlocal computed
            if func == torch.ops.aten.scatter_reduce_.two and args[4] == "amax":
                computed += args[3].numel()
            return func(*args, **(kwargs or {}))

    score_Chw = smooth(171, (64, 64), noise=0.02, seed=0)
    with Count():  # type: ignore[no-untyped-call]
        label_YX = upsampled_argmax(score_Chw, (256, 256))
    np.testing.assert_array_equal(label_YX, plainly(score_Chw, (256, 256)))
    assert 0 < computed < 256 * 256  # of 171 times as many
