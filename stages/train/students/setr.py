"""SETR: a ViT of timm under the naive, the PUP or the MLA head.

Zheng et al., Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with
Transformers, CVPR 2021, section 3.3; channels are those of its published configurations. Their
auxiliary heads, which supervise inner layers in training and do nothing afterwards, are left out.

Legend: B batch, C channels, E the ViT's width, H W pixels, h w patch grid, k upsampling of a head.
"""

from typing import Any, Literal

import timm
import torch
import torch.nn.functional as F
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from zsseg.stages.errors import UserError

Head = Literal["setr_naive", "setr_pup", "setr_mla"]

_CHANNELS = 256
_STREAM_CHANNELS = 128
"""Channels of one of MLA's streams before they are put side by side."""

_STREAMS = 4

_UPSAMPLING = {"setr_naive": 1, "setr_pup": 8, "setr_mla": 4}
"""k: how much finer than the patch grid a head's map is."""


class Setr(nn.Module):
    """(B, 3, H, W) to (B, channels, h k, w k), for sides that divide by the patch."""

    def __init__(self, head: Head, encoder: Any) -> None:
        """`encoder`: a ViT of `build_vit`."""
        super().__init__()
        self.encoder = encoder
        depth, width = len(encoder.blocks), encoder.embed_dim
        self.layers = [depth - 1]
        self.channels = _CHANNELS
        self.decoder: nn.Module
        match head:
            case "setr_naive":
                self.decoder = _conv(width, _CHANNELS, kernel=1)
            case "setr_pup":
                self.decoder = progressive_head(width)
            case "setr_mla":
                self.layers = [depth * stream // _STREAMS - 1 for stream in range(1, _STREAMS + 1)]
                self.channels = _STREAMS * _STREAM_CHANNELS
                self.decoder = MultiLevelHead(width)
                encoder.norm = nn.Identity()  # the head normalises each level by itself

    def forward(self, image_B3HW: Tensor) -> Tensor:
        levels = self.encoder.forward_intermediates(
            image_B3HW, indices=self.layers, norm=True, intermediates_only=True
        )
        decoded_BChw: Tensor = self.decoder(*levels)
        return decoded_BChw


def progressive_head(width: int) -> nn.Sequential:
    """PUP: convolutions and doublings in turn, 8 times finer in all (figure 1b).

    The paper's fourth doubling is of class scores; ours come after the projection.
    """
    layers: list[nn.Module] = []
    for inputs in (width, _CHANNELS, _CHANNELS):
        layers += [_conv(inputs, _CHANNELS), nn.Upsample(scale_factor=2, mode="bilinear")]
    return nn.Sequential(*layers, _conv(_CHANNELS, _CHANNELS))


class MultiLevelHead(nn.Module):
    """MLA: levels summed from the deepest up, a stream of convolutions for each (figure 1c)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for _ in range(_STREAMS))
        self.reduce = nn.ModuleList(_conv(width, _CHANNELS, kernel=1) for _ in range(_STREAMS))
        self.streams = nn.ModuleList(
            nn.Sequential(
                _conv(_CHANNELS, _CHANNELS),
                _conv(_CHANNELS, _STREAM_CHANNELS),
                _conv(_STREAM_CHANNELS, _STREAM_CHANNELS),
            )
            for _ in range(_STREAMS)
        )

    def forward(self, *level_BEhw: Tensor) -> Tensor:
        """The streams side by side, (B, 4 x 128, 4 h, 4 w); levels from the shallowest on."""
        summed_BChw: Tensor | None = None
        decoded = []
        parts = zip(self.norms, self.reduce, self.streams, level_BEhw, strict=True)
        for norm, reduce, stream, level in reversed(list(parts)):
            reduced_BChw = reduce(norm(level.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
            summed_BChw = reduced_BChw if summed_BChw is None else summed_BChw + reduced_BChw
            decoded.append(F.interpolate(stream(summed_BChw), scale_factor=4, mode="bilinear"))
        return torch.cat(decoded[::-1], dim=1)


def build_vit(name: str, head: Head, *, pretrained: bool) -> tuple[Any, int]:
    """A ViT of timm for images of any size (its positions are resampled), and its patch in pixels.

    Raises UserError for a network that is no plain ViT or whose patch does not suit the head, and
    what timm raises for weights that it does not have.
    """
    try:
        # No pooling and no classes: the norm stands where the published weights have it.
        encoder = timm.create_model(
            name, pretrained=pretrained, num_classes=0, global_pool="", dynamic_img_size=True
        )
    except TypeError as error:
        raise UserError(_not_a_vit(name)) from error
    if not isinstance(encoder, VisionTransformer | Eva):  # Eva: with rotary positions
        raise UserError(_not_a_vit(name))
    patch: int = encoder.feature_info[-1]["reduction"]
    stride, rest = divmod(patch, _UPSAMPLING[head])
    # A student averages cells of 1 or 2 pixels into cells of 4; cells of 3 it cannot.
    if rest or (stride < 4 and 4 % stride):
        raise UserError(
            f"student.encoder: '{name}' has patches of {patch} pixels, which {head} cannot "
            f"refine {_UPSAMPLING[head]} times into whole cells. Use a ViT with patches of 16, "
            "or setr_naive"
        )
    return encoder, patch


def _not_a_vit(name: str) -> str:
    return (
        f"student.encoder: '{name}' is no plain ViT of timm, which SETR needs. Use one such as "
        "vit_base_patch16_384 or deit_base_patch16_384"
    )


def _conv(inputs: int, channels: int, *, kernel: int = 3) -> nn.Sequential:
    """A convolution that keeps the size, batch normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, channels, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )
