"""The losses against float64 numpy and against numbers worked by hand."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from zsseg.stages.train.losses.likelihood import negative_log_likelihood
from zsseg.stages.train.losses.objectives import (
    attention_pool,
    cross_entropy,
    dense_distillation,
    focal,
    pixel_weights,
    sdd,
)
from zsseg.stages.train.students.similarity import feature_norm

Array = NDArray[np.float64]


def softmax(values: Array) -> Array:
    powers = np.exp(values - values.max())
    return np.asarray(powers / powers.sum())


def logits_and_label(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (2, 5, 3, 4) and labels with a few void pixels and a whole void row."""
    rng = np.random.default_rng(seed)
    label_BHW = rng.integers(0, 5, (2, 3, 4))
    label_BHW[0, 1] = 255
    label_BHW[1, 2, 3] = 255
    logits_BCHW = torch.tensor(rng.normal(0, 3, (2, 5, 3, 4)), dtype=torch.float32)
    return logits_BCHW.requires_grad_(), torch.tensor(label_BHW)


def entropy_of(logits_BCHW: torch.Tensor, label_BHW: torch.Tensor) -> torch.Tensor:
    return cross_entropy(negative_log_likelihood(logits_BCHW, label_BHW), label_BHW)


def focal_of(logits_BCHW: torch.Tensor, label_BHW: torch.Tensor, *, gamma: float) -> torch.Tensor:
    return focal(negative_log_likelihood(logits_BCHW, label_BHW), label_BHW, gamma=gamma)


def test_the_likelihood_of_each_pixel() -> None:
    logits_BCHW, label_BHW = logits_and_label(2)
    nll_BHW = negative_log_likelihood(logits_BCHW.half(), label_BHW)
    assert nll_BHW.dtype == torch.float32
    rounded = logits_BCHW.detach().half().numpy().astype(np.float64)
    for (b, y, x), label in np.ndenumerate(label_BHW.numpy()):
        expected = 0.0 if label == 255 else -np.log(softmax(rounded[b, :, y, x])[label])
        assert nll_BHW[b, y, x].item() == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_is_the_mean_over_labelled_pixels() -> None:
    logits_BCHW, label_BHW = logits_and_label()
    expected = [
        -np.log(softmax(logits_BCHW.detach().numpy().astype(np.float64)[b, :, y, x])[label])
        for (b, y, x), label in np.ndenumerate(label_BHW.numpy())
        if label != 255
    ]
    assert len(expected) == 19
    assert entropy_of(logits_BCHW, label_BHW).item() == pytest.approx(np.mean(expected), rel=1e-6)


def test_a_class_of_minus_infinity_is_left_out_of_the_softmax() -> None:
    logits_BCHW, label_BHW = logits_and_label()
    label_BHW[label_BHW == 4] = 255
    suppressed = logits_BCHW.detach().clone()
    suppressed[:, 4] = -torch.inf
    suppressed.requires_grad_()
    loss = entropy_of(suppressed, label_BHW)
    (grad,) = torch.autograd.grad(loss, suppressed)
    torch.testing.assert_close(loss, entropy_of(logits_BCHW[:, :4], label_BHW))
    assert torch.isfinite(grad).all()
    assert (grad[:, 4] == 0).all()


def test_focal_by_hand() -> None:
    # Two classes at logit 0: p_t = 1/2, so (1/2)^2 * ln 2.
    loss = focal_of(torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.int64), gamma=2)
    assert loss.item() == pytest.approx(0.25 * np.log(2))


