"""SegNeXt: MSCAN under a light Hamburger head.

Guo et al., SegNeXt, NeurIPS 2022, section 3.2; the ham is the non-negative matrix factorisation of
Geng et al., Is Attention Better Than Matrix Decomposition?, ICLR 2021, section 2.2. Numbers that
the papers leave open are those of SegNeXt's published configurations.

Legend: B batch, C channels, H W pixels, h w feature grid, N = h w positions, R rank.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsseg.stages.train.students.mscan import SIZES, Mscan

_EPSILON = 1e-6
"""Keeps the updates' quotients finite where a map is all zero."""

_TRAIN_STEPS, _EVAL_STEPS = 6, 7
"""Multiplicative updates of coefficients and bases before the last one of the coefficients."""

_NORM_GROUPS = 32
_DROPOUT = 0.1


class HeadSize(NamedTuple):
    """Channels of a size's head, and rank of its factorisation."""

    channels: int
    rank: int


_HEADS = {
    "mscan_t": HeadSize(256, 16),
    "mscan_s": HeadSize(256, 16),
    "mscan_b": HeadSize(512, 64),
    "mscan_l": HeadSize(1024, 64),
}


class SegNext(nn.Module):
    """(B, 3, H, W) to (B, channels, H / 8, W / 8), for sides that divide by 32."""

    def __init__(self, encoder: str) -> None:
        """`encoder`: one of the keys of `mscan.SIZES`; random weights."""
        super().__init__()
        size = _HEADS[encoder]
        self.encoder = Mscan(SIZES[encoder])
        self.decoder = LightHam(sum(SIZES[encoder].channels[1:]), size)
        self.channels = size.channels

    def forward(self, image_B3HW: Tensor) -> Tensor:
        _, *maps = self.encoder(image_B3HW)
        decoded_BChw: Tensor = self.decoder(maps)
        return decoded_BChw


class LightHam(nn.Module):
    """The maps of the last three stages side by side, squeezed, factorised, aligned (figure 3c).

    Stage one is left out: its low-level information hurts (section 3.2).
    """

    def __init__(self, inputs: int, size: HeadSize) -> None:
        super().__init__()
        channels = size.channels
        self.squeeze = _conv_norm(inputs, channels)
        self.ham_in = nn.Conv2d(channels, channels, kernel_size=1)
        self.ham = Ham(channels, size.rank)
        self.ham_out = _conv_norm(channels, channels)
        self.align = _conv_norm(channels, channels)
        self.dropout = nn.Dropout2d(_DROPOUT)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """(B, channels, h, w) of the first map's size."""
        size = maps[0].shape[2:]
        resized = [F.interpolate(map_BChw, size, mode="bilinear") for map_BChw in maps[1:]]
        squeezed_BChw = F.relu(self.squeeze(torch.cat([maps[0], *resized], dim=1)))
        ham_BChw = self.ham_out(self.ham(F.relu(self.ham_in(squeezed_BChw))))
        aligned_BChw = F.relu(self.align(F.relu(squeezed_BChw + ham_BChw)))
        decoded_BChw: Tensor = self.dropout(aligned_BChw)
        return decoded_BChw


class Ham(nn.Module):
    """A map's best approximation by `rank` non-negative bases: its global context.

    Training starts from bases of torch's global generator, which a checkpoint keeps. Evaluation
    starts from one fixed draw, the same for every image: results depend on nothing but the image.
    """

    fixed_CR: Tensor

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        fixed_CR = torch.rand(channels, rank, generator=rng, device="cpu")
        # Not a weight: every build draws the same, so a checkpoint need not hold it.
        self.register_buffer("fixed_CR", fixed_CR, persistent=False)

    def forward(self, map_BChw: Tensor) -> Tensor:
        """The approximation (B, C, h, w) of a non-negative map, float32 also under autocast."""
        with _full_precision(map_BChw.device):
            map_BCN = map_BChw.float().flatten(2)
            batch, (channels, rank) = map_BCN.shape[0], self.fixed_CR.shape
            if self.training:
                bases_BCR = torch.rand(batch, channels, rank, device=map_BCN.device)
            else:
                bases_BCR = self.fixed_CR.float().expand(batch, -1, -1)
            steps = _TRAIN_STEPS if self.training else _EVAL_STEPS
            return factorise(map_BCN, F.normalize(bases_BCR, dim=1), steps).view(map_BChw.shape)


def factorise(map_BCN: Tensor, bases_BCR: Tensor, steps: int) -> Tensor:
    """D C^T (B, C, N), the product of non-negative matrices that approximates a map X >= 0.

    Lee and Seung's multiplicative updates, C <- C * X^T D / (C D^T D) and
    D <- D * X C / (D C^T C) (Geng et al., algorithm 2), `steps` times from C = softmax(X^T D), then
    C once more. Gradients flow through all of them, as in SegNeXt's published code (Geng et al.
    pass them through the last alone).
    """
    coefficients_BNR = torch.softmax(map_BCN.transpose(1, 2) @ bases_BCR, dim=2)
    for _ in range(steps):
        coefficients_BNR = _updated(coefficients_BNR, map_BCN.transpose(1, 2), bases_BCR)
        bases_BCR = _updated(bases_BCR, map_BCN, coefficients_BNR)
    coefficients_BNR = _updated(coefficients_BNR, map_BCN.transpose(1, 2), bases_BCR)
    return bases_BCR @ coefficients_BNR.transpose(1, 2)


def _updated(factor_BIR: Tensor, matrix_BIJ: Tensor, other_BJR: Tensor) -> Tensor:
    """One multiplicative update of a factor of matrix = factor other^T."""
    gram_BRR = other_BJR.transpose(1, 2) @ other_BJR
    return factor_BIR * (matrix_BIJ @ other_BJR) / (factor_BIR @ gram_BRR + _EPSILON)


def _conv_norm(inputs: int, channels: int) -> nn.Sequential:
    """A 1 x 1 convolution and its group normalisation."""
    return nn.Sequential(
        nn.Conv2d(inputs, channels, kernel_size=1, bias=False),
        nn.GroupNorm(_NORM_GROUPS, channels),
    )


def _full_precision(device: torch.device) -> AbstractContextManager[object]:
    """No autocast: half precision has too few digits for quotients of sums over all positions."""
    if not torch.amp.is_autocast_available(
        device.type
    ):  # such as meta, where operations are counted
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
