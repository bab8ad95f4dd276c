"""Dense paths of timm's ViTs against their last block written out by hand."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from zsseg.stages.precompute.precompute_config import DenseConfig
from zsseg.stages.precompute.teacher.dense_tokens import dense_path, dense_tokens

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
SIGLIP = ("vit_base_patch16_siglip_224", {"num_classes": 0})
TOWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "SigLIP 2": SIGLIP,
    "MobileCLIP2-L": ("vit_large_patch14_clip_224", {"num_classes": 5, "global_pool": "token"}),
    "registers and scales": (
        "vit_tiny_patch16_224",
        {"reg_tokens": 2, "init_values": 0.5, "qk_norm": True, "num_classes": 0},
    ),
    "PE-Core": ("vit_pe_core_tiny_patch16_384", {"num_classes": 5}),
    "PE-Core without class": (
        "vit_pe_core_gigantic_patch14_448",
        {"num_classes": 5, "mlp_ratio": 2.0},
    ),
    "EVA02-B": ("eva02_base_patch16_clip_224", {"num_classes": 5, "global_pool": "token"}),
    "EVA01": ("eva_giant_patch14_224", {"num_classes": 5, "mlp_ratio": 2.0}),
}


def tower(kind: str) -> Any:
    """A small random tower in float64, as open_clip holds it."""
    name, settings = TOWERS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        trunk = timm.create_model(name, **{**SMALL, **settings}).eval().requires_grad_(False)
        for parameter in trunk.parameters():
            nn.init.normal_(parameter, std=0.3)
        projected = settings["num_classes"] > 0
        head = nn.Sequential(*([] if projected else [nn.Linear(trunk.num_features, 5, bias=False)]))
    return SimpleNamespace(trunk=trunk.double(), head=head.double(), image_size=(32, 32))


def pictures(size: tuple[int, int]) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, *size, generator=rng, dtype=torch.float64)


def norm(layer: Any, x: Tensor) -> Tensor:
    if isinstance(layer, nn.Identity):
        return x
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + layer.eps).sqrt()
    result: Tensor = scaled * layer.weight + layer.bias
    return result


def linear(layer: Any, x: Tensor, rows: slice = slice(None)) -> Tensor:
    bias = 0.0 if layer.bias is None else layer.bias[rows]
    return torch.einsum("ble,fe->blf", x, layer.weight[rows]) + bias


def turned(x_BALd: Tensor, rope: Tensor | None, prefix: int, half: bool) -> Tensor:
    """Pairs (a, b) of a location's numbers become (a cos - b sin, b cos + a sin)."""
    if rope is None:
        return x_BALd
    x = x_BALd.clone()
    width = x.shape[-1]
    for location in range(x.shape[2] - prefix):
        sine, cosine = rope[location, :width], rope[location, width:]
        for i in range(width // 2):
            a, b = (i, i + width // 2) if half else (2 * i, 2 * i + 1)
            first, second = x_BALd[:, :, prefix + location, a], x_BALd[:, :, prefix + location, b]
            x[:, :, prefix + location, a] = first * cosine[a] - second * sine[a]
            x[:, :, prefix + location, b] = second * cosine[b] + first * sine[b]
    return x


def query_key_value(attention: Any, x: Tensor, rope: Tensor | None, prefix: int) -> list[Tensor]:
    width = attention.num_heads * (x.shape[-1] // attention.num_heads)
    if attention.qkv is None:
        layers = (attention.q_proj, attention.k_proj, attention.v_proj)
        parts = [linear(layer, x) for layer in layers]
    else:
        parts = [linear(attention.qkv, x, slice(i * width, (i + 1) * width)) for i in range(3)]
        if getattr(attention, "q_bias", None) is not None:
            parts[0], parts[2] = parts[0] + attention.q_bias, parts[2] + attention.v_bias
    heads = [part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in parts]
    half = getattr(attention, "rotate_half", False)
    query = turned(norm(attention.q_norm, heads[0]), rope, prefix, half)
    key = turned(norm(attention.k_norm, heads[1]), rope, prefix, half)
    return [query, key, heads[2]]


def scale(block: Any, which: int) -> Any:
    layer = getattr(block, f"ls{which}", None)
    if layer is not None:
        return getattr(layer, "gamma", 1.0)
    gamma = getattr(block, f"gamma_{which}")
    return 1.0 if gamma is None else gamma


def by_hand(visual: Any, image: Tensor, path: str, grid: tuple[int, int]) -> Tensor:
    """(B, D, h, w) with the last block as the papers write it; the blocks before are timm's."""
    seen: dict[str, Any] = {}

    def keep(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.update(x=args[0], rope=kwargs.get("rope"))

    trunk = timm_for(visual, grid)
    block = trunk.blocks[-1]
    hook = block.register_forward_pre_hook(keep, with_kwargs=True)
    trunk.forward_features(image)
    hook.remove()
    x, rope, prefix = seen["x"], seen["rope"], trunk.num_prefix_tokens
    query, key, value = query_key_value(block.attn, norm(block.norm1, x), rope, prefix)
    if path == "value":
        mixed = value
    else:
        same = query if path == "clearclip" else key
        logit = torch.einsum("bald,bamd->balm", same, same) / math.sqrt(same.shape[-1])
        if path == "nacl":
            for one in range(grid[0] * grid[1]):
                for two in range(grid[0] * grid[1]):
                    (r1, c1), (r2, c2) = divmod(one, grid[1]), divmod(two, grid[1])
                    squared = (r1 - r2) ** 2 + (c1 - c2) ** 2
                    logit[:, :, prefix + one, prefix + two] += math.exp(-squared / (2 * 1.5**2))
        mixed = torch.einsum("balm,bamd->bald", logit.softmax(-1), value)
    output = norm(block.attn.norm, mixed.transpose(1, 2).flatten(2))
    output = scale(block, 1) * linear(block.attn.proj, output)
    if path == "value":
        output = x + output
        output = output + scale(block, 2) * block.mlp(norm(block.norm2, output))
    output = norm(trunk.norm, output)[:, prefix:]
    tokens = [visual.head(pooled(trunk, output[:, i])) for i in range(output.shape[1])]
    result: Tensor = torch.stack(tokens, dim=-1).unflatten(-1, grid)
    return result


def pooled(trunk: Any, token_BE: Tensor) -> Tensor:
    """What a trunk makes of one location alone: attention pooling gives its value."""
    if trunk.attn_pool is not None:
        pool, width = trunk.attn_pool, token_BE.shape[-1]
        value = linear(pool.kv, token_BE[:, None], slice(width, None))
        value = linear(pool.proj, value)
        if pool.mlp is not None:
            value = value + pool.mlp(norm(pool.norm, value))
        token_BE = value[:, 0]
    result: Tensor = trunk.head(norm(trunk.fc_norm, token_BE))
    return result


def timm_for(visual: Any, grid: tuple[int, int]) -> Any:
    if grid != (4, 4):
        visual.trunk.set_input_size((grid[0] * 8, grid[1] * 8))
    return visual.trunk


@pytest.mark.parametrize("kind", TOWERS)
@pytest.mark.parametrize("path", ["value", "clearclip", "nacl"])
@pytest.mark.parametrize("grid", [(4, 4), (3, 6)])
def test_paths_equal_the_last_block_written_out(
    kind: str, path: Any, grid: tuple[int, int]
) -> None:
    size = (grid[0] * 8, grid[1] * 8)
    config = DenseConfig(path=path, size=size, nacl_sigma=1.5)
    visual = tower(kind)
    assert dense_path(visual, config) == path
    before = {name: each.clone() for name, each in visual.trunk.state_dict().items()}
    token_BDhw = dense_tokens(visual, pictures(size), config)
    assert token_BDhw.shape == (2, 5, *grid)
    assert all(torch.equal(each, before[name]) for name, each in visual.trunk.state_dict().items())
    expected = by_hand(visual, pictures(size), path, grid)
    assert expected.std() > 1e-3
    torch.testing.assert_close(token_BDhw, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("kind", TOWERS)
def test_raw_is_the_last_feature_map_and_differs_from_each_path(kind: str) -> None:
    visual, image = tower(kind), pictures((32, 32))
    tokens = {
        path: dense_tokens(visual, image, DenseConfig(path=path, size=(32, 32)))
        for path in ("raw", "value", "clearclip", "nacl")
    }
    assert dense_path(visual, DenseConfig(path="raw")) == "feature_map"
    named = list(tokens.values())
    for index, one in enumerate(named):
        assert all(not torch.allclose(one, two) for two in named[index + 1 :])


@pytest.mark.parametrize(
    "name", ["eva02_enormous_patch14_clip_224", "vit_relpos_small_patch16_224", "convnext_atto"]
)
def test_a_tower_without_these_paths_says_so(name: str) -> None:
    with torch.device("meta"):
        visual = SimpleNamespace(trunk=timm.create_model(name), head=nn.Sequential())
    assert dense_path(visual, DenseConfig(path="clearclip")) == "feature_map"