@pytest.mark.parametrize("gamma", [2.0, 0.5, 0.0])
def test_focal_against_the_formula_pixel_by_pixel(gamma: float) -> None:
    logits_BCHW, label_BHW = logits_and_label(1)
    terms = []
    for (b, y, x), label in np.ndenumerate(label_BHW.numpy()):
        if label != 255:
            p_t = softmax(logits_BCHW.detach().numpy().astype(np.float64)[b, :, y, x])[label]
            terms.append(-((1 - p_t) ** gamma) * np.log(p_t))
    loss = focal_of(logits_BCHW, label_BHW, gamma=gamma)
    assert loss.item() == pytest.approx(np.mean(terms), rel=1e-5)


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_a_pixel_weighs_by_how_much_of_its_image_its_class_has(balance: float) -> None:
    _, label_BHW = logits_and_label()
    weight_BHW = pixel_weights(label_BHW, balance=balance)
    for (b, y, x), label in np.ndenumerate(label_BHW.numpy()):
        size = int((label_BHW[b] == label).sum())
        expected = 0.0 if label == 255 else float(size) ** -balance
        assert weight_BHW[b, y, x].item() == pytest.approx(expected)


@pytest.mark.parametrize("balance", [0.5, 1.0])
def test_balanced_cross_entropy_is_a_weighted_mean(balance: float) -> None:
    logits_BCHW, label_BHW = logits_and_label()
    nll_BHW = negative_log_likelihood(logits_BCHW, label_BHW)
    pairs = [
        (float(value) * float(size) ** -balance, float(size) ** -balance)
        for image in range(2)
        for label in set(label_BHW[image].flatten().tolist()) - {255}
        for size in [(label_BHW[image] == label).sum()]
        for value in nll_BHW.detach()[image][label_BHW[image] == label]
    ]
    expected = sum(value for value, _ in pairs) / sum(weight for _, weight in pairs)
    loss = cross_entropy(nll_BHW, label_BHW, balance=balance)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert cross_entropy(nll_BHW, torch.full_like(label_BHW, 255), balance=balance).item() == 0


