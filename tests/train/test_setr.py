"""SETR: published sizes and names, positions of other sizes, heads against their description."""

import logging
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from zsseg.stages.errors import ResourceError, UserError
from zsseg.stages.train.run_config import StudentConfig, TrainConfig
from zsseg.stages.train.students.encoder_weights import load_encoder_weights
from zsseg.stages.train.students.setr import Head, MultiLevelHead, Setr, build_vit, progressive_head
from zsseg.stages.train.students.student import (
    Student,
    build_student,
    check_crop,
    feature_stride,
    parameter_groups,
)

TINY = "vit_tiny_patch16_224"
HEADS: list[Head] = ["setr_naive", "setr_pup", "setr_mla"]


def tiny(head: Head, width: int = 24) -> Student:
    torch.manual_seed(0)
    config = StudentConfig(architecture=head, encoder=TINY, weights="none")
    return build_student(config, width)


def count_of(head: Head, encoder: str, grid: int) -> int:
    """Parameters with 19 classes in the projection, and a table of grid x grid positions."""
    with torch.device("meta"):
        vit, patch = build_vit(encoder, head, pretrained=False)
        network = Setr(head, vit)
        student = Student(network, channels=network.channels, width=19, multiple=patch)
    positions: int = (grid**2 + 1) * vit.embed_dim - vit.pos_embed.numel()
    return positions + sum(parameter.numel() for parameter in student.parameters())


@pytest.mark.parametrize(
    ("head", "base", "large"), [("setr_naive", 87.69, 305.67), ("setr_mla", 92.59, 310.57)]
)
def test_parameters_are_those_of_the_paper(head: Head, base: float, large: float) -> None:
    """Table 2: Cityscapes, crops of 768 pixels, T-Base and T-Large."""
    assert count_of(head, "vit_base_patch16_384", 48) / 1e6 == pytest.approx(base, rel=0.005)
    assert count_of(head, "vit_large_patch16_384", 48) / 1e6 == pytest.approx(large, rel=0.005)


def test_parameters_of_pup_are_those_of_the_paper_with_its_auxiliary_heads() -> None:
    """Table 2's 97.64M and 318.31M fit only with the four auxiliary heads of the published
    configuration counted in: each a 3 x 3 convolution to 256, its norm, and a classifier."""
    for encoder, width, published in (
        ("vit_base_patch16_384", 768, 97.64),
        ("vit_large_patch16_384", 1024, 318.31),
    ):
        auxiliary = 2 * width + (9 * width + 1) * 256 + 2 * 256 + 257 * 19
        count = count_of("setr_pup", encoder, 48)
        assert (count + 4 * auxiliary) / 1e6 == pytest.approx(published, rel=0.01)
        assert count / 1e6 < 0.98 * published


@pytest.mark.parametrize(("head", "stride"), [("setr_naive", 16), ("setr_pup", 4), ("setr_mla", 4)])
def test_any_size(head: Head, stride: int) -> None:
    student = tiny(head).eval()
    assert feature_stride(student) == stride
    check_crop(student, (64, 3 * stride))
    with pytest.raises(UserError, match=f"multiples of {stride}"):
        check_crop(student, (64, stride + 2))
    for height, width in ((64, 96), (50, 71)):
        with torch.no_grad():
            feature_BDhw = student(torch.rand(2, 3, height, width))
        assert feature_BDhw.shape == (2, 24, -(-height // stride), -(-width // stride))


def test_a_large_patch() -> None:
    config = StudentConfig(architecture="setr_pup", encoder="vit_tiny_patch16_224", weights="none")
    assert feature_stride(build_student(config, 8)) == 4
    config = config.model_copy(update={"encoder": "vit_small_patch32_224"})
    assert feature_stride(build_student(config, 8)) == 4
    config = config.model_copy(update={"architecture": "setr_mla"})
    assert feature_stride(build_student(config, 8)) == 8


# --- weights ---


def published(grid: int, *, width: int = 192) -> dict[str, Tensor]:
    """Tensors with the names of the published ViT weights, 12 blocks of a tiny width."""
    rng = torch.Generator().manual_seed(1)
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, grid**2 + 1, width),
        "patch_embed.proj.weight": (width, 3, 16, 16),
        "patch_embed.proj.bias": (width,),
    }
    for index in range(12):
        for part, outputs, inputs in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1", 4 * width, width),
            ("mlp.fc2", width, 4 * width),
        ):
            shapes[f"blocks.{index}.{part}.weight"] = (outputs, inputs)
            shapes[f"blocks.{index}.{part}.bias"] = (outputs,)
        for part in ("norm1", "norm2"):
            shapes[f"blocks.{index}.{part}.weight"] = shapes[f"blocks.{index}.{part}.bias"] = (
                width,
            )
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    shapes |= {"head.weight": (1000, width), "head.bias": (1000,)}
    return {name: torch.rand(shape, generator=rng) for name, shape in shapes.items()}


