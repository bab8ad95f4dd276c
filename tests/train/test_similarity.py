"""Cosines and the attention pool against torch's own formulas, differentiated by torch."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from zsseg.stages.train.students.similarity import attention, cosines, feature_norm

BATCH, WIDTH, POSITIONS, VECTORS = 2, 5, 7, 3


def feature(kind: torch.dtype = torch.float64, *, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, WIDTH, POSITIONS, generator=rng, dtype=torch.float64).to(kind)


def vectors(seed: int = 1) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    vector_BCD = torch.randn(BATCH, VECTORS, WIDTH, generator=rng, dtype=torch.float64)
    return F.normalize(vector_BCD, dim=2)


def query(seed: int = 2) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(BATCH, WIDTH, generator=rng, dtype=torch.float64)


def plain_cosines(feature_BDL: Tensor, vector_BCD: Tensor, scale: float) -> Tensor:
    cosine_BCL = F.cosine_similarity(feature_BDL[:, None], vector_BCD[..., None], dim=2)
    return scale * cosine_BCL


def plain_pool(
    feature_BDL: Tensor, query_BD: Tensor, inside_BL: Tensor | None, normalise: bool
) -> tuple[Tensor, Tensor]:
    """Paper 1, section III-A, image by image, on the positions inside only."""
    pooled, weights = [], []
    for b in range(len(feature_BDL)):
        inside_L = torch.ones(feature_BDL.shape[2], dtype=torch.bool)
        if inside_BL is not None:
            inside_L = inside_BL[b]
        feature_DL = feature_BDL[b][:, inside_L]
        if normalise:
            feature_DL = feature_DL / feature_DL.norm(dim=0)
        weight_L = torch.softmax(query_BD[b] @ feature_DL / math.sqrt(len(feature_DL)), dim=0)
        pooled.append(feature_DL @ weight_L)
        weights.append(torch.zeros(len(inside_L)).double().masked_scatter(inside_L, weight_L))
    return torch.stack(pooled), torch.stack(weights)


@pytest.mark.parametrize("strided", [False, True])
def test_cosines_and_both_gradients(strided: bool) -> None:
    feature_BDL = feature()
    if strided:  # positions side by side, as channels last
        feature_BDL = feature_BDL.transpose(1, 2).contiguous().transpose(1, 2)
    feature_BDL.requires_grad_()
    vector_BCD = vectors().requires_grad_()
    found_BCL = cosines(feature_BDL, vector_BCD, scale=100.0)
    expected_BCL = plain_cosines(feature_BDL, vector_BCD, 100.0)
    torch.testing.assert_close(found_BCL, expected_BCL, rtol=0, atol=1e-11)
    # The formula divides by the length of the vectors too; ours has them of length 1.
    product_BCL = torch.einsum("bcd,bdl->bcl", vector_BCD, feature_BDL)
    by_hand_BCL = 100 * product_BCL / feature_BDL.norm(dim=1)[:, None]
    incoming_BCL = torch.randn_like(found_BCL)
    leaves = (feature_BDL, vector_BCD)
    for found, expected in zip(
        torch.autograd.grad(found_BCL, leaves, incoming_BCL),
        torch.autograd.grad(by_hand_BCL, leaves, incoming_BCL),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_cosines_by_finite_differences() -> None:
    def call(feature_BDL: Tensor, vector_BCD: Tensor) -> Tensor:
        return cosines(feature_BDL, vector_BCD, scale=10.0)

    leaves = (feature().requires_grad_(), vectors().requires_grad_())
    assert torch.autograd.gradcheck(call, leaves)


def test_one_of_two_gradients() -> None:
    vector_BCD = vectors().requires_grad_()
    cosines(feature(), vector_BCD, scale=1.0).sum().backward()
    torch.testing.assert_close(
        vector_BCD.grad,
        F.normalize(feature(), dim=1).sum(2)[:, None].expand(-1, VECTORS, -1),
    )
    feature_BDL = feature().requires_grad_()
    cosines(feature_BDL, vectors(), scale=1.0).sum().backward()
    assert feature_BDL.grad is not None


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_attention_and_its_gradient(normalise: bool, masked: bool) -> None:
    feature_BDL = feature().requires_grad_()
    inside_BL = torch.rand(BATCH, POSITIONS, generator=torch.manual_seed(3)) < 0.6
    inside = inside_BL if masked else None
    found_BD, weight_BL = attention(feature_BDL, query(), inside, normalise=normalise)
    expected_BD, expected_BL = plain_pool(feature_BDL, query(), inside, normalise)
    torch.testing.assert_close(found_BD, expected_BD, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(weight_BL, expected_BL.detach(), rtol=1e-12, atol=1e-12)
    assert not weight_BL.requires_grad
    incoming_BD = torch.randn_like(found_BD)
    (found,) = torch.autograd.grad(found_BD, feature_BDL, incoming_BD)
    (expected,) = torch.autograd.grad(expected_BD, feature_BDL, incoming_BD)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    outside = found.transpose(1, 2)[~inside_BL]
    assert bool((outside == 0).all()) == masked


@pytest.mark.parametrize("normalise", [True, False])
def test_attention_by_finite_differences(normalise: bool) -> None:
    inside_BL = torch.tensor([[True] * POSITIONS, [False] * POSITIONS])

    def call(feature_BDL: Tensor) -> Tensor:
        return attention(feature_BDL, query(), inside_BL, normalise=normalise)[0]

    feature_BDL = feature().requires_grad_()
    assert torch.autograd.gradcheck(call, (feature_BDL,))
    pooled_BD = call(feature_BDL)
    assert (pooled_BD[1] == 0).all()
    (gradient,) = torch.autograd.grad(pooled_BD.sum(), feature_BDL)
    assert (gradient[1] == 0).all()


def test_a_query_that_is_learnt_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError):
        attention(feature(), query().requires_grad_(), None, normalise=True)


def test_a_feature_of_nothing() -> None:
    feature_BDL = feature()
    feature_BDL[:, :, 2] = 0
    feature_BDL.requires_grad_()
    found_BCL = cosines(feature_BDL, vectors(), scale=100.0)
    pooled_BD, _ = attention(feature_BDL, query(), None, normalise=True)
    (gradient_BDL,) = torch.autograd.grad(found_BCL.sum() + pooled_BD.sum(), feature_BDL)
    assert (found_BCL[:, :, 2] == 0).all()
    assert torch.isfinite(gradient_BDL).all()
    assert (feature_norm(feature_BDL) > 0).all()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [True, False])
def test_gradients_in_half_precision_stay_close(kind: torch.dtype, autocast: bool) -> None:
    # 64 x 64 positions of long vectors: the shares are below half's range.
    rng = torch.Generator().manual_seed(0)
    exact_BDL = 40 * torch.randn(1, 16, 4096, generator=rng) + 20
    token_BD = torch.randn(1, 16, generator=rng)
    text_BCD = F.normalize(torch.randn(1, 7, 16, generator=rng), dim=2)
    # float16's numbers end at 6e-8: gradients are scaled, as in training.
    scale = 2.0**10
    incoming = (
        scale * torch.randn(1, 7, 4096, generator=rng),
        scale * torch.randn(1, 16, generator=rng),
    )
    gradients = []
    for given in (torch.float32, kind):
        feature_BDL = exact_BDL.to(given).requires_grad_()
        with torch.autocast("cpu", kind, enabled=autocast and given == kind):
            score_BCL = cosines(feature_BDL, text_BCD, scale=100.0)
            pooled_BD, _ = attention(feature_BDL, token_BD, None, normalise=True)
            assert score_BCL.dtype == pooled_BD.dtype == torch.float32
            # Also a backward pass within the context.
            of_scores, of_pooled = (
                torch.autograd.grad(output, feature_BDL, grad, retain_graph=True)[0]
                for output, grad in zip((score_BCL, pooled_BD), incoming, strict=True)
            )
        assert of_scores.dtype == of_pooled.dtype == given
        gradients.append((of_scores.float(), of_pooled.float()))
    for exact, half in zip(*gradients, strict=True):
        assert float((half - exact).norm() / exact.norm()) < 0.02


def test_a_backward_pass_makes_one_gradient_of_the_feature_each() -> None:
    feature_BDL = torch.randn(2, 64, 200, requires_grad=True)
    vector_BCD = F.normalize(torch.randn(2, 3, 64), dim=2)
    made = 0

    class Count(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            nonlocal made
            result = func(*args, **(kwargs or {}))
            new = isinstance(result, Tensor) and all(
                not isinstance(arg, Tensor)
                or arg.untyped_storage().data_ptr() != result.untyped_storage().data_ptr()
                for arg in args
            )
            made += new and result.numel() == feature_BDL.numel()
            return result

    with Count():  # type: ignore[no-untyped-call]
        score_BCL = cosines(feature_BDL, vector_BCD, scale=1.0)
        pooled_BD, _ = attention(feature_BDL, torch.randn(2, 64), None, normalise=True)
        assert made == 0
        torch.autograd.grad(score_BCL.sum(), feature_BDL)
        assert made == 1
        torch.autograd.grad(pooled_BD.sum(), feature_BDL)
        assert made == 2
        torch.autograd.grad(F.normalize(feature_BDL, dim=1).sum(), feature_BDL)
    assert made > 4
