"""MSCAN, the encoder of SegNeXt: convolutional attention of several widths.

Guo et al., SegNeXt: Rethinking Convolutional Attention Design for Semantic Segmentation, NeurIPS
2022, section 3.1 and table 2. Modules carry the names of the published ImageNet weights
(`mscan_t.pth` ... `mscan_l.pth`), so that those load by name.

Legend: B batch, C channels, H W pixels, h w feature grid.
"""

import math
from collections import OrderedDict
from typing import NamedTuple

from timm.layers import DropPath
from torch import Tensor, linspace, nn, ones

_LAYER_SCALE = 1e-2
"""Initial value of a block's two scales."""

_MLP_RATIOS = (8, 8, 4, 4)
"""Hidden channels of a stage's MLPs, as a multiple of its channels."""


class MscanSize(NamedTuple):
    """What tells the four published encoders apart."""

    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    drop_path: float
    """Probability of leaving out the last block; it grows linearly from 0 at the first."""


SIZES = {
    "mscan_t": MscanSize((32, 64, 160, 256), (3, 3, 5, 2), 0.1),
    "mscan_s": MscanSize((64, 128, 320, 512), (2, 2, 4, 2), 0.1),
    "mscan_b": MscanSize((64, 128, 320, 512), (3, 3, 12, 3), 0.1),
    "mscan_l": MscanSize((64, 128, 320, 512), (3, 5, 27, 3), 0.3),
}
"""Table 2 of the paper; drop path as in its published configurations."""


class Mscan(nn.Module):
    """Four stages at strides 4, 8, 16 and 32."""

    def __init__(self, size: MscanSize) -> None:
        """Random weights: convolutions normal by fan-out, norms at one, as published."""
        super().__init__()
        rates = linspace(0, size.drop_path, sum(size.depths), device="cpu").tolist()
        inputs = 3
        for stage, (channels, depth) in enumerate(zip(size.channels, size.depths, strict=True), 1):
            embed = Downsample(inputs, channels) if stage > 1 else Stem(channels)
            blocks = [
                Block(channels, _MLP_RATIOS[stage - 1], drop_path=rates.pop(0))
                for _ in range(depth)
            ]
            self.add_module(f"patch_embed{stage}", embed)
            self.add_module(f"block{stage}", nn.Sequential(*blocks))
            self.add_module(f"norm{stage}", nn.LayerNorm(channels))
            inputs = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, image_B3HW: Tensor) -> list[Tensor]:
        """The four maps (B, C, h, w), finest first; h = ceil(H / stride) and so w."""
        maps, map_BChw = [], image_B3HW
        for stage in range(1, 5):
            map_BChw = self.get_submodule(f"patch_embed{stage}")(map_BChw)
            map_BChw = self.get_submodule(f"block{stage}")(map_BChw)
            norm = self.get_submodule(f"norm{stage}")
            map_BChw = norm(map_BChw.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()
            maps.append(map_BChw)
        return maps


class Stem(nn.Module):
    """Two convolutions of stride 2: stride 4 in all."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Conv2d(3, channels // 2, kernel_size=3, stride=2, padding=1),
            nn.BatchNorm2d(channels // 2),
            nn.GELU(),
            nn.Conv2d(channels // 2, channels, kernel_size=3, stride=2, padding=1),
            nn.BatchNorm2d(channels),
        )

    def forward(self, image_B3HW: Tensor) -> Tensor:
        map_BChw: Tensor = self.proj(image_B3HW)
        return map_BChw


class Downsample(nn.Module):
    """Half the resolution and other channels, between two stages."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, channels, kernel_size=3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, map_BChw: Tensor) -> Tensor:
        smaller_BChw: Tensor = self.norm(self.proj(map_BChw))
        return smaller_BChw


class Block(nn.Module):
    """Attention and MLP, each a residual branch with a learnt scale per channel (figure 2a)."""

    def __init__(self, channels: int, mlp_ratio: int, *, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.attn = Attention(channels)
        self.norm2 = nn.BatchNorm2d(channels)
        self.mlp = Mlp(channels, mlp_ratio * channels)
        self.drop_path = DropPath(drop_path)
        self.layer_scale_1 = nn.Parameter(_LAYER_SCALE * ones(channels))
        self.layer_scale_2 = nn.Parameter(_LAYER_SCALE * ones(channels))

    def forward(self, map_BChw: Tensor) -> Tensor:
        attended = self.layer_scale_1[:, None, None] * self.attn(self.norm1(map_BChw))
        map_BChw = map_BChw + self.drop_path(attended)
        mixed = self.layer_scale_2[:, None, None] * self.mlp(self.norm2(map_BChw))
        summed_BChw: Tensor = map_BChw + self.drop_path(mixed)
        return summed_BChw


class Attention(nn.Module):
    """MSCA between two 1 x 1 convolutions, with its own shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj_1 = nn.Conv2d(channels, channels, kernel_size=1)
        self.activation = nn.GELU()
        self.spatial_gating_unit = Msca(channels)
        self.proj_2 = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(self, map_BChw: Tensor) -> Tensor:
        gated_BChw = self.spatial_gating_unit(self.activation(self.proj_1(map_BChw)))
        attended_BChw: Tensor = map_BChw + self.proj_2(gated_BChw)
        return attended_BChw


class Msca(nn.Module):
    """Multi-scale convolutional attention (Eq. 1 and 2): the map, gated by strips of itself.

    Att = Conv1x1(sum_i Scale_i(DW(F))), Out = Att * F: a depthwise 5 x 5, and beside it pairs of
    strips of 7, 11 and 21, which stand for square kernels of that size.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv0 = _depthwise(channels, (5, 5))
        for branch, length in enumerate((7, 11, 21)):
            self.add_module(f"conv{branch}_1", _depthwise(channels, (1, length)))
            self.add_module(f"conv{branch}_2", _depthwise(channels, (length, 1)))
        self.conv3 = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(self, map_BChw: Tensor) -> Tensor:
        local_BChw = self.conv0(map_BChw)
        summed_BChw = local_BChw
        for branch in range(3):
            rows_BChw = self.get_submodule(f"conv{branch}_1")(local_BChw)
            summed_BChw = summed_BChw + self.get_submodule(f"conv{branch}_2")(rows_BChw)
        gated_BChw: Tensor = self.conv3(summed_BChw) * map_BChw
        return gated_BChw


class Mlp(nn.Module):
    """1 x 1, depthwise 3 x 3, GELU, 1 x 1."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, kernel_size=1)
        # The published name of its weight is mlp.dwconv.dwconv.weight.
        self.dwconv = nn.Sequential(OrderedDict(dwconv=_depthwise(hidden, (3, 3))))
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden, channels, kernel_size=1)

    def forward(self, map_BChw: Tensor) -> Tensor:
        mixed_BChw: Tensor = self.fc2(self.act(self.dwconv(self.fc1(map_BChw))))
        return mixed_BChw


def _depthwise(channels: int, kernel: tuple[int, int]) -> nn.Conv2d:
    """A convolution of each channel by itself that keeps the size."""
    padding = (kernel[0] // 2, kernel[1] // 2)
    return nn.Conv2d(channels, channels, kernel, padding=padding, groups=channels)
