"""Dense tokens against towers written out by hand, open_clip's and timm's own forward passes."""

import math
from itertools import combinations
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import open_clip
import pytest
import timm
import torch
from numpy.typing import NDArray
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from PIL import Image
from torch import Tensor, nn

from zsseg.stages.errors import UserError
from zsseg.stages.precompute.precompute_config import DenseConfig
from zsseg.stages.precompute.teacher.dense_tokens import (
    dense_path,
    dense_tokens,
    gaussian_bias,
    resize_positions,
    token_grid,
)

Array = NDArray[np.float64]
PATHS = get_args(DenseConfig.model_fields["path"].annotation)
"""All that can be asked for."""


def random_vit(**changes: Any) -> Any:
    """A ViT of 2 x 3 patches in which every weight is random, norms and layer scale included."""
    settings: dict[str, Any] = {
        "image_size": (16, 24),
        "patch_size": 8,
        "width": 12,
        "layers": 2,
        "heads": 3,
        "mlp_ratio": 2.0,
        "output_dim": 5,
        "ls_init_value": 0.5,
    }
    generator = torch.Generator().manual_seed(0)
    visual = VisionTransformer(**(settings | changes)).eval().double().requires_grad_(False)
    for weight in visual.parameters():
        weight.copy_(torch.randn(weight.shape, generator=generator, dtype=weight.dtype) * 0.5)
    return visual


def random_image(size: tuple[int, int], *, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, *size, generator=generator, dtype=torch.float64)


# --- the ViT in NumPy, one image and one head at a time ---


