"""Local distillation (L_l) against float64 loops and by hand: who is whose negative."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from helpers import reference
from helpers.contrast_scene import GRID, LN_1_E, TAU, WIDTH, random, rows
from helpers.reference import exact
from torch import Tensor

from zsseg.stages.train.losses.contrast import local_distillation
from zsseg.stages.train.losses.pseudo_mask import CropMasks, masks_of

NOTHING = -2
"""A position in no mask."""

ID_BK = torch.tensor(
    [
        [0, 2, 1001, 1002, -1],  # image 7
        [0, 2, 1001, 1002, -1],  # another crop of it
        [2, 5, 1001, 1003, 1004],  # image 9: class 2 too; its region 1 is another than image 7's
    ]
)
ROWS = rows(7, 7, 9)


def local_scene(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Feature, mask codes and local tokens; crops of one image have the same tokens.

    The first crop shows all masks of its image, the second no class 0, the third no region 3.
    """
    rng = np.random.default_rng(seed)
    shown = ([0, 2, 1001, 1002], [2, 1001, 1002, NOTHING], [2, 5, 1001, 1004, NOTHING])
    code_Bhw = np.stack([rng.permutation(np.resize(codes, 12)).reshape(GRID) for codes in shown])
    local_BKD = random(seed + 1, 3, 5, WIDTH)
    local_BKD[1] = local_BKD[0]
    feature_BDhw = random(seed, 3, WIDTH, *GRID).requires_grad_()
    return feature_BDhw, torch.from_numpy(code_Bhw), local_BKD


def slow_local(
    feature_BDhw: Tensor,
    code_Bhw: Tensor,
    local_BKD: Tensor,
    negatives: str,
    id_BK: Tensor = ID_BK,
    row_B: Tensor = ROWS,
) -> float:
    """Paper 2, Eq. 3 and 4."""
    masks = {}
    for b, ids in enumerate(id_BK.tolist()):
        for k, mask in enumerate(ids):
            prototype_D = reference.local_prototype(
                exact(feature_BDhw[b]), code_Bhw[b].numpy(), mask
            )
            if mask >= 0 and prototype_D is not None:
                masks[b, k] = (mask, prototype_D, exact(local_BKD[b, k]))
    costs = []
    for (b, k), (mask, prototype_D, token_D) in masks.items():
        others = []
        for (c, j), (other, _, other_D) in masks.items():
            if negatives == "image" and c == b and j != k:
                others.append(other_D)
            if negatives == "batch" and (c, j) != (b, k):
                same_class = mask < 1000 and other == mask
                same_region = other == mask and bool(row_B[c] == row_B[b])
                if not same_class and not same_region:
                    others.append(other_D)
        costs.append(reference.info_nce(prototype_D, token_D, others, TAU))
    return float(np.mean(costs)) if costs else 0.0


def local_of(
    feature_BDhw: Tensor,
    code_Bhw: Tensor,
    local_BKD: Tensor,
    negatives: Literal["image", "batch"],
    id_BK: Tensor = ID_BK,
    row_B: Tensor = ROWS,
    tau: float = TAU,
) -> Tensor:
    masks = masks_of(feature_BDhw, code_Bhw, id_BK)
    return local_distillation(masks, local_BKD, row_B, tau=tau, negatives=negatives)


NEGATIVES: tuple[Literal["image", "batch"], ...] = ("image", "batch")


@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("seed", [0, 1])
def test_local_distillation_against_numpy(negatives: Literal["image", "batch"], seed: int) -> None:
    feature_BDhw, code_Bhw, local_BKD = local_scene(seed)
    expected = slow_local(feature_BDhw, code_Bhw, local_BKD, negatives)
    loss = local_of(feature_BDhw, code_Bhw, local_BKD, negatives)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert loss.dtype == torch.float32
    # Only what is in a mask learns.
    (grad,) = torch.autograd.grad(loss, feature_BDhw)
    assert torch.equal((grad != 0).any(1), code_Bhw != NOTHING)


