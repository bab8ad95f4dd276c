"""Dense CLIP tokens: one per location of the image tower's grid, projected into the text space.

CLIP pools all locations of an image and projects the result; here each location is projected by
itself. In a ViT the last block's attention mixes the locations, so all paths but the first rewrite
it:

- raw: unchanged
- value: attention replaced by its value path (MaskCLIP, Zhou et al., ECCV 2022)
- clearclip: softmax(q q^T) v, no residual, no feed-forward (ClearCLIP, Lan et al., ECCV 2024)
- nacl: softmax(k k^T + Gaussian of the distance) v, no residual, no feed-forward (NACLIP,
  Hajimiri et al., WACV 2025)

Legend: B batch, H W pixels, h w token grid, L tokens of a sequence (CLS and h w locations),
E the tower's inner width, D CLIP width, A heads, d width of a head.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from zsseg.stages.errors import UserError
from zsseg.stages.precompute.precompute_config import DenseConfig
from zsseg.stages.precompute.teacher.timm_towers import timm_path, timm_tokens


def dense_path(visual: Any, config: DenseConfig) -> str:
    """The path that an image tower takes.

    A ViT of open_clip or timm takes the one that is asked for; CLIP's ResNets take their value
    path; other towers of timm give their last feature map. Raises UserError for towers that cannot
    pool a single location.
    """
    if isinstance(visual, ModifiedResNet):
        return "value"
    if not isinstance(visual, VisionTransformer):
        if hasattr(visual.head, "pool"):
            raise UserError(
                f"dense.path={config.path}: this teacher pools over a fixed grid, so it has no "
                "dense tokens. Choose another teacher"
            )
        return timm_path(visual.trunk, config.path)
    if visual.attn_pool is not None:
        raise UserError(
            f"dense.path={config.path}: this teacher (CoCa) pools by learned queries, so it has no "
            "dense tokens. Choose another teacher"
        )
    last = visual.transformer.resblocks[-1]
    if config.path != "raw" and not isinstance(last.attn, nn.MultiheadAttention):
        raise UserError(
            f"dense.path={config.path} rewrites CLIP's own attention; this teacher's differs. "
            "Use dense.path=raw"
        )
    return config.path


def tower_strides(visual: Any) -> tuple[int, int]:
    """Height and width in pixels of what one dense token stands for."""
    if isinstance(visual, ModifiedResNet):
        return 32, 32
    if isinstance(visual, VisionTransformer):
        rows, columns = visual.patch_size
        return rows, columns
    stride: int = visual.trunk.feature_info[-1]["reduction"]
    return stride, stride


def token_grid(visual: Any, size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of the dense tokens for images of `size`, height and width in pixels.

    Raises UserError when a side is not a multiple of the tower's stride.
    """
    strides = tower_strides(visual)
    if any(side % stride or side == 0 for side, stride in zip(size, strides, strict=True)):
        fitting = [max(1, round(n / s)) * s for n, s in zip(size, strides, strict=True)]
        raise UserError(
            f"dense.size=[{size[0]},{size[1]}]: this teacher has one token per {strides[0]} x "
            f"{strides[1]} pixels. Give multiples of that, like [{fitting[0]},{fitting[1]}]"
        )
    return size[0] // strides[0], size[1] // strides[1]


def dense_tokens(visual: Any, image_B3HW: Tensor, config: DenseConfig) -> Tensor:
    """(B, D, h, w) tokens of an open_clip image tower, not normalised."""
    path = dense_path(visual, config)
    size = (image_B3HW.shape[2], image_B3HW.shape[3])
    grid = token_grid(visual, size)
    if isinstance(visual, ModifiedResNet):
        token_BLD = _resnet_tokens(visual, image_B3HW)
    elif isinstance(visual, VisionTransformer):
        token_BLD = _vit_tokens(visual, image_B3HW, grid, path, config)
    else:
        locations_hwhw = None
        if path == "nacl":
            locations_hwhw = _gaussian(grid, config.nacl_sigma, device=image_B3HW.device)
        token_BLD = timm_tokens(visual, image_B3HW, path, locations_hwhw)
    return token_BLD.transpose(1, 2).reshape(len(image_B3HW), -1, *grid)


def gaussian_bias(grid: tuple[int, int], sigma: float, *, device: torch.device) -> Tensor:
    """(L, L) NACLIP's addition to the attention logits; 0 in the row and column of CLS.

    exp(-distance^2 / (2 sigma^2)) between two locations, `sigma` in patches.
    """
    return F.pad(_gaussian(grid, sigma, device=device), (1, 0, 1, 0))


def _gaussian(grid: tuple[int, int], sigma: float, *, device: torch.device) -> Tensor:
    """(h w, h w) `gaussian_bias` of the locations alone."""
    row_h, column_w = (torch.arange(side, device=device) for side in grid)
    vertical_hh = (row_h[:, None] - row_h[None, :]) ** 2
    horizontal_ww = (column_w[:, None] - column_w[None, :]) ** 2
    squared_hwhw = vertical_hh[:, None, :, None] + horizontal_ww[None, :, None, :]
    locations = grid[0] * grid[1]
    return torch.exp(-squared_hwhw.view(locations, locations) / (2 * sigma**2))


