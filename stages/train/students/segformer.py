"""SegFormer's decoder, with the maps of its stages fused before they are enlarged.

Xie et al., SegFormer, NeurIPS 2021, Eq. 4: each stage's map is projected, all are enlarged to
stride 4 and laid side by side, and a 1 x 1 convolution fuses them. That convolution is a sum over
the stages, and a 1 x 1 convolution may stand before an interpolation as well as after it, whose
weights sum to 1. So each stage is projected and fused at its own size, and the results are enlarged
and added: equal up to rounding, and fused with a third of the multiplications (strides 4 to 32:
1 + 1/4 + 1/16 + 1/64 of 4), without the map of four times the channels.

Legend: B batch, c channels of a stage, M channels of the decoded map, h w grid of stride 4.
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class FusedFirst(nn.Module):
    """The parts of smp's decoder, under their names, in another order of computation."""

    def __init__(self, decoder: Any) -> None:
        """`decoder` is smp's `SegformerDecoder`, whose parts these are from now on."""
        super().__init__()
        self.mlp_stage: Any = decoder.mlp_stage
        self.fuse_stage: Any = decoder.fuse_stage

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """(B, M, h, w) of an encoder's maps: the image, stride 2 (not used), strides 4 on."""
        height, width = (side // 4 for side in features[0].shape[2:])
        fuse, *normalise = self.fuse_stage
        parts_McM = fuse.weight.split(fuse.out_channels, dim=1)
        stages_Bchw = features[: -len(self.mlp_stage) - 1 : -1]  # the coarsest first
        decoded_BMhw: Tensor | None = None
        for mlp, part_MM11, stage_Bchw in zip(self.mlp_stage, parts_McM, stages_Bchw, strict=True):
            weight_Mc11 = mlp.linear.weight[:, :, None, None]
            fused_BMhw = F.conv2d(F.conv2d(stage_Bchw, weight_Mc11, mlp.linear.bias), part_MM11)
            if fused_BMhw.shape[2:] != (height, width):
                fused_BMhw = F.interpolate(fused_BMhw, size=(height, width), mode="bilinear")
            decoded_BMhw = fused_BMhw if decoded_BMhw is None else decoded_BMhw + fused_BMhw
        for layer in normalise:
            decoded_BMhw = layer(decoded_BMhw)
        assert decoded_BMhw is not None
        return decoded_BMhw
