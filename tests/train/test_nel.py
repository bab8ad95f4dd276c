"""NEL against a literal transcription of ZegCLIP's definition, and by hand."""

from typing import Literal

import numpy as np
import pytest
import torch
from helpers import reference
from helpers.reference import exact
from torch import Tensor

from zsseg.stages.data.spec import VOID
from zsseg.stages.train.losses.latent import LEFT_OUT
from zsseg.stages.train.losses.nel import nel

Void = Literal["negative", "masked"]
VOIDS: tuple[Void, ...] = ("negative", "masked")
CLASSES, SIZE = 5, (3, 4)


def scene(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits and labels of 2 images: class 4 is in neither, class 3 in the first only."""
    rng = np.random.default_rng(seed)
    label_BHW = rng.choice([0, 1, 2, VOID], (2, *SIZE))
    label_BHW[0, 0, 0], label_BHW[1, 0] = 3, VOID
    logits_BCHW = torch.tensor(rng.normal(0, 3, (2, CLASSES, *SIZE)), dtype=torch.float32)
    return logits_BCHW.requires_grad_(), torch.tensor(label_BHW)


def by_class(
    logits_BCHW: Tensor, taking_part_BC: Tensor | None = None
) -> list[dict[int, reference.Array]]:
    batch, classes = logits_BCHW.shape[:2]
    return [
        {
            c: exact(logits_BCHW[b, c])
            for c in range(classes)
            if taking_part_BC is None or taking_part_BC[b, c]
        }
        for b in range(batch)
    ]


def loss_of(
    logits_BCHW: Tensor,
    label_BHW: Tensor,
    void: Void,
    *,
    focal_weight: float = 100.0,
    dice_weight: float = 1.0,
) -> Tensor:
    return nel(
        logits_BCHW,
        label_BHW,
        focal_weight=focal_weight,
        dice_weight=dice_weight,
        void=void,
    )


@pytest.mark.parametrize("void", VOIDS)
@pytest.mark.parametrize("weights", [(100.0, 1.0), (1.0, 0.0), (0.0, 1.0)])
def test_nel_against_the_definition(void: Void, weights: tuple[float, float]) -> None:
    for seed in range(2):
        logits_BCHW, label_BHW = scene(seed)
        focal, dice = weights
        loss = loss_of(logits_BCHW, label_BHW, void, focal_weight=focal, dice_weight=dice)
        expected = reference.nel(
            by_class(logits_BCHW),
            label_BHW.numpy(),
            masked=void == "masked",
            focal_weight=focal,
            dice_weight=dice,
        )
        assert loss.item() == pytest.approx(expected, rel=1e-5)
        assert loss.dtype == torch.float32


def test_nel_by_hand() -> None:
    # Two classes at logit 0 on four pixels: three of class 0, one without a label. p = 1/2.
    logits_BCHW, label_BHW = torch.zeros(1, 2, 2, 2), torch.tensor([[[0, 0], [0, VOID]]])
    once = np.log(2) / 4  # (1 - p_t)^2 (-log p_t)
    # One mask. Negative: of the 8 pixels of both channels 3 are positives, 5 negatives; mean of 4.
    focal = (3 * 0.25 + 5 * 0.75) * once / 4
    dice = 1 - (2 * 1.5 + 1) / (2 + 3 + 1)
    loss = loss_of(logits_BCHW, label_BHW, "negative")
    assert loss.item() == pytest.approx(100 * focal + dice)
    # Masked: 3 positives and 3 negatives, mean of 3; the sum of p is of three pixels.
    focal = (3 * 0.25 + 3 * 0.75) * once / 3
    dice = 1 - (2 * 1.5 + 1) / (1.5 + 3 + 1)
    loss = loss_of(logits_BCHW, label_BHW, "masked")
    assert loss.item() == pytest.approx(100 * focal + dice)


def test_pairs_of_image_and_class_divide() -> None:
    # The same image twice: twice the sums and twice the pairs.
    logits_BCHW, label_BHW = scene()
    one = loss_of(logits_BCHW[:1], label_BHW[:1], "negative")
    two = loss_of(logits_BCHW[[0, 0]], label_BHW[[0, 0]], "negative")
    torch.testing.assert_close(one, two)


def test_pixels_without_a_label_push_down_or_not_at_all() -> None:
    for void in VOIDS:
        logits_BCHW, label_BHW = scene()
        (grad_BCHW,) = torch.autograd.grad(loss_of(logits_BCHW, label_BHW, void), logits_BCHW)
        at_void = grad_BCHW.permute(0, 2, 3, 1)[label_BHW == VOID]
        assert len(at_void) > 5
        assert (at_void > 0).all() if void == "negative" else (at_void == 0).all()


@pytest.mark.parametrize("void", VOIDS)
def test_nothing_labelled(void: Void) -> None:
    logits_BCHW, label_BHW = scene()
    label_BHW[:] = VOID
    loss = loss_of(logits_BCHW, label_BHW, void)
    (grad_BCHW,) = torch.autograd.grad(loss, logits_BCHW)
    expected = reference.nel(by_class(logits_BCHW), label_BHW.numpy(), masked=void == "masked")
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert (expected == 0) == (void == "masked")
    assert torch.isfinite(grad_BCHW).all()
    assert bool((grad_BCHW == 0).all()) == (void == "masked")


@pytest.mark.parametrize("void", VOIDS)
def test_one_image_without_a_label_beside_another(void: Void) -> None:
    logits_BCHW, label_BHW = scene()
    label_BHW[1] = VOID
    loss = loss_of(logits_BCHW, label_BHW, void)
    expected = reference.nel(by_class(logits_BCHW), label_BHW.numpy(), masked=void == "masked")
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    (grad_BCHW,) = torch.autograd.grad(loss, logits_BCHW)
    assert bool((grad_BCHW[1] == 0).all()) == (void == "masked")


@pytest.mark.parametrize("void", VOIDS)
def test_saturated_logits_have_finite_gradients(void: Void) -> None:
    for size in (50.0, 1e4, 1e9):
        logits_BCHW, label_BHW = scene()
        logits_BCHW = (size * logits_BCHW.detach().sign()).requires_grad_()
        loss = loss_of(logits_BCHW, label_BHW, void)
        (grad_BCHW,) = torch.autograd.grad(loss, logits_BCHW)
        assert torch.isfinite(loss)
        assert torch.isfinite(grad_BCHW).all()
    right = torch.where(torch.arange(CLASSES)[None, :, None, None] == label_BHW[:, None], 90.0, -90)
    assert loss_of(right, label_BHW, void).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("void", VOIDS)
def test_classes_that_an_image_does_not_have_count_nowhere(void: Void) -> None:
    logits_BCHW, label_BHW = scene()
    taking_part_BC = torch.ones(2, CLASSES, dtype=torch.bool)
    taking_part_BC[0, 4] = taking_part_BC[1, 3] = taking_part_BC[1, 4] = False
    left_out = logits_BCHW.detach().masked_fill(~taking_part_BC[:, :, None, None], LEFT_OUT)
    left_out.requires_grad_()
    loss = loss_of(left_out, label_BHW, void)
    expected = reference.nel(
        by_class(logits_BCHW, taking_part_BC), label_BHW.numpy(), masked=void == "masked"
    )
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    (grad_BCHW,) = torch.autograd.grad(loss, left_out)
    assert torch.equal((grad_BCHW != 0).flatten(2).any(2), taking_part_BC)


def test_half_precision_logits_are_computed_in_float32() -> None:
    logits_BCHW, label_BHW = scene()
    half = logits_BCHW.detach().half()
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(half, label_BHW, "negative")
    assert loss.item() == pytest.approx(reference.nel(by_class(half), label_BHW.numpy()), rel=1e-5)
