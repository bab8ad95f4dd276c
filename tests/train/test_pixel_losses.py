"""Losses of full-size scores against the plain way: the whole map, interpolated and kept."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from zsseg.stages.data.spec import VOID
from zsseg.stages.train.losses import strips
from zsseg.stages.train.losses.latent import LEFT_OUT
from zsseg.stages.train.losses.likelihood import negative_log_likelihood
from zsseg.stages.train.losses.nel import nel
from zsseg.stages.train.losses.objectives import cross_entropy, focal

CLASSES = 6
Loss = Callable[[Tensor, Tensor], Tensor]


@pytest.fixture(autouse=True, params=[1, 700, 10**6])
def strip_values(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Strips of one row of cells, of some, and of whole images."""
    values: int = request.param
    monkeypatch.setattr(strips, "CPU_VALUES", values)
    return values


def scene(
    *, grid: tuple[int, int] = (6, 5), factor: int = 4, scale: float = 4.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """float64 scores (2, 6, h, w) and labels; class 5 is in neither image, class 4 in the first."""
    rng = torch.Generator().manual_seed(seed)
    logits_BChw = scale * torch.randn(2, CLASSES, *grid, generator=rng, dtype=torch.float64)
    size = (2, grid[0] * factor, grid[1] * factor)
    label_BHW = torch.randint(0, 4, size, generator=rng)
    label_BHW[torch.rand(size, generator=rng) < 0.3] = VOID
    label_BHW[0, 0, 0] = 4
    return logits_BChw.requires_grad_(), label_BHW


def upsampled(logits_BChw: Tensor, label_BHW: Tensor) -> Tensor:
    return F.interpolate(logits_BChw, size=label_BHW.shape[1:], mode="bilinear")


def plain_nll(logits_BChw: Tensor, label_BHW: Tensor) -> Tensor:
    score_BCHW = upsampled(logits_BChw, label_BHW)
    return F.cross_entropy(score_BCHW, label_BHW, ignore_index=VOID, reduction="none")


def plain_nel(logits_BChw: Tensor, label_BHW: Tensor, *, void: str) -> Tensor:
    """ZegCLIP's loss with torch's own sigmoid and binary cross-entropy, weights 100 and 1."""
    score_BCHW = upsampled(logits_BChw, label_BHW)
    target_BCHW = torch.stack([label_BHW == c for c in range(score_BCHW.shape[1])], dim=1)
    target_BCHW = target_BCHW.to(score_BCHW.dtype)
    weight_B1HW = torch.ones_like(label_BHW) if void == "negative" else label_BHW != VOID
    weight_B1HW = weight_B1HW[:, None].to(score_BCHW.dtype)
    p_BCHW = score_BCHW.sigmoid()
    entropy_BCHW = F.binary_cross_entropy_with_logits(score_BCHW, target_BCHW, reduction="none")
    p_t_BCHW = p_BCHW * target_BCHW + (1 - p_BCHW) * (1 - target_BCHW)
    alpha_BCHW = 0.25 * target_BCHW + 0.75 * (1 - target_BCHW)
    focal_BCHW = weight_B1HW * alpha_BCHW * (1 - p_t_BCHW) ** 2 * entropy_BCHW
    focal_B = focal_BCHW.sum((1, 2, 3)) / weight_B1HW.sum((1, 2, 3)).clamp_min(1)
    both_BC = (p_BCHW * target_BCHW).sum((2, 3))
    whole_BC = (p_BCHW * weight_B1HW).sum((2, 3)) + target_BCHW.sum((2, 3))
    dice_BC = 1 - (2 * both_BC + 1) / (whole_BC + 1)
    present_BC = target_BCHW.amax((2, 3)) > 0
    dice = dice_BC[present_BC].sum()
    return (100 * focal_B.sum() + dice) / present_BC.sum().clamp_min(1)


def entropy_of(nll: Loss) -> Loss:
    return lambda logits, label: cross_entropy(nll(logits, label), label)


def focal_of(nll: Loss, gamma: float) -> Loss:
    return lambda logits, label: focal(nll(logits, label), label, gamma=gamma)


def nel_of(void: Any) -> Loss:
    return lambda logits, label: nel(logits, label, focal_weight=100.0, dice_weight=1.0, void=void)


def both_of(nll: Loss) -> Loss:
    def loss(logits_BChw: Tensor, label_BHW: Tensor) -> Tensor:
        nll_BHW = nll(logits_BChw, label_BHW)
        return cross_entropy(nll_BHW, label_BHW) + 3 * focal(nll_BHW, label_BHW, gamma=2.0)

    return loss


def everything_of(nll: Loss, nel_loss: Loss) -> Loss:
    def loss(logits_BChw: Tensor, label_BHW: Tensor) -> Tensor:
        return both_of(nll)(logits_BChw, label_BHW) + 2 * nel_loss(logits_BChw, label_BHW)

    return loss


def masked(logits_BChw: Tensor, label_BHW: Tensor) -> Tensor:
    return plain_nel(logits_BChw, label_BHW, void="masked")


def negative(logits_BChw: Tensor, label_BHW: Tensor) -> Tensor:
    return plain_nel(logits_BChw, label_BHW, void="negative")


PAIRS: dict[str, tuple[Loss, Loss]] = {
    "cross_entropy": (entropy_of(negative_log_likelihood), entropy_of(plain_nll)),
    "focal": (focal_of(negative_log_likelihood, 2.0), focal_of(plain_nll, 2.0)),
    "focal, gamma 0.5": (focal_of(negative_log_likelihood, 0.5), focal_of(plain_nll, 0.5)),
    "cross_entropy and focal": (both_of(negative_log_likelihood), both_of(plain_nll)),
    "nel": (nel_of("negative"), negative),
    "nel, masked": (nel_of("masked"), masked),
    "all": (
        everything_of(negative_log_likelihood, nel_of("negative")),
        everything_of(plain_nll, negative),
    ),
}


def value_and_gradient(loss: Loss, logits_BChw: Tensor, label_BHW: Tensor) -> tuple[Tensor, Tensor]:
    value = loss(logits_BChw, label_BHW)
    (gradient_BChw,) = torch.autograd.grad(value, logits_BChw)
    return value.detach(), gradient_BChw


def compared(
    name: str, logits_BChw: Tensor, label_BHW: Tensor, *, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Value and gradient of ours, after comparing them with the plain way in float64."""
    ours, plain = PAIRS[name]
    value, gradient_BChw = value_and_gradient(ours, logits_BChw, label_BHW)
    exact_BChw = logits_BChw.detach().double().requires_grad_()
    expected, expected_BChw = value_and_gradient(plain, exact_BChw, label_BHW)
    largest = float(expected_BChw.abs().max())
    torch.testing.assert_close(value.double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(
        gradient_BChw.double(), expected_BChw, rtol=0, atol=tolerance * max(largest, 1e-6)
    )
    return value, gradient_BChw


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("factor", [1, 3, 4])
def test_float64_is_the_plain_way_to_the_last_digits(name: str, factor: int) -> None:
    _, gradient_BChw = compared(name, *scene(factor=factor), tolerance=1e-12)
    assert float(gradient_BChw.abs().max()) > 1e-4


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_float32(name: str, scale: float) -> None:
    logits_BChw, label_BHW = scene(scale=scale)
    value, gradient_BChw = compared(
        name, logits_BChw.detach().float().requires_grad_(), label_BHW, tolerance=3e-5
    )
    assert value.dtype == gradient_BChw.dtype == torch.float32


@pytest.mark.parametrize("name", PAIRS)
def test_under_autocast_and_in_bfloat16(name: str) -> None:
    logits_BChw, label_BHW = scene()
    half_BChw = logits_BChw.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        # The gradient of bfloat16 scores is bfloat16 itself: 8 bits.
        value, gradient_BChw = value_and_gradient(PAIRS[name][0], half_BChw, label_BHW)
        single_BChw = half_BChw.detach().float().requires_grad_()
        compared(name, single_BChw, label_BHW, tolerance=3e-5)
    expected, expected_BChw = value_and_gradient(PAIRS[name][0], single_BChw, label_BHW)
    assert value.dtype == torch.float32
    assert gradient_BChw.dtype == torch.bfloat16
    torch.testing.assert_close(value, expected)
    eighth_bit = float(expected_BChw.abs().max()) * 2**-8
    torch.testing.assert_close(gradient_BChw.float(), expected_BChw, rtol=2**-8, atol=eighth_bit)


@pytest.mark.parametrize("name", PAIRS)
def test_an_image_without_a_label(name: str) -> None:
    logits_BChw, label_BHW = scene()
    label_BHW[1] = VOID
    _, gradient_BChw = compared(name, logits_BChw, label_BHW, tolerance=1e-12)
    assert bool((gradient_BChw[1] != 0).any()) == (name in {"nel", "all"})


@pytest.mark.parametrize("name", PAIRS)
def test_nothing_labelled(name: str) -> None:
    logits_BChw, label_BHW = scene()
    label_BHW[:] = VOID
    value, gradient_BChw = compared(name, logits_BChw, label_BHW, tolerance=1e-12)
    if name not in {"nel", "all"}:  # where void pixels are negatives
        assert value == 0
        assert (gradient_BChw == 0).all()


@pytest.mark.parametrize("name", PAIRS)
def test_classes_that_an_image_does_not_have(name: str) -> None:
    logits_BChw, label_BHW = scene()
    with torch.no_grad():
        logits_BChw[0, 5] = logits_BChw[1, 4] = LEFT_OUT
    _, gradient_BChw = compared(name, logits_BChw, label_BHW, tolerance=1e-12)
    assert (gradient_BChw[0, 5] == 0).all()
    assert (gradient_BChw[1, 4] == 0).all()
    assert (gradient_BChw[1, 5] != 0).any()


def test_void_pixels_take_no_gradient_whatever_comes_in() -> None:
    logits_BChw, label_BHW = scene()
    nll_BHW = negative_log_likelihood(logits_BChw, label_BHW)
    assert (nll_BHW[label_BHW == VOID] == 0).all()
    incoming_BHW = torch.where(label_BHW == VOID, torch.nan, 1.0).double()
    (found,) = torch.autograd.grad(nll_BHW, logits_BChw, incoming_BHW)
    expected, expected_BChw = value_and_gradient(
        lambda logits, label: plain_nll(logits, label).sum(), logits_BChw, label_BHW
    )
    torch.testing.assert_close(found, expected_BChw, rtol=0, atol=1e-12)
    torch.testing.assert_close(nll_BHW.sum(), expected)


def test_a_sure_pixel_keeps_its_small_loss_in_float32() -> None:
    # Scores of 100 x cosine: -log p = e^-12 is far below what 100 + e^-12 can hold.
    logits_BChw = torch.tensor([100.0, 88.0]).view(1, 2, 1, 1)
    nll_BHW = negative_log_likelihood(logits_BChw, torch.zeros(1, 2, 2, dtype=torch.int64))
    torch.testing.assert_close(nll_BHW, torch.full((1, 2, 2), 6.1442e-06), rtol=0.02, atol=0)


@pytest.mark.parametrize("name", ["cross_entropy and focal", "nel", "nel, masked"])
def test_only_scores_of_the_grid_are_kept(name: str, strip_values: int) -> None:
    """No map of all classes at pixels: neither kept for the backward pass nor ever made."""
    logits_BChw, label_BHW = scene(grid=(24, 5), factor=4)
    kept: list[int] = []

    def pack(saved: Tensor) -> Tensor:
        kept.append(saved.numel())
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        loss = PAIRS[name][0](logits_BChw, label_BHW)
    assert kept
    # (B, C, h, w), and maps of one number per pixel.
    assert max(kept) <= max(logits_BChw.numel(), label_BHW.numel())

    made: list[int] = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = func(*args, **(kwargs or {}))
            made.extend(_sizes(result))
            return result

    with Sizes():  # type: ignore[no-untyped-call]
        PAIRS[name][0](logits_BChw, label_BHW)
        loss.backward()
    whole = label_BHW.numel() * CLASSES
    if strip_values < 10**6:
        neighbours = 2 * CLASSES * 4 * label_BHW.shape[2]
        row = CLASSES * 4 * label_BHW.shape[2]
        allowed = max(strip_values, row) + neighbours
        assert allowed < whole / 2
        assert max(made) <= max(allowed, logits_BChw.numel(), label_BHW.numel())
    else:
        assert max(made) == whole // 2  # an image: this way of counting sees what is made


def _sizes(result: Any) -> Iterator[int]:
    if isinstance(result, Tensor):
        yield result.numel()
    elif isinstance(result, (tuple, list)):
        for each in result:
            yield from _sizes(each)


@pytest.mark.parametrize("name", PAIRS)
def test_scores_that_nothing_is_learnt_through(name: str) -> None:
    logits_BChw, label_BHW = scene()
    with torch.no_grad():
        value = PAIRS[name][0](logits_BChw, label_BHW)
    torch.testing.assert_close(value, PAIRS[name][0](logits_BChw, label_BHW).detach())