def test_local_distillation_by_hand() -> None:
    # Crop 0 shows classes 0 and 1, whose prototypes equal their tokens; crop 1 class 0 only, with
    # prototype (1, 0) and token (0, 1).
    masks = CropMasks(
        id_BK=torch.tensor([[0, 1], [0, -1]]),
        prototype_BKD=torch.tensor([[[2.0, 0.0], [0.0, 3.0]], [[1.0, 0.0], [0.0, 0.0]]]),
        visible_BK=torch.tensor([[True, True], [True, False]]),
    )
    local_BKD = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [9.0, 9.0]]])
    image, batch = (
        local_distillation(masks, local_BKD, rows(0, 1), tau=1.0, negatives=each).item()
        for each in NEGATIVES
    )
    assert image == pytest.approx((LN_1_E + LN_1_E + 0) / 3)
    # Class 0 of crop 0 has class 1 as its negative still; class 1 has both tokens of class 0, of
    # which one lies on it: e / (e + 1 + e); class 0 of crop 1 has class 1, as near as its own.
    assert batch == pytest.approx((LN_1_E + np.log(2 + np.exp(-1)) + np.log(2)) / 3)


def changed(local_BKD: Tensor, crop: int, slot: int) -> Tensor:
    local_BKD = local_BKD.clone()
    local_BKD[crop, slot] = random(77, WIDTH) * 5
    return local_BKD


def gradients(
    crop: int, slot: int, local_BKD: Tensor, negatives: Literal["image", "batch"]
) -> Tensor:
    """What one mask's prototype learns: it depends on its token and its negatives only."""
    feature_BDhw, code_Bhw, _ = local_scene()
    masks = masks_of(feature_BDhw, code_Bhw, ID_BK)
    prototype_BKD = masks.prototype_BKD.detach().requires_grad_()
    loss = local_distillation(
        replace(masks, prototype_BKD=prototype_BKD), local_BKD, ROWS, tau=TAU, negatives=negatives
    )
    (grad_BKD,) = torch.autograd.grad(loss, prototype_BKD)
    return grad_BKD[crop, slot]


@pytest.mark.parametrize(
    ("mask", "other", "of_image", "of_batch"),
    [
        ((0, 1), (0, 0), True, True),  # another mask of the crop
        ((0, 1), (1, 1), False, False),  # the same class in another crop of the image
        ((0, 1), (2, 0), False, False),  # the same class in another image
        ((0, 0), (2, 0), False, True),  # another class in another image
        ((0, 2), (1, 2), False, False),  # the same region in another crop of the image
        ((0, 2), (1, 3), False, True),  # another region there
        ((0, 2), (2, 2), False, True),  # the region of the same number in another image
        ((0, 2), (2, 0), False, True),  # a class in another image
        ((1, 1), (1, 0), False, False),  # a class of the store that the crop does not show
        ((0, 1), (1, 0), False, False),  # ... for another crop
        ((0, 1), (0, 4), False, False),  # an empty slot
        ((0, 1), (2, 3), False, False),  # a region of another image that its crop does not show
    ],
)
def test_who_is_whose_negative(
    mask: tuple[int, int], other: tuple[int, int], of_image: bool, of_batch: bool
) -> None:
    _, _, local_BKD = local_scene()
    for negatives, expected in zip(NEGATIVES, (of_image, of_batch), strict=True):
        before = gradients(*mask, local_BKD, negatives)
        after = gradients(*mask, changed(local_BKD, *other), negatives)
        assert (not torch.equal(before, after)) == expected
        assert not torch.equal(before, gradients(*mask, changed(local_BKD, *mask), negatives))


def test_one_mask_of_a_crop_has_no_negative_in_it() -> None:
    feature_BDhw, _, local_BKD = local_scene()
    code_Bhw = torch.tensor([2, 1002, 1004])[:, None, None].repeat(1, *GRID)
    assert local_of(feature_BDhw, code_Bhw, local_BKD, "image").item() == 0
    loss = local_of(feature_BDhw, code_Bhw, local_BKD, "batch")
    expected = slow_local(feature_BDhw, code_Bhw, local_BKD, "batch")
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert expected > 0.1
    for negatives in NEGATIVES:  # one crop with one mask
        loss = local_of(
            feature_BDhw[:1], code_Bhw[:1], local_BKD[:1], negatives, ID_BK[:1], ROWS[:1]
        )
        (grad,) = torch.autograd.grad(loss, feature_BDhw)
        assert loss.item() == 0
        assert (grad == 0).all()


@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("id_BK", [ID_BK, torch.full((3, 1), -1)])
def test_no_visible_mask(negatives: Literal["image", "batch"], id_BK: Tensor) -> None:
    feature_BDhw, _, local_BKD = local_scene()
    code_Bhw = torch.full((3, *GRID), NOTHING)
    local_BKD = local_BKD[:, : id_BK.shape[1]]
    loss = local_of(feature_BDhw, code_Bhw, local_BKD, negatives, id_BK, tau=0.01)
    (grad,) = torch.autograd.grad(loss, feature_BDhw)
    assert loss.item() == 0
    assert (grad == 0).all()