def layer_norm(x_LE: Array, weights: dict[str, Array], name: str) -> Array:
    centred = x_LE - x_LE.mean(-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return np.asarray(centred / deviation * weights[f"{name}.weight"] + weights[f"{name}.bias"])


def softmax(logit_LL: Array) -> Array:
    raised = np.exp(logit_LL - logit_LL.max(-1, keepdims=True))
    return np.asarray(raised / raised.sum(-1, keepdims=True))


def feed_forward(x_LE: Array, weights: dict[str, Array], block: str) -> Array:
    hidden = layer_norm(x_LE, weights, f"{block}.ln_2") @ weights[f"{block}.mlp.c_fc.weight"].T
    hidden += weights[f"{block}.mlp.c_fc.bias"]
    erf = np.vectorize(math.erf)(hidden / math.sqrt(2))
    out = (hidden * 0.5 * (1 + erf)) @ weights[f"{block}.mlp.c_proj.weight"].T
    return np.asarray((out + weights[f"{block}.mlp.c_proj.bias"]) * weights[f"{block}.ls_2.gamma"])


def attention(
    x_LE: Array, weights: dict[str, Array], block: str, kind: str, bias_LL: Array | None = None
) -> Array:
    """Attention of 3 heads after ln_1, output projection and layer scale; `kind` as the paths."""
    normed = layer_norm(x_LE, weights, f"{block}.ln_1")
    stacked = normed @ weights[f"{block}.attn.in_proj_weight"].T
    query, key, value = np.split(stacked + weights[f"{block}.attn.in_proj_bias"], 3, axis=1)
    heads = []
    for start in range(0, 12, 4):
        q, k, v = (part[:, start : start + 4] for part in (query, key, value))
        if kind == "value":
            heads.append(v)
            continue
        left, right = {"raw": (q, k), "clearclip": (q, q), "nacl": (k, k)}[kind]
        logits = left @ right.T / math.sqrt(4)
        heads.append(softmax(logits if bias_LL is None else logits + bias_LL) @ v)
    mixed = np.concatenate(heads, axis=1) @ weights[f"{block}.attn.out_proj.weight"].T
    return np.asarray(
        (mixed + weights[f"{block}.attn.out_proj.bias"]) * weights[f"{block}.ls_1.gamma"]
    )


def pillow_positions(position_LE: Array, old: tuple[int, int], new: tuple[int, int]) -> Array:
    """The grid part resized by Pillow, whose bicubic filter is antialiased."""
    channels = []
    for channel in position_LE[1:].T:
        image = Image.fromarray(channel.reshape(old).astype(np.float32))
        channels.append(np.asarray(image.resize(new[::-1], Image.Resampling.BICUBIC)).ravel())
    return np.concatenate([position_LE[:1], np.stack(channels, axis=1).astype(np.float64)])


def vit_by_hand(visual: Any, image_3HW: Array, path: str, sigma: float) -> Array:
    """(D, h, w) tokens of one image."""
    weights = {name: value.numpy() for name, value in visual.state_dict().items()}
    grid = (image_3HW.shape[1] // 8, image_3HW.shape[2] // 8)
    patches = [
        (weights["conv1.weight"] * image_3HW[:, y * 8 : y * 8 + 8, x * 8 : x * 8 + 8]).sum(
            (1, 2, 3)
        )
        for y in range(grid[0])
        for x in range(grid[1])
    ]
    x_LE = np.stack([weights["class_embedding"], *patches])
    x_LE = x_LE + pillow_positions(weights["positional_embedding"], (2, 3), grid)
    x_LE = layer_norm(x_LE, weights, "ln_pre")
    first, last = "transformer.resblocks.0", "transformer.resblocks.1"
    x_LE = x_LE + attention(x_LE, weights, first, "raw")
    x_LE = x_LE + feed_forward(x_LE, weights, first)
    if path in {"raw", "value"}:
        x_LE = x_LE + attention(x_LE, weights, last, path)
        x_LE = x_LE + feed_forward(x_LE, weights, last)
    elif path == "clearclip":
        x_LE = attention(x_LE, weights, last, path)
    else:
        bias_LL = np.zeros((len(x_LE), len(x_LE)))
        for i in range(len(x_LE) - 1):
            for j in range(len(x_LE) - 1):
                dy, dx = i // grid[1] - j // grid[1], i % grid[1] - j % grid[1]
                bias_LL[i + 1, j + 1] = math.exp(-(dy**2 + dx**2) / (2 * sigma**2))
        x_LE = attention(x_LE, weights, last, path, bias_LL)
    token_LD = layer_norm(x_LE, weights, "ln_post")[1:] @ weights["proj"]
    return np.asarray(token_LD.T.reshape(5, *grid))


@pytest.mark.parametrize("size", [(16, 24), (40, 24)])
@pytest.mark.parametrize("path", PATHS)
def test_vit_paths_equal_a_transformer_written_out(path: Any, size: tuple[int, int]) -> None:
    visual, image = random_vit(), random_image(size)
    config = DenseConfig(size=size, path=path, nacl_sigma=1.5)
    token_BDhw = dense_tokens(visual, image, config).numpy()
    expected = [vit_by_hand(visual, one.numpy(), path, 1.5) for one in image]
    np.testing.assert_allclose(token_BDhw, np.stack(expected), atol=2e-5)
    assert dense_path(visual, config) == path


def test_paths_differ() -> None:
    visual, image = random_vit(), random_image((16, 24))
    results = [dense_tokens(visual, image, DenseConfig(path=path)) for path in PATHS]
    gaps = [(one - other).abs().max().item() for one, other in combinations(results, 2)]
    assert min(gaps) > 1e-2


def test_raw_path_equals_open_clip_at_its_native_size() -> None:
    visual, image = random_vit(output_tokens=True), random_image((16, 24))
    _, token_BLE = visual(image)
    expected = (token_BLE @ visual.proj).transpose(1, 2).reshape(2, 5, 2, 3)
    token_BDhw = dense_tokens(visual, image, DenseConfig(size=(16, 24), path="raw"))
    torch.testing.assert_close(token_BDhw, expected)


def test_raw_tokens_of_a_mean_pooled_vit_average_to_its_image_token() -> None:
    changes = {"pool_type": "avg", "final_ln_after_pool": False, "no_ln_pre": True}
    visual, image = random_vit(**changes), random_image((16, 24))
    token_BDhw = dense_tokens(visual, image, DenseConfig(size=(16, 24), path="raw"))
    torch.testing.assert_close(token_BDhw.mean((2, 3)), visual(image))


def test_another_size_equals_open_clip_with_its_image_size_forced(tiny_clip: str) -> None:
    native = open_clip.create_model(tiny_clip).eval().requires_grad_(False)
    forced = open_clip.create_model(tiny_clip, force_image_size=(48, 64))
    forced = forced.eval().requires_grad_(False)
    forced.visual.output_tokens = True
    image = random_image((48, 64)).float()
    _, token_BLE = forced.visual(image)
    expected = (token_BLE @ forced.visual.proj).transpose(1, 2).reshape(2, 24, 6, 8)
    token_BDhw = dense_tokens(native.visual, image, DenseConfig(size=(48, 64), path="raw"))
    torch.testing.assert_close(token_BDhw, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("new", [(4, 5), (7, 3), (2, 2), (3, 4)])
def test_resized_positions_equal_pillow(new: tuple[int, int]) -> None:
    position_LE = torch.randn(1 + 12, 6, generator=torch.Generator().manual_seed(2))
    resized_LE = resize_positions(position_LE, (3, 4), new)
    expected = pillow_positions(position_LE.double().numpy(), (3, 4), new)
    np.testing.assert_allclose(resized_LE.numpy(), expected, atol=1e-5)


def test_gaussian_bias_of_a_row_of_three() -> None:
    near, far = math.exp(-1 / 8), math.exp(-4 / 8)
    expected = [[0, 0, 0, 0], [0, 1, near, far], [0, near, 1, near], [0, far, near, 1]]
    torch.testing.assert_close(
        gaussian_bias((1, 3), 2.0, device=torch.device("cpu")), torch.tensor(expected)
    )


# --- towers of timm ---


def timm_tower(name: str, size: int, **settings: Any) -> Any:
    """A small random timm trunk with a linear projection to 5 channels, as open_clip holds it."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        trunk = timm.create_model(name, **settings).eval().requires_grad_(False)
        head = nn.Sequential(nn.Linear(trunk.num_features, 5, bias=False)).requires_grad_(False)
    return SimpleNamespace(trunk=trunk, head=head, image_size=(size, size))


SMALL_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}


def project(visual: Any, feature_BLE: Tensor, grid: tuple[int, int]) -> Tensor:
    projected = torch.einsum("ble,de->bdl", feature_BLE, visual.head[0].weight)
    return projected.reshape(len(feature_BLE), 5, *grid)


def test_convolutional_tower_projects_its_last_feature_map() -> None:
    visual = timm_tower("resnet10t", 32, num_classes=0)
    image = random_image((64, 96)).float()
    token_BDhw = dense_tokens(visual, image, DenseConfig(size=(64, 96)))
    feature_BLE = visual.trunk.forward_features(image).flatten(2).transpose(1, 2)
    torch.testing.assert_close(token_BDhw, project(visual, feature_BLE, (2, 3)))
    image_token = visual.head(visual.trunk(image))
    torch.testing.assert_close(token_BDhw.mean((2, 3)), image_token, atol=1e-5, rtol=1e-4)
    assert dense_path(visual, DenseConfig(path="raw")) == "feature_map"


def test_efficientnet_of_the_stand_in_teacher_averages_to_its_image_token() -> None:
    visual = timm_tower("tf_efficientnet_lite0", 32, num_classes=0)
    image = random_image((64, 64), batch=1).float()
    token_BDhw = dense_tokens(visual, image, DenseConfig(size=(64, 64)))
    expected = visual.head(visual.trunk(image))
    assert expected.abs().max() > 0
    torch.testing.assert_close(token_BDhw.mean((2, 3)), expected, rtol=1e-3, atol=1e-8)


def test_convnext_normalises_each_location_as_its_head_does_the_mean() -> None:
    small = {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 16), "num_classes": 0}
    visual = timm_tower("convnext_atto", 32, **small)
    nn.init.normal_(visual.trunk.head.norm.weight)
    image = random_image((64, 96)).float()
    feature_BLE = visual.trunk.forward_features(image).flatten(2).transpose(1, 2)
    centred = feature_BLE - feature_BLE.mean(-1, keepdim=True)
    normed = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
    expected = project(visual, normed * visual.trunk.head.norm.weight, (2, 3))
    torch.testing.assert_close(dense_tokens(visual, image, DenseConfig()), expected)


def test_swin_keeps_its_channels_last() -> None:
    small = {"img_size": 64, "window_size": 4, "embed_dim": 8, "depths": (1, 1), "num_classes": 0}
    visual = timm_tower("swin_tiny_patch4_window7_224", 64, num_heads=(2, 2), **small)
    image = random_image((64, 64)).float()
    feature_BhwE = visual.trunk.forward_features(image)
    expected = project(visual, feature_BhwE.flatten(1, 2), (8, 8))
    torch.testing.assert_close(dense_tokens(visual, image, DenseConfig(size=(64, 64))), expected)


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_timm_vit_projects_each_token(pool: str) -> None:
    settings = SMALL_VIT | {"global_pool": pool, "num_classes": 0, "reg_tokens": 2}
    visual = timm_tower("vit_tiny_patch16_224", 32, **settings)
    image = random_image((32, 32)).float()
    feature_BLE = visual.trunk.fc_norm(visual.trunk.forward_features(image)[:, 3:])
    token_BDhw = dense_tokens(visual, image, DenseConfig(path="raw", size=(32, 32)))
    torch.testing.assert_close(token_BDhw, project(visual, feature_BLE, (4, 4)))


def test_siglip_pools_each_location_by_its_value_path() -> None:
    settings = SMALL_VIT | {"global_pool": "map", "class_token": False, "num_classes": 0}
    visual = timm_tower("vit_tiny_patch16_224", 32, **settings)
    image = random_image((32, 32)).float()
    feature_BLE = visual.trunk.forward_features(image)
    pool = visual.trunk.attn_pool
    value_BLE = feature_BLE @ pool.kv.weight[16:].T + pool.kv.bias[16:]
    pooled_BLE = value_BLE @ pool.proj.weight.T + pool.proj.bias
    pooled_BLE = pooled_BLE + pool.mlp(pool.norm(pooled_BLE))
    expected = project(visual, pooled_BLE, (4, 4))
    torch.testing.assert_close(
        dense_tokens(visual, image, DenseConfig(path="raw", size=(32, 32))), expected
    )


def test_timm_vit_of_one_size_takes_another_without_changing() -> None:
    settings = SMALL_VIT | {"global_pool": "token", "num_classes": 0}
    visual = timm_tower("vit_tiny_patch16_224", 32, **settings)
    flexible = timm_tower("vit_tiny_patch16_224", 32, dynamic_img_size=True, **settings)
    flexible.trunk.load_state_dict(visual.trunk.state_dict())
    image, native = random_image((48, 64)).float(), random_image((32, 32)).float()
    before = visual.trunk(native)
    with torch.inference_mode():
        token_BDhw = dense_tokens(visual, image, DenseConfig(path="raw", size=(48, 64)))
    feature_BLE = flexible.trunk.forward_features(image)[:, 1:]
    torch.testing.assert_close(token_BDhw, project(visual, feature_BLE, (6, 8)))
    torch.testing.assert_close(visual.trunk(native), before)


# --- CLIP's ResNet, and what is refused ---


def test_a_tower_is_copied_once_for_an_image_size(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SMALL_VIT | {"global_pool": "token", "num_classes": 0}
    visual = timm_tower("vit_tiny_patch16_224", 32, **settings)
    made: list[object] = []
    resized = type(visual.trunk).set_input_size

    def counted(self: Any, *size: Any) -> None:
        made.append(size)
        resized(self, *size)

    monkeypatch.setattr(type(visual.trunk), "set_input_size", counted)
    image_23HW = random_image((96, 96)).float()
    first, again = (dense_tokens(visual, image_23HW, DenseConfig(size=(96, 96))) for _ in range(2))
    dense_tokens(visual, random_image((32, 64)).float(), DenseConfig(size=(32, 64)))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert len(made) == 2


def test_clip_resnet_takes_the_value_path_of_its_pooling() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        visual = ModifiedResNet([1, 1, 1, 1], output_dim=5, heads=4, image_size=64, width=8)
    visual.eval().requires_grad_(False)
    image = random_image((64, 96)).float()
    feature_BEhw = visual.stem(image)
    for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        feature_BEhw = layer(feature_BEhw)
    pool = visual.attnpool
    value = torch.einsum("behw,fe->bfhw", feature_BEhw, pool.v_proj.weight)
    value += pool.v_proj.bias[:, None, None]
    expected = torch.einsum("bfhw,df->bdhw", value, pool.c_proj.weight)
    expected += pool.c_proj.bias[:, None, None]
    torch.testing.assert_close(
        dense_tokens(visual, image, DenseConfig(size=(64, 96))), expected, atol=1e-5, rtol=1e-4
    )
    assert dense_path(visual, DenseConfig()) == "value"


@pytest.mark.parametrize(("size", "fitting"), [((16, 20), "[16,16]"), ((4, 8), "[8,8]")])
def test_size_off_the_patch_grid_is_refused_with_one_that_fits(
    size: tuple[int, int], fitting: str
) -> None:
    with pytest.raises(UserError) as caught:
        token_grid(random_vit(), size)
    assert fitting in str(caught.value)
    assert "dense.size" in str(caught.value)


def test_towers_without_dense_tokens_are_refused() -> None:
    coca = random_vit(attentional_pool=True, attn_pooler_heads=1)
    with pytest.raises(UserError, match="learned queries"):
        dense_path(coca, DenseConfig())
    own_attention = random_vit(qk_norm=True)
    with pytest.raises(UserError, match=r"dense\.path=raw"):
        dense_path(own_attention, DenseConfig())
    assert dense_path(own_attention, DenseConfig(path="raw")) == "raw"