@pytest.mark.parametrize("wrapper", ["", "state_dict", "model"])
@pytest.mark.parametrize("head", HEADS)
def test_published_weights_load_by_name(tmp_path: Path, wrapper: str, head: Head) -> None:
    state = published(grid=14)
    torch.save({wrapper: state} if wrapper else state, tmp_path / "vit.pth")
    encoder = tiny(head).network.encoder
    assert isinstance(encoder, torch.nn.Module)
    line = load_encoder_weights(encoder, str(tmp_path / "vit.pth"))
    # MLA has norms of its own in the place of the ViT's last one.
    left = ["norm.weight", "norm.bias"] if head == "setr_mla" else []
    assert line.endswith(f"by name; left over: {', '.join([*left, 'head.weight', 'head.bias'])}")
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize(("stored", "message"), [(24, "24 x 24"), (7, "7 x 7")])
def test_positions_of_another_grid_are_resampled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, stored: int, message: str
) -> None:
    state = published(grid=stored)
    torch.save(state, tmp_path / "vit.pth")
    config = StudentConfig(
        architecture="setr_naive", encoder=TINY, weights=str(tmp_path / "vit.pth")
    )
    with caplog.at_level(logging.INFO):
        student = build_student(config, 8)
    assert f"pos_embed resampled from {message} to 14 x 14 patches" in caplog.text
    table = student.state_dict()["network.encoder.pos_embed"]
    expected = timm.layers.resample_abs_pos_embed(state["pos_embed"], [14, 14])
    assert torch.equal(table[:, :1], state["pos_embed"][:, :1])
    torch.testing.assert_close(table, expected)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("blocks.3.attn.qkv.weight", (192, 192), "of another shape"),
        ("blocks.11.mlp.fc2.bias", None, "missing by name"),
        ("pos_embed", (1, 150, 192), "of another shape"),  # no square grid behind one token
    ],
)
def test_weights_that_do_not_fit_are_named(
    tmp_path: Path, name: str, shape: tuple[int, ...] | None, message: str
) -> None:
    state = published(grid=14)
    if shape:
        state[name] = torch.zeros(shape)
    else:
        del state[name]
    torch.save(state, tmp_path / "vit.pth")
    encoder = tiny("setr_naive").network.encoder
    assert isinstance(encoder, torch.nn.Module)
    with pytest.raises(UserError, match=rf"vit\.pth.*{message}.*{name}"):
        load_encoder_weights(encoder, str(tmp_path / "vit.pth"))


