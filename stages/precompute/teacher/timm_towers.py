"""Dense tokens of image towers that open_clip builds on timm.

A ViT of timm (SigLIP, PE-Core, MobileCLIP-B, EVA02, ViTamin) takes the paths of `dense_tokens.py`:
its last block is written anew around its own layers. Other towers (ConvNeXt, FastViT, Swin) give
their last feature map. Each location is then pooled by itself.

Legend: B batch, H W pixels, h w token grid, L tokens of a sequence (prefix and h w locations),
E the tower's inner width, D CLIP width, A heads, d width of a head.
"""

from copy import copy, deepcopy
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEATURE_MAP = "feature_map"

_BLOCKS = ("Block", "EvaBlock")
_ATTENTIONS = ("Attention", "AttentionRope", "EvaAttention")
"""timm's classes whose forward pass is known here; their relatives compute something else."""


def timm_path(trunk: Any, path: str) -> str:
    """The path that a trunk takes where `path` is asked for: that one, or its last feature map.

    `raw` is the last feature map of a ViT.
    """
    blocks = getattr(trunk, "blocks", None)
    if path == "raw" or not isinstance(blocks, nn.Sequential | nn.ModuleList) or not len(blocks):
        return FEATURE_MAP
    last = blocks[-1]
    attention = getattr(last, "attn", None)
    known = type(last).__name__ in _BLOCKS and type(attention).__name__ in _ATTENTIONS
    plain = getattr(attention, "gate", None) is None and _groups(attention) == 1
    return path if known and plain else FEATURE_MAP


def timm_tokens(visual: Any, image_B3HW: Tensor, path: str, bias_hwhw: Tensor | None) -> Tensor:
    """(B, h w, D) tokens of a timm tower: each location pooled and projected by itself.

    `path` is that of `timm_path`; `bias_hwhw` (h w, h w) is added to the logits of `nacl`.
    """
    trunk = _trunk_for(visual, (image_B3HW.shape[2], image_B3HW.shape[3]))
    if path != FEATURE_MAP:
        trunk = _with_last_block(trunk, path, bias_hwhw)
    feature = trunk.forward_features(image_B3HW)
    if feature.ndim == 3:
        # A sequence: each token is repeated in all places. Any pooling (first token, mean with or
        # without prefix, attention) of equal tokens gives what it makes of that token.
        prefix = getattr(trunk, "num_prefix_tokens", 0)
        alone = feature[:, prefix:].flatten(0, 1)[:, None].expand(-1, prefix + 1, -1)
    elif getattr(trunk, "output_fmt", "NCHW") == "NHWC":
        alone = feature.flatten(0, 2)[:, None, None]
    else:
        alone = feature.permute(0, 2, 3, 1).flatten(0, 2)[:, :, None, None]
    token: Tensor = visual.head(trunk.forward_head(alone))
    return token.reshape(len(image_B3HW), -1, token.shape[-1])


def _with_last_block(trunk: Any, path: str, bias_hwhw: Tensor | None) -> Any:
    """A trunk of the same layers, whose last block is written anew; the old one is not touched."""
    *blocks, last = trunk.blocks
    rewritten = _LastBlock(last, path, bias_hwhw)
    twin = copy(trunk)
    twin._modules = dict(trunk._modules)
    blocks = [*blocks, rewritten]
    sequence = isinstance(trunk.blocks, nn.Sequential)
    twin.blocks = nn.Sequential(*blocks) if sequence else nn.ModuleList(blocks)
    return twin


class _LastBlock(nn.Module):
    """A ViT's last block by one of the paths value, clearclip and nacl."""

    def __init__(self, block: Any, path: str, bias_hwhw: Tensor | None) -> None:
        super().__init__()
        self.block = block
        self.path = path
        self.bias_hwhw = bias_hwhw

    def forward(self, x_BLE: Tensor, rope: Tensor | None = None, **_: object) -> Tensor:
        block: Any = self.block
        query_BALd, key_BALd, value_BALd = _query_key_value(block.attn, block.norm1(x_BLE), rope)
        if self.path == "value":
            x_BLE = x_BLE + _scaled(block, 1, _projected(block.attn, value_BALd))
            output_BLE: Tensor = x_BLE + _scaled(block, 2, block.mlp(block.norm2(x_BLE)))
            return output_BLE
        same_BALd = query_BALd if self.path == "clearclip" else key_BALd
        mixed_BALd = F.scaled_dot_product_attention(
            same_BALd, same_BALd, value_BALd, attn_mask=self._bias(x_BLE)
        )
        return _scaled(block, 1, _projected(block.attn, mixed_BALd))

    def _bias(self, x_BLE: Tensor) -> Tensor | None:
        """(L, L): 0 in the rows and columns of the prefix (class and registers)."""
        if self.bias_hwhw is None:
            return None
        prefix = x_BLE.shape[1] - len(self.bias_hwhw)
        return F.pad(self.bias_hwhw.to(x_BLE), (prefix, 0, prefix, 0))


