"""The masks of a crop against loops: which positions are in them, and the mean over those."""

import numpy as np
import pytest
import torch
from helpers import reference
from helpers.reference import exact
from torch import Tensor

from zsseg.stages.data.spec import VOID
from zsseg.stages.train.losses.pseudo_mask import CropMasks, mask_codes, masks_of
from zsseg.stages.train.losses.resample import nearest

WIDTH, GRID = 5, (4, 6)
ID_BK = torch.tensor(
    [
        [0, 3, 1001, 1002, -1],
        [1, 3, 7, 1001, 1250],
        [-1, -1, -1, -1, -1],
    ]
)


def maps(seed: int = 1) -> tuple[Tensor, Tensor]:
    """Labels and regions of 3 crops. The second lacks class 7; region 3 is not in the store."""
    rng = np.random.default_rng(seed)
    label_BHW = rng.choice([0, 1, 3, VOID, VOID, VOID], (3, *GRID)).astype(np.uint8)
    region_BHW = rng.choice([0, 1, 2, 3, 250], (3, *GRID)).astype(np.uint8)
    return torch.from_numpy(label_BHW), torch.from_numpy(region_BHW)


def feature(seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    feature_BDhw = torch.from_numpy(rng.normal(0.5, 2, (3, WIDTH, *GRID)).astype(np.float32))
    return feature_BDhw.requires_grad_()


def test_codes_are_the_class_where_there_is_one_else_the_region() -> None:
    label_BHW, region_BHW = maps()
    code_BHW = mask_codes(label_BHW, region_BHW)
    assert code_BHW.dtype == torch.int64
    seen = set()
    for at in np.ndindex(*label_BHW.shape):
        label, region, code = (int(each[at]) for each in (label_BHW, region_BHW, code_BHW))
        if label != VOID:
            assert code == label
        elif region:
            assert code == 1000 + region
        else:
            assert code < -1  # not a class, not a region, not the -1 of an empty slot
        seen.add((label != VOID, region > 0))
    assert len(seen) == 4


def test_masks_against_loops() -> None:
    feature_BDhw, code_BHW = feature(), mask_codes(*maps())
    masks = masks_of(feature_BDhw, code_BHW, ID_BK)
    assert torch.equal(masks.id_BK, ID_BK)
    assert masks.prototype_BKD.dtype == torch.float32
    visible = 0
    for b, k in np.ndindex(3, 5):
        mask = int(ID_BK[b, k])
        expected = None
        if mask >= 0:
            expected = reference.local_prototype(exact(feature_BDhw[b]), code_BHW[b].numpy(), mask)
        assert bool(masks.visible_BK[b, k]) == (expected is not None)
        assert bool(masks.latent_BK[b, k]) == (expected is not None and mask >= 1000)
        expected = np.zeros(WIDTH) if expected is None else expected
        np.testing.assert_allclose(exact(masks.prototype_BKD[b, k]), expected, rtol=1e-5, atol=1e-6)
        visible += int(masks.visible_BK[b, k])
    # All but the empty slots and class 7, which the crop does not show.
    assert visible == 8
    assert not masks.visible_BK[1, 2]
    assert masks.latent_BK.sum() == 4


def test_masks_by_hand() -> None:
    feature_BDhw = torch.arange(8.0).view(1, 2, 2, 2).requires_grad_()  # (0..3), (4..7)
    code_Bhw = torch.tensor([[[4, 1002], [4, 4]]])
    masks = masks_of(feature_BDhw, code_Bhw, torch.tensor([[1002, 4, 5]]))
    expected = torch.tensor([[[1.0, 5.0], [5 / 3, 17 / 3], [0.0, 0.0]]])
    torch.testing.assert_close(masks.prototype_BKD, expected)
    assert masks.visible_BK.tolist() == [[True, True, False]]
    assert masks.latent_BK.tolist() == [[True, False, False]]
    # Each position of a mask moves its mean by 1 / area.
    (grad,) = torch.autograd.grad(masks.prototype_BKD[0, 1, 0], feature_BDhw)
    torch.testing.assert_close(
        grad, torch.tensor([[[[1 / 3, 0], [1 / 3, 1 / 3]], [[0, 0], [0, 0]]]])
    )


def test_what_is_in_no_mask_is_in_no_mask() -> None:
    # Void and no region: neither in an empty slot (-1) nor anywhere else.
    code_BHW = mask_codes(torch.full((3, *GRID), VOID), torch.zeros(3, *GRID))
    feature_BDhw = feature()
    masks = masks_of(feature_BDhw, code_BHW, ID_BK)
    (grad,) = torch.autograd.grad(masks.prototype_BKD.sum(), feature_BDhw)
    assert not masks.visible_BK.any()
    assert not masks.latent_BK.any()
    assert (masks.prototype_BKD == 0).all()
    assert (grad == 0).all()


def test_a_region_that_falls_between_positions_is_not_visible() -> None:
    # 8 x 8 pixels on a grid of 2 x 2 cells, whose centres are pixels 2 and 6.
    label_BHW, region_BHW = torch.full((1, 8, 8), VOID), torch.ones(1, 8, 8, dtype=torch.uint8)
    region_BHW[0, 0, 0] = 2
    code_Bhw = nearest(mask_codes(label_BHW, region_BHW), (2, 2))
    masks = masks_of(torch.randn(1, 3, 2, 2), code_Bhw, torch.tensor([[1001, 1002]]))
    assert masks.visible_BK.tolist() == [[True, False]]


def half_masks(kind: torch.dtype, *, autocast: bool) -> tuple[CropMasks, CropMasks]:
    """128 x 128 positions of long vectors: one mask of nearly all, one of 7 and one of a single."""
    rng = torch.Generator().manual_seed(0)
    feature_BDhw = (40 * torch.randn(1, 16, 128, 128, generator=rng) + 20).to(kind)
    code_Bhw = torch.zeros(1, 128, 128, dtype=torch.int64)
    code_Bhw[0, 5, 3:10], code_Bhw[0, 90, 90] = 1001, 1002
    id_BK = torch.tensor([[0, 1001, 1002, 4]])
    with torch.autocast("cpu", kind, enabled=autocast):
        half = masks_of(feature_BDhw, code_Bhw, id_BK)
    return half, masks_of(feature_BDhw.float(), code_Bhw, id_BK)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision_stays_close(kind: torch.dtype, autocast: bool) -> None:
    half, whole = half_masks(kind, autocast=autocast)
    assert half.prototype_BKD.dtype == torch.float32
    assert torch.equal(half.visible_BK, whole.visible_BK)
    tolerance = 0.01 if kind == torch.bfloat16 else 0.002
    torch.testing.assert_close(half.prototype_BKD, whole.prototype_BKD, rtol=tolerance, atol=0)
