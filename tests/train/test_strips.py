"""Strips of full-size scores against torch's interpolation of the whole map."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from zsseg.stages.train.losses import strips as module
from zsseg.stages.train.losses.strips import Strip, grid_gradient, scores_of, strips

GRIDS = [
    ((3, 5), (3, 5)),
    ((4, 5), (16, 20)),
    ((7, 3), (21, 9)),
    ((1, 1), (8, 8)),
    ((5, 2), (5, 8)),
]


def scene(grid: tuple[int, int], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    logits_BChw = torch.randn(2, 3, *grid, generator=rng, dtype=torch.float64)
    return logits_BChw, torch.zeros(2, *size, dtype=torch.int64)


@pytest.mark.parametrize("values", [1, 150, 10**6])
@pytest.mark.parametrize(("grid", "size"), GRIDS)
def test_strips_hold_every_pixel_once(
    grid: tuple[int, int], size: tuple[int, int], values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CPU_VALUES", values)
    logits_BChw, label_BHW = scene(grid, size)
    seen_BHW = torch.zeros_like(label_BHW)
    found = list(strips(logits_BChw, label_BHW))
    for strip in found:
        pixels_HW = seen_BHW[strip.image, strip.rows]
        assert pixels_HW.numel() > 0
        one_row = size[0] // grid[0] * size[1] * 3
        assert pixels_HW.numel() * 3 <= max(values, one_row)
        pixels_HW += 1
    assert (seen_BHW == 1).all()
    if values != 150:
        assert len(found) == (2 * grid[0] if values == 1 else 2)


@pytest.mark.parametrize("values", [1, 150, 10**6])
@pytest.mark.parametrize(("grid", "size"), GRIDS)
def test_scores_are_those_of_the_whole_map(
    grid: tuple[int, int], size: tuple[int, int], values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CPU_VALUES", values)
    logits_BChw, label_BHW = scene(grid, size)
    whole_BCHW = F.interpolate(logits_BChw, size=size, mode="bilinear")
    for strip in strips(logits_BChw, label_BHW):
        expected_PC = whole_BCHW[strip.image, :, strip.rows].flatten(1).T
        torch.testing.assert_close(scores_of(logits_BChw, strip), expected_PC, rtol=0, atol=1e-13)


@pytest.mark.parametrize("values", [1, 150, 10**6])
@pytest.mark.parametrize(("grid", "size"), GRIDS)
def test_the_gradient_is_that_of_the_whole_map(
    grid: tuple[int, int], size: tuple[int, int], values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CPU_VALUES", values)
    logits_BChw, label_BHW = scene(grid, size)
    rng = torch.Generator().manual_seed(1)
    gradient_BCHW = torch.randn(2, 3, *size, generator=rng, dtype=torch.float64)

    def gradient_of(score_PC: Tensor, strip: Strip) -> Tensor:
        assert not score_PC.requires_grad
        return gradient_BCHW[strip.image, :, strip.rows].flatten(1).T * score_PC

    leaf_BChw = logits_BChw.clone().requires_grad_()
    whole_BCHW = F.interpolate(leaf_BChw, size=size, mode="bilinear")
    (expected_BChw,) = torch.autograd.grad(
        whole_BCHW, leaf_BChw, gradient_BCHW * whole_BCHW.detach()
    )
    with torch.no_grad():  # as in a backward pass
        found_BChw = grid_gradient(logits_BChw, label_BHW, gradient_of)
    torch.testing.assert_close(found_BChw, expected_BChw, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("given", "computed"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_half_precision_is_computed_in_float32(given: torch.dtype, computed: torch.dtype) -> None:
    logits_BChw, label_BHW = scene((4, 5), (16, 20))
    logits_BChw = logits_BChw.to(given)
    strip = next(iter(strips(logits_BChw, label_BHW)))
    assert scores_of(logits_BChw, strip).dtype == computed
    found_BChw = grid_gradient(logits_BChw, label_BHW, lambda score_PC, _: score_PC)
    assert found_BChw.dtype == given


def test_minus_infinity_stays_itself_where_nothing_is_interpolated() -> None:
    logits_BChw, label_BHW = scene((3, 5), (3, 5))
    logits_BChw[:, 1] = -torch.inf
    strip = next(iter(strips(logits_BChw, label_BHW)))
    score_PC = scores_of(logits_BChw, strip)
    assert (score_PC[:, 1] == -torch.inf).all()
    assert torch.isfinite(score_PC[:, [0, 2]]).all()


def test_a_crop_of_broken_cells_is_our_own_mistake() -> None:
    for size in ((17, 20), (16, 21)):
        with pytest.raises(AssertionError):
            list(strips(*scene((4, 5), size)))