def _query_key_value(
    attention: Any, x_BLE: Tensor, rope: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """(B, A, L, d) each, as the attention compares them: normalised, and turned by position."""
    if attention.qkv is None:
        parts = [attention.q_proj(x_BLE), attention.k_proj(x_BLE), attention.v_proj(x_BLE)]
    else:
        bias = attention.qkv.bias
        if getattr(attention, "q_bias", None) is not None:  # EVA has none for keys
            bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
        parts = list(F.linear(x_BLE, attention.qkv.weight, bias).chunk(3, dim=-1))
    batch, tokens = x_BLE.shape[:2]
    query, key, value = (
        part.reshape(batch, tokens, attention.num_heads, -1).transpose(1, 2) for part in parts
    )
    query, key = attention.q_norm(query), attention.k_norm(key)
    if rope is not None:
        half = getattr(attention, "rotate_half", False)
        prefix = attention.num_prefix_tokens
        query, key = (_rotated(each, rope, prefix=prefix, half=half) for each in (query, key))
    return query, key, value.type_as(query)


def _rotated(x_BALd: Tensor, rope: Tensor, *, prefix: int, half: bool) -> Tensor:
    """Rotary positions (Su et al., RoFormer, 2021) of all tokens but the prefix.

    `rope`: sines and cosines side by side; pairs of numbers are neighbours, or `half` a head apart.
    """
    sine, cosine = rope.chunk(2, dim=-1)
    moved = x_BALd[:, :, prefix:]
    if half:
        first, second = moved.chunk(2, dim=-1)
        turned = torch.cat([-second, first], dim=-1)
    else:
        turned = torch.stack([-moved[..., 1::2], moved[..., ::2]], dim=-1).flatten(-2)
    rotated = (moved * cosine + turned * sine).to(x_BALd)
    return torch.cat([x_BALd[:, :, :prefix], rotated], dim=2)


def _projected(attention: Any, mixed_BALd: Tensor) -> Tensor:
    """(B, L, E) what an attention makes of mixed values."""
    output_BLE: Tensor = attention.proj(attention.norm(mixed_BALd.transpose(1, 2).flatten(2)))
    return output_BLE


def _scaled(block: Any, which: int, x_BLE: Tensor) -> Tensor:
    """The block's layer scale: modules ls1 and ls2, or parameters gamma_1 and gamma_2 (EVA)."""
    if hasattr(block, f"ls{which}"):
        scaled: Tensor = getattr(block, f"ls{which}")(x_BLE)
        return scaled
    gamma_E: Tensor | None = getattr(block, f"gamma_{which}")
    return x_BLE if gamma_E is None else gamma_E * x_BLE


def _groups(attention: Any) -> int:
    """Heads that share keys and values."""
    groups: int = getattr(attention, "num_kv_groups", 1)
    return groups


def _trunk_for(visual: Any, size: tuple[int, int]) -> Any:
    """The trunk; where it is built for another image size, a copy for this one, sharing weights.

    timm resamples what depends on the size (position embeddings: bicubic, antialias).
    """
    trunk = visual.trunk
    if size == tuple(visual.image_size) or not hasattr(trunk, "set_input_size"):
        return trunk
    copies = _TRUNKS.setdefault(trunk, {})
    if size not in copies:
        copy = deepcopy(trunk, memo={id(weight): weight for weight in trunk.parameters()})
        copy.set_input_size(size)
        copies[size] = copy
    return copies[size]


_TRUNKS: WeakKeyDictionary[nn.Module, dict[tuple[int, int], Any]] = WeakKeyDictionary()
"""The copies of a trunk by image size, made once: a copy takes as long as a small batch."""