def resize_positions(position_LE: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """(L, E) position embedding of CLS and a grid, brought to another grid (bicubic, antialias)."""
    if old == new:
        return position_LE
    position_1Ehw = position_LE[1:].T.reshape(1, -1, *old)
    resized_1Ehw = F.interpolate(
        position_1Ehw, size=new, mode="bicubic", antialias=True, align_corners=False
    )
    return torch.cat([position_LE[:1], resized_1Ehw[0].flatten(1).T])


def _vit_tokens(
    visual: Any, image_B3HW: Tensor, grid: tuple[int, int], path: str, config: DenseConfig
) -> Tensor:
    """(B, h w, D) tokens of open_clip's VisionTransformer."""
    patch_BLE = visual.conv1(image_B3HW).flatten(2).transpose(1, 2)
    cls_B1E = visual.class_embedding.expand(len(patch_BLE), 1, -1)
    position_LE = resize_positions(visual.positional_embedding, visual.grid_size, grid)
    x_BLE = visual.ln_pre(torch.cat([cls_B1E, patch_BLE], dim=1) + position_LE)
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        x_BLE = block(x_BLE)
    x_BLE = _LAST_BLOCK[path](last, x_BLE, grid, config)
    token_BLD: Tensor = visual.ln_post(x_BLE[:, 1:]) @ visual.proj
    return token_BLD


def _raw(block: Any, x_BLE: Tensor, grid: tuple[int, int], config: DenseConfig) -> Tensor:
    """The block as it is."""
    output_BLE: Tensor = block(x_BLE)
    return output_BLE


def _value(block: Any, x_BLE: Tensor, grid: tuple[int, int], config: DenseConfig) -> Tensor:
    """Attention replaced by its value path (MaskCLIP)."""
    value_BLE = _query_key_value(block, x_BLE)[2]
    x_BLE = x_BLE + block.ls_1(block.attn.out_proj(value_BLE))
    output_BLE: Tensor = x_BLE + block.ls_2(block.mlp(block.ln_2(x_BLE)))
    return output_BLE


def _clearclip(block: Any, x_BLE: Tensor, grid: tuple[int, int], config: DenseConfig) -> Tensor:
    """Attention of queries with queries, alone (ClearCLIP)."""
    return _self_attention(block, x_BLE, by="q", bias_LL=None)


def _nacl(block: Any, x_BLE: Tensor, grid: tuple[int, int], config: DenseConfig) -> Tensor:
    """Attention of keys with keys and a Gaussian of the distance, alone (NACLIP)."""
    bias_LL = gaussian_bias(grid, config.nacl_sigma, device=x_BLE.device).to(x_BLE)
    return _self_attention(block, x_BLE, by="k", bias_LL=bias_LL)


_LAST_BLOCK: dict[str, Callable[[Any, Tensor, tuple[int, int], DenseConfig], Tensor]] = {
    "raw": _raw,
    "value": _value,
    "clearclip": _clearclip,
    "nacl": _nacl,
}
"""By path: the output (B, L, E) of the last block for its input (B, L, E) and the grid (h, w)."""


def _query_key_value(block: Any, x_BLE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    projected = F.linear(block.ln_1(x_BLE), block.attn.in_proj_weight, block.attn.in_proj_bias)
    query_BLE, key_BLE, value_BLE = projected.chunk(3, dim=-1)
    return query_BLE, key_BLE, value_BLE


def _self_attention(
    block: Any, x_BLE: Tensor, *, by: Literal["q", "k"], bias_LL: Tensor | None
) -> Tensor:
    """(B, L, E) output of a block's attention alone, queries or keys compared with themselves."""
    query_BLE, key_BLE, value_BLE = _query_key_value(block, x_BLE)
    by_head = (*x_BLE.shape[:2], block.attn.num_heads, -1)
    same_BALd = (query_BLE if by == "q" else key_BLE).reshape(by_head).transpose(1, 2)
    value_BALd = value_BLE.reshape(by_head).transpose(1, 2)
    # The fused kernel scales by 1/sqrt(d) and never makes the (B, A, L, L) attention map.
    mixed_BALd = F.scaled_dot_product_attention(same_BALd, same_BALd, value_BALd, attn_mask=bias_LL)
    output_BLE: Tensor = block.ls_1(block.attn.out_proj(mixed_BALd.transpose(1, 2).flatten(2)))
    return output_BLE


def _resnet_tokens(visual: Any, image_B3HW: Tensor) -> Tensor:
    """(B, h w, D) tokens of CLIP's ResNet: the value path of its attention pooling (MaskCLIP)."""
    x_BEhw = visual.stem(image_B3HW)
    for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        x_BEhw = layer(x_BEhw)
    pool = visual.attnpool
    token_BLD: Tensor = pool.c_proj(pool.v_proj(x_BEhw.flatten(2).transpose(1, 2)))
    return token_BLD