def test_the_hub_is_timms(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    create = timm.create_model

    def no_network(name: str, *, pretrained: bool, **options: Any) -> object:
        if not pretrained:
            return create(name, **options)
        asked.append((name, pretrained))
        raise ConnectionError("no route to host")

    monkeypatch.setattr(timm, "create_model", no_network)
    config = StudentConfig(architecture="setr_mla", encoder=TINY, weights="hub")
    with pytest.raises(ResourceError, match=r"(?s)no route to host.*student\.weights=none"):
        build_student(config, 8)
    assert asked == [(TINY, True)]


@pytest.mark.parametrize(
    ("head", "encoder", "message"),
    [
        ("setr_naive", "resnet18", "no plain ViT"),
        ("setr_naive", "mit_b0", "mit_b0"),
        ("setr_mla", "vit_nope", "vit_nope"),
        ("setr_pup", "vit_small_patch14_dinov2", "patches of 14"),
        ("setr_up", TINY, "segnext, setr_mla, setr_naive, setr_pup"),
    ],
)
def test_what_cannot_be_built_is_reported(head: str, encoder: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_student(StudentConfig(architecture=head, encoder=encoder, weights="none"), 8)


@pytest.mark.parametrize("head", HEADS)
def test_a_vit_with_rotary_positions_is_an_encoder(tmp_path: Path, head: Head) -> None:
    """DINOv3, as timm has it (`eva.py`): any size, gradients, and its published weights."""
    name = "vit_tiny_patch16_dinov3_qkvb"
    state = timm.create_model(name, num_classes=0).state_dict()
    torch.save(state, tmp_path / "dinov3.pth")
    config = StudentConfig(
        architecture=head, encoder=name, weights=str(tmp_path / "dinov3.pth"), checkpointing=True
    )
    student = build_student(config, 8)
    encoder = student.network.get_submodule("encoder")
    loaded = encoder.state_dict()
    assert all(torch.equal(each, state[name]) for name, each in loaded.items())
    student.train()(torch.rand(2, 3, 40, 72)).square().sum().backward()
    assert encoder.get_submodule("blocks.0.attn.qkv").weight.grad is not None
    with torch.no_grad():
        student.eval()
        one, other = (student(torch.rand(1, 3, *size)) for size in ((32, 48), (50, 34)))
    assert one.shape[1] == other.shape[1] == 8


# --- heads ---


def test_naive_decodes_the_vits_own_last_tokens() -> None:
    student = tiny("setr_naive").eval()
    network = student.network
    assert isinstance(network, Setr)
    image_B3HW = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        tokens_BNE = network.encoder.forward_features(image_B3HW)
        map_BEhw = tokens_BNE[:, 1:].transpose(1, 2).unflatten(2, (4, 6))
        torch.testing.assert_close(network(image_B3HW), network.decoder(map_BEhw))


def test_mla_takes_four_levels_a_quarter_apart() -> None:
    assert tiny("setr_mla").network.layers == [2, 5, 8, 11]


def test_mla_sums_from_the_deepest_level_up() -> None:
    torch.manual_seed(0)
    head = MultiLevelHead(16).eval()
    levels = [torch.rand(1, 16, 3, 4) for _ in range(4)]
    with torch.no_grad():
        out = head(*levels)
        assert out.shape == (1, 512, 12, 16)
        reduced = [
            reduce(F.layer_norm(level.movedim(1, 3), (16,), eps=1e-6).movedim(3, 1))
            for reduce, level in zip(head.reduce, levels, strict=True)
        ]
        for index in range(4):
            summed = torch.stack(reduced[index:]).sum(0)
            stream = F.interpolate(head.streams[index](summed), scale_factor=4, mode="bilinear")
            torch.testing.assert_close(out[:, 128 * index : 128 * (index + 1)], stream)


def test_pup_doubles_three_times_between_four_convolutions() -> None:
    head = progressive_head(16).eval()
    assert head(torch.rand(1, 16, 2, 3)).shape == (1, 256, 16, 24)
    kernels = [tuple(p.shape) for p in head.parameters() if p.ndim == 4]
    assert kernels == [(256, 16, 3, 3)] + 3 * [(256, 256, 3, 3)]


# --- training ---


@pytest.mark.parametrize("head", HEADS)
def test_parameter_groups(head: Head) -> None:
    student = tiny(head)
    groups = parameter_groups(student, None, TrainConfig())
    where = {id(p): group["name"] for group in groups for p in group["params"]}
    named = dict(student.named_parameters())
    assert len(where) == len(named)
    for name, group in (
        ("network.encoder.blocks.0.attn.qkv.weight", "encoder"),
        ("network.encoder.pos_embed", "encoder without decay"),
        ("network.encoder.cls_token", "encoder without decay"),
        ("projection.weight", "head"),
    ):
        assert where[id(named[name])] == group, name
    assert any(
        n.startswith("network.decoder.") and where[id(p)] == "head" for n, p in named.items()
    )


@pytest.mark.parametrize("head", HEADS)
def test_training_lowers_a_loss(head: Head) -> None:
    student = tiny(head, width=4).train()
    optimiser = torch.optim.AdamW(student.parameters(), lr=3e-4)
    image_B3HW = torch.rand(2, 3, 32, 32)
    label_B = torch.tensor([0, 1])
    losses = []
    for _ in range(6):
        feature_BDhw = student(image_B3HW)
        label_Bhw = label_B[:, None, None].expand(-1, *feature_BDhw.shape[2:])
        loss = F.cross_entropy(feature_BDhw, label_Bhw)
        optimiser.zero_grad()
        loss.backward()
        for name, parameter in student.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2
    student.eval()
    with torch.no_grad():
        assert torch.equal(student(image_B3HW), student(image_B3HW))
