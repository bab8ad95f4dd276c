"""Relational dense distillation against loops in float64 and against a case by hand."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsseg.stages.train.losses.objectives import dense_relation

TAU = 0.1


def drawn(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Feature (2, 5, 6, 9), tokens (2, 5, 2, 3), and weights of cells from 0 to 1."""
    rng = torch.Generator().manual_seed(seed)
    feature_BDhw = torch.randn(2, 5, 6, 9, generator=rng).requires_grad_()
    weight_Byx = torch.rand(2, 2, 3, generator=rng)
    weight_Byx[1, 0, 1] = 0
    return feature_BDhw, torch.randn(2, 5, 2, 3, generator=rng), weight_Byx


def softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(values - values.max())
    return np.asarray(powers / powers.sum())


def slowly(feature_BDhw: Tensor, dense_BDyx: Tensor, weight_Byx: Tensor) -> float:
    """The equation, a cell at a time; the grid divides the feature."""
    feature, dense, weight = (
        each.detach().double().numpy() for each in (feature_BDhw, dense_BDyx, weight_Byx)
    )
    down, along = (a // b for a, b in zip(feature.shape[2:], dense.shape[2:], strict=True))
    total = weights = 0.0
    for b in range(len(dense)):
        cells = [yx for yx in np.ndindex(*dense.shape[2:]) if dense[(b, slice(None), *yx)].any()]
        token = [dense[b, :, y, x] / np.linalg.norm(dense[b, :, y, x]) for y, x in cells]
        for y, x in cells:
            members = feature[b, :, y * down : (y + 1) * down, x * along : (x + 1) * along]
            mean = members.reshape(len(members), -1).mean(1)
            own = dense[b, :, y, x] / np.linalg.norm(dense[b, :, y, x])
            teacher = softmax(np.array([own @ each for each in token]) / TAU)
            student = softmax(
                np.array([mean @ each for each in token]) / np.linalg.norm(mean) / TAU
            )
            total += weight[b, y, x] * float((teacher * np.log(teacher / student)).sum())
            weights += weight[b, y, x]
    return total / weights


@pytest.mark.parametrize("absent", [False, True])
def test_against_loops(absent: bool) -> None:
    feature_BDhw, dense_BDyx, weight_Byx = drawn()
    if absent:
        dense_BDyx[0, :, 1, 2] = 0
    loss = dense_relation(feature_BDhw, dense_BDyx, weight_Byx, tau=TAU)
    assert loss.item() == pytest.approx(slowly(feature_BDhw, dense_BDyx, weight_Byx), rel=1e-5)


def test_by_hand() -> None:
    # Tokens (1, 0) and (0, 1), features (1, 0) and (1, 0), tau 1: the first cell agrees, the second
    # has P = (1, e) / (1 + e) and Q = (e, 1) / (1 + e), so KL = (e - 1) / (e + 1).
    feature_BDhw = torch.tensor([[[[2.0, 3.0]], [[0.0, 0.0]]]])
    dense_BDyx = torch.tensor([[[[1.0, 0.0]], [[0.0, 5.0]]]])
    loss = dense_relation(feature_BDhw, dense_BDyx, torch.tensor([[[3.0, 1.0]]]), tau=1.0)
    assert loss.item() == pytest.approx((np.e - 1) / (np.e + 1) / 4)


def test_a_feature_that_is_the_token_costs_nothing() -> None:
    _, dense_BDyx, weight_Byx = drawn()
    feature_BDhw = (7 * dense_BDyx).repeat_interleave(3, 2).repeat_interleave(3, 3)
    loss = dense_relation(feature_BDhw, dense_BDyx, weight_Byx, tau=TAU)
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_cells_without_a_token_or_a_weight_learn_nothing() -> None:
    feature_BDhw, dense_BDyx, weight_Byx = drawn()
    dense_BDyx[0, :, 1, 2] = 0
    loss = dense_relation(feature_BDhw, dense_BDyx, weight_Byx, tau=TAU)
    (grad,) = torch.autograd.grad(loss, feature_BDhw)
    learns = (weight_Byx > 0) & (dense_BDyx != 0).any(1)
    expected = learns.repeat_interleave(3, 1).repeat_interleave(3, 2)
    assert torch.equal((grad != 0).any(1), expected)


@pytest.mark.parametrize("nothing", ["no weight", "no token", "no feature"])
def test_of_nothing(nothing: str) -> None:
    feature_BDhw, dense_BDyx, weight_Byx = drawn()
    if nothing == "no feature":
        feature_BDhw = torch.zeros_like(feature_BDhw).requires_grad_()
    else:
        (weight_Byx if nothing == "no weight" else dense_BDyx).zero_()
    loss = dense_relation(feature_BDhw, dense_BDyx, weight_Byx, tau=TAU)
    (grad,) = torch.autograd.grad(loss, feature_BDhw)
    assert torch.isfinite(grad).all()
    if nothing != "no feature":
        assert loss.item() == 0
        assert (grad == 0).all()


def test_tokens_that_are_nearly_alike_are_told_apart() -> None:
    # A cosine of 0.99 between two tokens: a feature that is the other costs 0.01 as a cosine.
    a_D, b_D = torch.tensor([1.0, 0.0]), torch.tensor([0.99, (1 - 0.99**2) ** 0.5])
    dense_BDyx = torch.stack([a_D, b_D], dim=1)[None, :, None]
    swapped_BDhw = dense_BDyx.flip(3)
    loss = dense_relation(swapped_BDhw, dense_BDyx, torch.ones(1, 1, 2), tau=0.003)
    assert loss.item() > 1
