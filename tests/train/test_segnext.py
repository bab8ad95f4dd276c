"""SegNeXt: published sizes and names, attention and factorisation against slow references."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from zsseg.stages.errors import UserError
from zsseg.stages.train.run_config import StudentConfig, TrainConfig
from zsseg.stages.train.students.encoder_weights import load_encoder_weights
from zsseg.stages.train.students.mscan import SIZES, Block, Msca, Mscan, MscanSize
from zsseg.stages.train.students.segnext import Ham, HeadSize, LightHam, SegNext, factorise
from zsseg.stages.train.students.student import (
    Student,
    build_student,
    check_crop,
    feature_stride,
    parameter_groups,
)

Array = NDArray[np.float64]


def tiny(width: int = 24) -> Student:
    torch.manual_seed(0)
    config = StudentConfig(architecture="segnext", encoder="mscan_t", weights="none")
    return build_student(config, width)


@pytest.mark.parametrize(
    ("encoder", "millions"),
    [("mscan_t", 4.3), ("mscan_s", 13.9), ("mscan_b", 27.6), ("mscan_l", 48.9)],
)
def test_parameters_are_those_of_the_paper(encoder: str, millions: float) -> None:
    """Table 3 (ADE20K): with a projection to 150 channels in the place of the classifier."""
    with torch.device("meta"):
        network = SegNext(encoder)
        student = Student(network, channels=network.channels, width=150, multiple=32)
    count = sum(parameter.numel() for parameter in student.parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.02)


def published_names(size: MscanSize) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a file of the SegNeXt repository, less batch counters."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    def norm(name: str, channels: int, *, batch: bool = True) -> None:
        kinds = ("weight", "bias") + (("running_mean", "running_var") if batch else ())
        shapes.update({f"{name}.{kind}": (channels,) for kind in kinds})

    inputs = 3
    for stage, (c, depth, ratio) in enumerate(
        zip(size.channels, size.depths, (8, 8, 4, 4), strict=True), 1
    ):
        embed = f"patch_embed{stage}"
        if stage == 1:
            conv(f"{embed}.proj.0", c // 2, 3, 3, 3)
            norm(f"{embed}.proj.1", c // 2)
            conv(f"{embed}.proj.3", c, c // 2, 3, 3)
            norm(f"{embed}.proj.4", c)
        else:
            conv(f"{embed}.proj", c, inputs, 3, 3)
            norm(f"{embed}.norm", c)
        for index in range(depth):
            block = f"block{stage}.{index}"
            shapes[f"{block}.layer_scale_1"] = shapes[f"{block}.layer_scale_2"] = (c,)
            norm(f"{block}.norm1", c)
            norm(f"{block}.norm2", c)
            conv(f"{block}.attn.proj_1", c, c, 1, 1)
            conv(f"{block}.attn.proj_2", c, c, 1, 1)
            unit = f"{block}.attn.spatial_gating_unit"
            conv(f"{unit}.conv0", c, 1, 5, 5)
            for branch, length in enumerate((7, 11, 21)):
                conv(f"{unit}.conv{branch}_1", c, 1, 1, length)
                conv(f"{unit}.conv{branch}_2", c, 1, length, 1)
            conv(f"{unit}.conv3", c, c, 1, 1)
            conv(f"{block}.mlp.fc1", c * ratio, c, 1, 1)
            conv(f"{block}.mlp.dwconv.dwconv", c * ratio, 1, 3, 3)
            conv(f"{block}.mlp.fc2", c, c * ratio, 1, 1)
        norm(f"norm{stage}", c, batch=False)
        inputs = c
    conv("head", 1000, size.channels[-1])
    return shapes


def weight_file(path: Path) -> dict[str, Tensor]:
    """A file like mscan_t.pth, and what it holds."""
    rng = torch.Generator().manual_seed(1)
    shapes = published_names(SIZES["mscan_t"])
    state = {name: torch.rand(shape, generator=rng) for name, shape in shapes.items()}
    torch.save({"state_dict": state}, path)
    return state


def test_published_weights_load_by_name(tmp_path: Path) -> None:
    state = weight_file(tmp_path / "mscan_t.pth")
    encoder = Mscan(SIZES["mscan_t"])
    line = load_encoder_weights(encoder, str(tmp_path / "mscan_t.pth"))
    assert line.endswith("by name; left over: head.weight, head.bias")
    loaded = {
        n: t for n, t in encoder.state_dict().items() if not n.endswith("num_batches_tracked")
    }
    assert loaded.keys() == state.keys() - {"head.weight", "head.bias"}
    for name, tensor in loaded.items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("block2.1.attn.spatial_gating_unit.conv2_2.weight", (64, 1, 1, 21), "of another shape"),
        ("patch_embed3.proj.weight", None, "missing by name"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    tmp_path: Path, name: str, shape: tuple[int, ...] | None, message: str
) -> None:
    path = tmp_path / "mscan_t.pth"
    state = weight_file(path)
    if shape:
        state[name] = torch.zeros(shape)
    else:
        del state[name]
    torch.save({"state_dict": state}, path)
    with pytest.raises(UserError, match=rf"mscan_t\.pth.*{message}.*{name}"):
        build_student(
            StudentConfig(architecture="segnext", encoder="mscan_t", weights=str(path)), 8
        )


def test_what_cannot_be_built_is_reported() -> None:
    with pytest.raises(UserError, match=r"'mit_b0'.*mscan_t, mscan_s, mscan_b, mscan_l"):
        build_student(StudentConfig(architecture="segnext", encoder="mit_b0", weights="none"), 8)
    config = StudentConfig(architecture="segnext", encoder="mscan_t", weights="hub")
    with pytest.raises(UserError, match=r"mscan_t\.pth.*student\.weights=none"):
        build_student(config, 8)
    build_student(config, 8, pretrained=False)


def test_any_size_at_stride_8() -> None:
    student = tiny().eval()
    assert feature_stride(student) == 8
    check_crop(student, (64, 40))
    with pytest.raises(UserError, match="multiples of 8"):
        check_crop(student, (64, 36))
    for height, width in ((64, 96), (33, 71)):
        with torch.no_grad():
            feature_BDhw = student(torch.rand(2, 3, height, width))
        assert feature_BDhw.shape == (2, 24, -(-height // 8), -(-width // 8))


def test_the_four_maps_of_the_encoder() -> None:
    maps = Mscan(SIZES["mscan_t"]).eval()(torch.rand(1, 3, 64, 96))
    shapes = [tuple(map_BChw.shape[1:]) for map_BChw in maps]
    assert shapes == [(32, 16, 24), (64, 8, 12), (160, 4, 6), (256, 2, 3)]


# --- attention ---


def slow_depthwise(map_Chw: Array, conv: nn.Conv2d) -> Array:
    """A depthwise convolution of odd size, pixel by pixel."""
    weight = conv.weight.detach().double().numpy()[:, 0]
    assert conv.bias is not None
    bias = conv.bias.detach().double().numpy()
    rows, columns = weight.shape[1:]
    padded = np.pad(map_Chw, ((0, 0), (rows // 2, rows // 2), (columns // 2, columns // 2)))
    out = np.empty_like(map_Chw)
    for c, i, j in np.ndindex(*map_Chw.shape):
        out[c, i, j] = (padded[c, i : i + rows, j : j + columns] * weight[c]).sum() + bias[c]
    return out


def slow_pointwise(map_Chw: Array, conv: nn.Conv2d) -> Array:
    assert conv.bias is not None
    weight = conv.weight.detach().double().numpy()[:, :, 0, 0]
    bias = conv.bias.detach().double().numpy()[:, None, None]
    return np.asarray(np.einsum("oc,chw->ohw", weight, map_Chw) + bias)


def test_attention_against_a_slow_one() -> None:
    torch.manual_seed(0)
    unit = Msca(3)
    map_BChw = torch.randn(1, 3, 6, 9)
    parts = {name: part for name, part in unit.named_children() if isinstance(part, nn.Conv2d)}
    map_Chw = map_BChw[0].double().numpy()
    local = slow_depthwise(map_Chw, parts["conv0"])
    summed = local
    for pair in ("conv0", "conv1", "conv2"):
        strip = slow_depthwise(local, parts[f"{pair}_1"])
        summed = summed + slow_depthwise(strip, parts[f"{pair}_2"])
    expected = slow_pointwise(summed, parts["conv3"]) * map_Chw
    np.testing.assert_allclose(unit(map_BChw)[0].detach(), expected, rtol=1e-4, atol=1e-5)


def test_a_block_is_two_scaled_residuals() -> None:
    torch.manual_seed(0)
    block = Block(8, 4, drop_path=0.5).eval()
    map_BChw = torch.randn(2, 8, 5, 7)
    with torch.no_grad():
        out = block(map_BChw)
        normed = block.norm1(map_BChw)
        inner = block.attn
        gated = inner.spatial_gating_unit(F.gelu(inner.proj_1(normed)))
        first = map_BChw + 0.01 * (normed + inner.proj_2(gated))
        mlp = block.mlp
        hidden = F.gelu(mlp.dwconv(mlp.fc1(block.norm2(first))))
        torch.testing.assert_close(out, first + 0.01 * mlp.fc2(hidden))


# --- factorisation ---


def slow_factorise(map_CN: Array, bases_CR: Array, steps: int) -> Array:
    """The multiplicative updates element by element, in float64."""
    (channels, positions), rank = map_CN.shape, bases_CR.shape[1]
    bases = bases_CR.copy()
    scores = np.exp(map_CN.T @ bases)
    coefficients = scores / scores.sum(1, keepdims=True)

    def update_coefficients() -> None:
        before = coefficients.copy()
        for n in range(positions):
            for r in range(rank):
                numerator = sum(map_CN[c, n] * bases[c, r] for c in range(channels))
                denominator = sum(
                    before[n, q] * bases[c, q] * bases[c, r]
                    for q in range(rank)
                    for c in range(channels)
                )
                coefficients[n, r] = before[n, r] * numerator / (denominator + 1e-6)

    def update_bases() -> None:
        before = bases.copy()
        for c in range(channels):
            for r in range(rank):
                numerator = sum(map_CN[c, n] * coefficients[n, r] for n in range(positions))
                denominator = sum(
                    before[c, q] * coefficients[n, q] * coefficients[n, r]
                    for q in range(rank)
                    for n in range(positions)
                )
                bases[c, r] = before[c, r] * numerator / (denominator + 1e-6)

    for _ in range(steps):
        update_coefficients()
        update_bases()
    update_coefficients()
    return np.asarray(bases @ coefficients.T)


def test_factorisation_against_a_slow_one() -> None:
    rng = np.random.default_rng(0)
    maps = np.maximum(rng.normal(size=(2, 6, 10)), 0)
    bases = rng.random((2, 6, 3))
    for steps in (0, 6):
        fast = factorise(torch.tensor(maps).float(), torch.tensor(bases).float(), steps)
        slow = [
            slow_factorise(map_CN, base, steps) for map_CN, base in zip(maps, bases, strict=True)
        ]
        np.testing.assert_allclose(fast, np.stack(slow), rtol=1e-4, atol=1e-5)


def test_factorisation_finds_a_map_of_low_rank() -> None:
    rng = torch.Generator().manual_seed(0)
    map_BCN = torch.rand(1, 20, 3, generator=rng) @ torch.rand(1, 3, 50, generator=rng)
    bases_BCR = torch.rand(1, 20, 4, generator=rng)
    errors = [
        float((factorise(map_BCN, bases_BCR, steps) - map_BCN).norm()) for steps in (0, 7, 100)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.05 * float(map_BCN.norm())


@pytest.mark.parametrize("scale", [0.0, 1e-4, 1.0, 1e3])
def test_gradients_of_the_factorisation_are_finite(scale: float) -> None:
    torch.manual_seed(0)
    map_BChw = (F.relu(torch.randn(2, 16, 5, 5)) * scale).requires_grad_()
    ham = Ham(16, 4).train()
    out = ham(map_BChw)
    (grad,) = torch.autograd.grad(out.square().sum(), map_BChw)
    assert torch.isfinite(out).all()
    assert torch.isfinite(grad).all()


def test_the_ham_leaves_autocast() -> None:
    ham = Ham(16, 4).eval()
    map_BChw = torch.rand(1, 16, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        half = ham(map_BChw.bfloat16())
        full = ham(map_BChw)
    assert half.dtype == full.dtype == torch.float32
    torch.testing.assert_close(full, ham(map_BChw))
    torch.testing.assert_close(half, full, rtol=0.02, atol=0.02)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(tiny().train()(torch.rand(2, 3, 32, 32))).all()


def test_evaluation_depends_on_the_image_alone() -> None:
    student = tiny().eval()
    image_B3HW = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.manual_seed(1)
        drawn = torch.get_rng_state()
        first = student(image_B3HW)
        assert torch.equal(torch.get_rng_state(), drawn)
        torch.manual_seed(2)
        assert torch.equal(student(image_B3HW), first)
        torch.testing.assert_close(student(image_B3HW[1:]), first[1:], rtol=1e-4, atol=1e-5)
        # A second build draws the same bases: a checkpoint holds none.
        other = tiny().eval()
        assert not [name for name in student.state_dict() if "fixed" in name]
        other.load_state_dict(student.state_dict())
        assert torch.equal(other(image_B3HW), first)


def test_training_draws_from_the_generator_that_is_saved() -> None:
    ham = Ham(16, 4).train()
    map_BChw = torch.rand(2, 16, 5, 5)
    torch.manual_seed(1)
    first, second = ham(map_BChw), ham(map_BChw)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(ham(map_BChw), first)


def test_the_head_resizes_to_its_finest_map() -> None:
    head = LightHam(2 + 3 + 4, HeadSize(32, 4)).eval()
    maps = [torch.rand(1, 2, 8, 12), torch.rand(1, 3, 4, 6), torch.rand(1, 4, 2, 3)]
    assert head(maps).shape == (1, 32, 8, 12)


# --- training ---


def test_parameter_groups() -> None:
    student = tiny()
    groups = parameter_groups(student, None, TrainConfig())
    where = {id(p): group["name"] for group in groups for p in group["params"]}
    named = dict(student.named_parameters())
    assert len(where) == len(named)
    for name, group in (
        ("network.encoder.block1.0.attn.proj_1.weight", "encoder"),
        ("network.encoder.block1.0.layer_scale_1", "encoder without decay"),
        ("network.encoder.norm4.weight", "encoder without decay"),
        ("network.decoder.ham_in.weight", "head"),
        ("network.decoder.squeeze.1.weight", "head without decay"),
        ("projection.weight", "head"),
    ):
        assert where[id(named[name])] == group, name


def test_training_lowers_a_loss() -> None:
    student = tiny(width=4).train()
    optimiser = torch.optim.AdamW(student.parameters(), lr=1e-3)
    image_B3HW = torch.rand(2, 3, 64, 64)
    label_Bhw = torch.zeros(2, 8, 8, dtype=torch.long)
    label_Bhw[:, :, 4:] = 1
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(student(image_B3HW), label_Bhw)
        optimiser.zero_grad()
        loss.backward()
        for name, parameter in student.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2
