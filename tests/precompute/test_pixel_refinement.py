"""PAMR against a slow literal transcription of the paper's equations and the authors' constants."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from zsseg.stages.precompute.make.pixel_refinement import affinities, pamr

RING = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]


def neighbours(y: int, x: int, size: tuple[int, int], dilations: tuple[int, ...]) -> list[int]:
    """Flat indices of the neighbours of a pixel; beyond the border the nearest pixel."""
    found = []
    for d in dilations:
        for down, across in RING:
            row = min(max(y + down * d, 0), size[0] - 1)
            column = min(max(x + across * d, 0), size[1] - 1)
            found.append(row * size[1] + column)
    return found


def pamr_slowly(
    score_CHW: NDArray[np.float64],
    image_3HW: NDArray[np.float64],
    iterations: int,
    dilations: tuple[int, ...],
) -> NDArray[np.float64]:
    """Eq. 5: k(x_i, x_j) = -|x_i - x_j| / (0.1 sigma_i), its mean over the channels, softmax over
    the neighbours; Eq. 6: the score of a pixel becomes that mean of its neighbours' scores."""
    classes, height, width = score_CHW.shape
    image_3L, score_CL = image_3HW.reshape(3, -1), score_CHW.reshape(classes, -1)
    for _ in range(iterations):
        new_CL = np.zeros_like(score_CL)
        for y in range(height):
            for x in range(width):
                i, around = y * width + x, neighbours(y, x, (height, width), dilations)
                kernel = []
                for j in around:
                    total = 0.0
                    for channel in range(3):
                        # The authors' window is 3 x 3 per dilation, with the pixel itself.
                        window = [image_3L[channel, n] for n in [*around, *[i] * len(dilations)]]
                        mean = sum(window) / len(window)
                        squares = sum((value - mean) ** 2 for value in window)
                        sigma = math.sqrt(squares / (len(window) - 1))
                        difference = abs(image_3L[channel, i] - image_3L[channel, j])
                        total += -difference / (1e-8 + 0.1 * sigma)
                    kernel.append(total / 3)
                weights = [math.exp(value - max(kernel)) for value in kernel]
                for weight, j in zip(weights, around, strict=True):
                    new_CL[:, i] += weight / sum(weights) * score_CL[:, j]
        score_CL = new_CL
    return score_CL.reshape(score_CHW.shape)


@pytest.mark.parametrize("dilations", [(1,), (1, 2, 4), (3, 9)])
def test_it_is_what_the_equations_say(dilations: tuple[int, ...]) -> None:
    """A ring of 9 is wider than the whole image."""
    rng = np.random.default_rng(3)
    image_3HW = rng.integers(0, 256, (3, 6, 5)).astype(np.float64)
    image_3HW[:, :3, :3] = 90  # flat: no deviation inside it for the smallest ring
    score_CHW = rng.random((4, 6, 5))
    expected = pamr_slowly(score_CHW, image_3HW, 3, dilations)
    found = pamr(
        torch.tensor(score_CHW), torch.tensor(image_3HW), iterations=3, dilations=dilations
    )
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)
    single = pamr(
        torch.tensor(score_CHW).float(),
        torch.tensor(image_3HW).float(),
        iterations=3,
        dilations=dilations,
    )
    np.testing.assert_allclose(single.numpy(), expected, rtol=1e-4)


def test_affinities_are_weights_that_the_range_of_the_image_does_not_change() -> None:
    rng = torch.Generator().manual_seed(0)
    image_3HW = torch.randint(0, 256, (3, 7, 8), generator=rng).double()
    affinity_PHW = affinities(image_3HW, (1, 2))
    assert affinity_PHW.shape == (16, 7, 8)
    torch.testing.assert_close(affinity_PHW.sum(0), torch.ones(7, 8, dtype=torch.float64))
    torch.testing.assert_close(
        affinities(image_3HW / 255, (1, 2)), affinity_PHW, rtol=1e-4, atol=1e-6
    )


def test_scores_stop_at_an_edge_and_spread_inside() -> None:
    """A blot of another class in the left half of an image of two colours."""
    image_3HW = torch.zeros(3, 12, 12)
    image_3HW[:, :, 6:] = 200
    score_CHW = torch.zeros(2, 12, 12)
    score_CHW[0, :, :6] = 1
    score_CHW[1, :, 6:] = 1
    score_CHW[:, 5, 2] = torch.tensor([0.0, 1.0])
    refined = pamr(score_CHW, image_3HW, iterations=10, dilations=(1, 2))
    assert (refined.argmax(0)[:, :6] == 0).all()
    assert (refined.argmax(0)[:, 6:] == 1).all()
    torch.testing.assert_close(refined.sum(0), torch.ones(12, 12))