def test_focal_without_focusing_is_the_cross_entropy() -> None:
    logits_BCHW, label_BHW = logits_and_label()
    expected = entropy_of(logits_BCHW, label_BHW)
    torch.testing.assert_close(focal_of(logits_BCHW, label_BHW, gamma=0.0), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_has_finite_gradients_at_saturated_logits(gamma: float) -> None:
    logits_BCHW = torch.tensor([[[[200.0]], [[-200.0]], [[200.0]]]], requires_grad=True)
    for label in (0, 1):
        loss = focal_of(logits_BCHW, torch.full((1, 1, 1), label), gamma=gamma)
        (grad,) = torch.autograd.grad(loss, logits_BCHW)
        assert torch.isfinite(loss)
        assert torch.isfinite(grad).all()


def test_without_a_label_losses_are_zero_and_have_a_graph() -> None:
    label_BHW = torch.full((2, 3, 4), 255)
    for name in ("cross_entropy", "focal"):
        logits_BCHW, _ = logits_and_label()
        loss = (
            entropy_of(logits_BCHW, label_BHW)
            if name == "cross_entropy"
            else focal_of(logits_BCHW, label_BHW, gamma=2)
        )
        (grad,) = torch.autograd.grad(loss, logits_BCHW)
        assert loss.item() == 0
        assert (grad == 0).all()


def pool_slowly(
    feature_DL: Array, query_D: Array, inside_L: NDArray[np.bool_], normalise: bool
) -> tuple[Array, Array]:
    """Paper 1, section III-A, for one image, on the positions inside only."""
    feature_DL = feature_DL[:, inside_L]
    if normalise:
        feature_DL = feature_DL / np.linalg.norm(feature_DL, axis=0)
        query_D = query_D / np.linalg.norm(query_D)
    weight_L = np.zeros(inside_L.size)
    weight_L[inside_L] = softmax(query_D @ feature_DL / np.sqrt(len(query_D)))
    return feature_DL @ weight_L[inside_L], weight_L


def scene(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Feature (2, 8, 3, 5), token (2, 8), unit text (6, 8), inside (2, 3, 5)."""
    rng = np.random.default_rng(seed)
    text_CD = rng.normal(0, 1, (6, 8))
    text_CD /= np.linalg.norm(text_CD, axis=1, keepdims=True)
    inside_Bhw = rng.random((2, 3, 5)) < 0.6
    feature_BDhw = torch.tensor(rng.normal(1, 2, (2, 8, 3, 5)), dtype=torch.float32)
    token_BD = torch.tensor(rng.normal(1, 2, (2, 8)), dtype=torch.float32)
    text = torch.tensor(text_CD, dtype=torch.float32)
    return feature_BDhw.requires_grad_(), token_BD, text, torch.tensor(inside_Bhw)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_attention_pool_against_numpy(normalise: bool, masked: bool) -> None:
    feature_BDhw, query_BD, _, inside_Bhw = scene()
    if not masked:
        inside_Bhw = torch.ones_like(inside_Bhw)
    pooled_BD, weight_BL = attention_pool(
        feature_BDhw, query_BD, inside_Bhw=inside_Bhw if masked else None, normalise=normalise
    )
    for b in range(2):
        pooled_D, weight_L = pool_slowly(
            feature_BDhw[b].detach().numpy().astype(np.float64).reshape(8, 15),
            query_BD[b].numpy().astype(np.float64),
            inside_Bhw[b].numpy().ravel(),
            normalise,
        )
        np.testing.assert_allclose(weight_BL[b].detach().numpy(), weight_L, rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(pooled_BD[b].detach().numpy(), pooled_D, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("normalise", [True, False])
def test_sdd_against_numpy(normalise: bool) -> None:
    feature_BDhw, token_BD, text_CD, inside_Bhw = scene(3)
    expected = []
    for b in range(2):
        token_D = token_BD[b].numpy().astype(np.float64)
        pooled_D, _ = pool_slowly(
            feature_BDhw[b].detach().numpy().astype(np.float64).reshape(8, 15),
            token_D,
            inside_Bhw[b].numpy().ravel(),
            normalise,
        )
        text = text_CD.numpy().astype(np.float64)
        teacher_C = softmax(text @ (token_D / np.linalg.norm(token_D)) / 0.1)
        student_C = softmax(text @ (pooled_D / np.linalg.norm(pooled_D)) / 0.3)
        expected.append(np.sum(student_C * np.log(student_C / teacher_C)))
    loss = sdd(
        feature_BDhw,
        token_BD,
        text_CD,
        tau_f=0.3,
        tau_c=0.1,
        normalise=normalise,
        inside_Bhw=inside_Bhw,
    )
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-4)


def test_the_students_distribution_stands_first() -> None:
    # Text = axes, feature (1, 1) everywhere, token (1, 0), both temperatures 1: D_f = (1/2, 1/2),
    # D_c = (0.7310586, 0.2689414). KL(D_f || D_c) = 0.1201145, KL(D_c || D_f) = 0.1109441.
    loss = sdd(
        torch.ones(1, 2, 2, 2),
        torch.tensor([[5.0, 0.0]]),
        torch.eye(2),
        tau_f=1.0,
        tau_c=1.0,
        normalise=True,
    )
    assert loss.item() == pytest.approx(0.1201145, abs=1e-6)


def test_padding_does_not_move_the_distillation() -> None:
    feature_BDhw, token_BD, text_CD, _ = scene()
    padded = torch.cat([feature_BDhw, torch.full((2, 8, 2, 5), 1e3)], dim=2)
    inside_Bhw = torch.zeros(2, 5, 5, dtype=torch.bool)
    inside_Bhw[:, :3] = True
    plain = sdd(feature_BDhw, token_BD, text_CD, tau_f=0.07, tau_c=0.01, normalise=False)
    masked = sdd(
        padded,
        token_BD,
        text_CD,
        tau_f=0.07,
        tau_c=0.01,
        normalise=False,
        inside_Bhw=inside_Bhw,
    )
    torch.testing.assert_close(masked, plain)


def test_an_image_that_is_all_padding_does_not_count() -> None:
    feature_BDhw, token_BD, text_CD, inside_Bhw = scene()
    one = sdd(
        feature_BDhw[:1],
        token_BD[:1],
        text_CD,
        tau_f=0.07,
        tau_c=0.01,
        normalise=True,
        inside_Bhw=inside_Bhw[:1],
    )
    inside_Bhw[1] = False
    for inside, expected in ((inside_Bhw, one), (torch.zeros_like(inside_Bhw), torch.tensor(0.0))):
        loss = sdd(
            feature_BDhw,
            token_BD,
            text_CD,
            tau_f=0.07,
            tau_c=0.01,
            normalise=True,
            inside_Bhw=inside,
        )
        (grad,) = torch.autograd.grad(loss, feature_BDhw)
        torch.testing.assert_close(loss, expected)
        assert torch.isfinite(grad).all()
        assert (grad[1] == 0).all()
    assert one > 0


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_sdd_in_half_precision_stays_close(kind: torch.dtype) -> None:
    # 128 x 128 positions of long vectors: a weight per unit of length is below half's range.
    rng = torch.Generator().manual_seed(0)
    feature_BDhw = 40 * torch.randn(1, 16, 128, 128, generator=rng) + 20
    token_BD = torch.randn(1, 16, generator=rng)
    text_CD = torch.nn.functional.normalize(torch.randn(7, 16, generator=rng), dim=1)
    exact = sdd(feature_BDhw, token_BD, text_CD, tau_f=0.07, tau_c=0.07, normalise=True)
    with torch.autocast("cpu", kind):
        half = sdd(feature_BDhw.to(kind), token_BD, text_CD, tau_f=0.07, tau_c=0.07, normalise=True)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, rtol=0.02, atol=0)


def test_the_norm_of_nothing_is_not_zero() -> None:
    feature_BDL = torch.zeros(1, 4, 2, requires_grad=True)
    norm_BL = feature_norm(feature_BDL)
    (grad,) = torch.autograd.grad(norm_BL.sum(), feature_BDL)
    assert (norm_BL > 0).all()
    assert torch.isfinite(grad).all()


def cells(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Feature (2, 6, 6, 9) on cells of 3 x 3 and 2 x 3 positions, tokens (2, 6, 2, 3), weights."""
    rng = np.random.default_rng(seed)
    feature_BDhw = torch.tensor(rng.normal(0.5, 2, (2, 6, 6, 9)), dtype=torch.float32)
    dense_BDyx = torch.tensor(rng.normal(0.5, 2, (2, 6, 2, 3)), dtype=torch.float32)
    weight_Byx = torch.tensor(rng.random((2, 2, 3)), dtype=torch.float32)
    weight_Byx[1, 0, 1] = 0
    return feature_BDhw.requires_grad_(), dense_BDyx, weight_Byx


def dense_slowly(feature_BDhw: Array, dense_BDyx: Array, weight_Byx: Array) -> float:
    """1 - cosine of each cell's mean feature and its token; cells of torch's adaptive pooling."""
    rows, columns = feature_BDhw.shape[2:]
    total = weights = 0.0
    for b, y, x in np.ndindex(weight_Byx.shape):
        token_D = dense_BDyx[b, :, y, x]
        if not token_D.any():
            continue
        down = slice(y * rows // weight_Byx.shape[1], -(-(y + 1) * rows // weight_Byx.shape[1]))
        along = slice(
            x * columns // weight_Byx.shape[2], -(-(x + 1) * columns // weight_Byx.shape[2])
        )
        members = feature_BDhw[b, :, down, along].reshape(len(token_D), -1).T
        mean_D = np.sum(members, axis=0) / len(members)
        cosine = mean_D @ token_D / np.linalg.norm(mean_D) / np.linalg.norm(token_D)
        total += float(weight_Byx[b, y, x] * (1 - cosine))
        weights += float(weight_Byx[b, y, x])
    return total / weights if weights else 0.0


@pytest.mark.parametrize("size", [(6, 9), (2, 3), (5, 7), (1, 2)])
def test_dense_distillation_against_loops(size: tuple[int, int]) -> None:
    # Also a grid that the tokens do not divide, and one coarser than the tokens.
    feature_BDhw, dense_BDyx, weight_Byx = cells()
    feature_BDhw = feature_BDhw[:, :, : size[0], : size[1]]
    dense_BDyx[0, :, 1, 2] = 0
    loss = dense_distillation(feature_BDhw, dense_BDyx, weight_Byx)
    exact = (each.detach().double().numpy() for each in (feature_BDhw, dense_BDyx, weight_Byx))
    assert loss.item() == pytest.approx(dense_slowly(*exact), rel=1e-5)


def test_dense_distillation_by_hand() -> None:
    # One row of 4 positions, two cells. Means (1, 1) and (0, 2); tokens (1, 0) and (0, -3): costs
    # 1 - 1/sqrt(2) and 2, weights 1 and 1/2.
    feature_BDhw = torch.tensor([[[[2.0, 0.0, 1.0, -1.0]], [[0.0, 2.0, 3.0, 1.0]]]])
    dense_BDyx = torch.tensor([[[[1.0, 0.0]], [[0.0, -3.0]]]])
    loss = dense_distillation(feature_BDhw, dense_BDyx, torch.tensor([[[1.0, 0.5]]]))
    assert loss.item() == pytest.approx((1 - 1 / np.sqrt(2) + 0.5 * 2) / 1.5)


def test_cells_without_a_token_or_a_weight_learn_nothing() -> None:
    feature_BDhw, dense_BDyx, weight_Byx = cells()
    dense_BDyx[0, :, 1, 2] = 0
    loss = dense_distillation(feature_BDhw, dense_BDyx, weight_Byx)
    (grad,) = torch.autograd.grad(loss, feature_BDhw)
    learns = (weight_Byx > 0) & (dense_BDyx != 0).any(1)
    assert learns.sum() == 10
    expected = learns.repeat_interleave(3, 1).repeat_interleave(3, 2)
    assert torch.equal((grad != 0).any(1), expected)


@pytest.mark.parametrize("nothing", ["no weight", "no token", "no feature"])
def test_dense_distillation_of_nothing(nothing: str) -> None:
    feature_BDhw, dense_BDyx, weight_Byx = cells()
    if nothing == "no feature":
        feature_BDhw = torch.zeros_like(feature_BDhw).requires_grad_()
    else:
        (weight_Byx if nothing == "no weight" else dense_BDyx).zero_()
    loss = dense_distillation(feature_BDhw, dense_BDyx, weight_Byx)
    (grad,) = torch.autograd.grad(loss, feature_BDhw)
    assert torch.isfinite(grad).all()
    if nothing == "no feature":
        assert loss.item() == pytest.approx(1.0)  # a cosine of 0
    else:
        assert loss.item() == 0
        assert (grad == 0).all()


def test_a_small_weight_is_still_a_mean() -> None:
    feature_BDhw, dense_BDyx, weight_Byx = cells()
    whole = dense_distillation(feature_BDhw, dense_BDyx, weight_Byx)
    torch.testing.assert_close(
        dense_distillation(feature_BDhw, dense_BDyx, weight_Byx / 1000), whole
    )


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_dense_distillation_in_half_precision_stays_close(kind: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(0)
    feature_BDhw = 40 * torch.randn(1, 16, 128, 128, generator=rng) + 20
    dense_BDyx = torch.nn.functional.normalize(torch.randn(1, 16, 32, 32, generator=rng), dim=1)
    weight_Byx = torch.ones(1, 32, 32)
    whole = dense_distillation(feature_BDhw, dense_BDyx, weight_Byx)
    with torch.autocast("cpu", kind):
        half = dense_distillation(feature_BDhw.to(kind), dense_BDyx, weight_Byx)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, whole, rtol=0.005, atol=0)
