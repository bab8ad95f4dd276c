"""How sure a student is, against the definition in float64."""

from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from zsseg.stages.evaluate.confidence import confidence_map
from zsseg.stages.evaluate.confidence_measure import Measure

SIZE = (23, 31)


def cosines(names: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand((names, 5, 7), generator=generator) - 1


def defined(score_Khw: Tensor, scale: float, measure: Measure) -> NDArray[np.float64]:
    score_KHW = F.interpolate(score_Khw[None].double(), SIZE, mode="bilinear")[0].numpy()
    if measure == "cosine":
        return np.asarray(score_KHW.max(0).clip(0, 1))
    share_KHW = np.exp(scale * (score_KHW - score_KHW.max(0)))
    share_KHW = np.sort(share_KHW / share_KHW.sum(0), axis=0)[::-1]
    if measure == "probability" or len(share_KHW) == 1:
        return np.asarray(share_KHW[0])
    return np.asarray(share_KHW[0] - share_KHW[1])


@pytest.mark.parametrize("measure", get_args(Measure))
@pytest.mark.parametrize("names", [1, 2, 14, 200])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_it_is_what_its_definition_says(names: int, scale: float, measure: Measure) -> None:
    for dtype, near in ((torch.float32, 1e-4), (torch.float16, 2e-2)):
        score_Khw = cosines(names).to(dtype)
        found_HW = confidence_map(score_Khw, SIZE, scale=scale, measure=measure)
        assert found_HW.dtype == np.float32
        np.testing.assert_allclose(found_HW, defined(score_Khw, scale, measure), atol=near)


def test_equal_scores_leave_no_margin_and_distant_ones_no_doubt() -> None:
    same_2hw = torch.full((2, 3, 3), 0.25)
    assert not confidence_map(same_2hw, SIZE, scale=100, measure="margin").any()
    assert (confidence_map(same_2hw, SIZE, scale=100, measure="probability") == 0.5).all()
    apart_2hw = torch.stack([torch.ones(3, 3), -torch.ones(3, 3)])
    for measure in get_args(Measure):
        sure_HW = confidence_map(apart_2hw, SIZE, scale=1e6, measure=measure)
        np.testing.assert_allclose(sure_HW, 1, atol=1e-6)


def test_order_of_the_names_is_no_matter() -> None:
    score_Khw = cosines(9)
    for measure in get_args(Measure):
        one, other = (
            confidence_map(each, SIZE, scale=20, measure=measure)
            for each in (score_Khw, score_Khw.flip(0))
        )
        np.testing.assert_allclose(one, other, atol=1e-6)
