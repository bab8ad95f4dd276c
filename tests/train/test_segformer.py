"""SegFormer's decoder in our order of computation, beside smp's own."""

import copy

import pytest
import torch
from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
from torch import Tensor

from zsseg.stages.train.students.segformer import FusedFirst

CHANNELS = [3, 0, 6, 10, 16, 20]


def features(rows: int, columns: int) -> list[Tensor]:
    """An encoder's maps of two images of so many pixels, in float64."""
    torch.manual_seed(1)
    strides = (1, 2, 4, 8, 16, 32)
    return [
        torch.randn(2, c, rows // s, columns // s, dtype=torch.float64)
        for c, s in zip(CHANNELS, strides, strict=True)
    ]


def decoders() -> tuple[SegformerDecoder, FusedFirst]:
    torch.manual_seed(0)
    plain = SegformerDecoder(CHANNELS, segmentation_channels=8).double()
    return plain, FusedFirst(copy.deepcopy(plain))


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (32, 256)])
@pytest.mark.parametrize("training", [True, False])
def test_it_decodes_and_learns_as_smp_s(size: tuple[int, int], training: bool) -> None:
    plain, ours = (each.train(training) for each in decoders())
    maps = [[each.requires_grad_() for each in features(*size)] for _ in range(2)]
    expected, found = plain(maps[0]), ours(maps[1])
    assert found.shape == (2, 8, size[0] // 4, size[1] // 4)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)
    weight = torch.randn_like(expected)
    (expected * weight).sum().backward()
    (found * weight).sum().backward()
    for one, other in zip(maps[0][2:], maps[1][2:], strict=True):
        torch.testing.assert_close(other.grad, one.grad, atol=1e-12, rtol=1e-8)
    wanted = dict(plain.named_parameters())
    assert wanted.keys() == dict(ours.named_parameters()).keys()
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, wanted[name].grad, atol=1e-10, rtol=1e-8)
    assert ours.state_dict().keys() == plain.state_dict().keys()
    for name, value in ours.state_dict().items():  # with the statistics of the normalisation
        torch.testing.assert_close(value, plain.state_dict()[name], atol=1e-12, rtol=1e-10)


def test_in_half_precision_it_is_as_near_as_smp_s() -> None:
    plain, ours = (each.eval() for each in decoders())
    maps = features(64, 64)
    exact = plain(maps)
    low = [each.float() for each in maps]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        of_plain, of_ours = (
            float((each.float()(low).double() - exact).abs().mean()) for each in (plain, ours)
        )
    assert of_ours < 2 * of_plain


def test_a_map_of_stride_2_is_left_out() -> None:
    _, ours = decoders()
    maps = features(64, 64)
    expected = ours(maps)
    maps[1] = torch.ones(2, 5, 32, 32, dtype=torch.float64)
    assert torch.equal(ours(maps), expected)
