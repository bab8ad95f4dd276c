"""Students: geometry, scores, memory, optimiser groups, and what cannot be built."""

import logging
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from zsseg.stages.errors import ResourceError, UserError
from zsseg.stages.train.losses.objectives import sdd
from zsseg.stages.train.run_config import StudentConfig, TrainConfig
from zsseg.stages.train.students.student import (
    Student,
    build_student,
    check_crop,
    class_logits,
    feature_stride,
    parameter_groups,
)


def small(architecture: str, encoder: str, width: int = 24) -> Student:
    config = StudentConfig(architecture=architecture, encoder=encoder, weights="none")
    return build_student(config, width).eval()


@pytest.mark.parametrize(
    ("architecture", "encoder", "stride"),
    [
        ("segformer", "mit_b0", 4),
        ("segformer", "tu-tf_efficientnet_lite0", 4),
        ("unet", "mobilenet_v2", 4),
        ("linknet", "resnet18", 4),
        ("fpn", "tu-mobilenetv3_small_050", 4),
        ("deeplabv3plus", "resnet18", 4),
        ("pspnet", "resnet18", 8),
        ("deeplabv3", "mobilenet_v2", 8),
        ("dpt", "tu-vit_tiny_patch16_224", 4),
    ],
)
def test_features_lie_at_the_decoders_stride(architecture: str, encoder: str, stride: int) -> None:
    student = small(architecture, encoder)
    for height, width in ((64, 96), (50, 71)):
        with torch.no_grad():
            feature_BDhw = student(torch.zeros(2, 3, height, width))
        assert feature_BDhw.shape == (2, 24, -(-height // stride), -(-width // stride))


class Halve(nn.Module):
    """A network that only averages: what its feature must be is known."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, image_B3HW: Tensor) -> Tensor:
        assert image_B3HW.shape[2] % 32 == 0
        assert image_B3HW.shape[3] % 32 == 0
        return F.avg_pool2d(image_B3HW, self.stride)


@pytest.mark.parametrize(("decoder_stride", "stride"), [(1, 4), (4, 4), (8, 8), (32, 32)])
def test_a_crop_is_whole_feature_cells(decoder_stride: int, stride: int) -> None:
    student = Student(Halve(decoder_stride), channels=3, width=6, multiple=32)
    assert feature_stride(student) == stride
    check_crop(student, (64, 3 * stride))
    for crop in ((64, 2 * stride + 2), (2 * stride + 2, 64)):
        with pytest.raises(UserError, match=rf"augmentation\.crop.*multiples of {stride}"):
            check_crop(student, crop)


def test_a_blank_image_leaves_no_trace() -> None:
    student = small("fpn", "resnet18").train()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    drawn = torch.get_rng_state()
    feature_stride(student)
    assert student.training
    assert torch.equal(torch.get_rng_state(), drawn)
    for name, value in student.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("decoder_stride", [1, 2, 4, 8])
def test_a_feature_stands_for_its_own_pixels(decoder_stride: int) -> None:
    student = Student(Halve(decoder_stride), channels=3, width=3, multiple=32)
    with torch.no_grad():
        student.projection.weight.copy_(torch.eye(3)[:, :, None, None])
        assert student.projection.bias is not None
        student.projection.bias.zero_()
    image_B3HW = torch.rand(2, 3, 40, 72)
    feature_BDhw = student(image_B3HW)
    stride = max(decoder_stride, 4)
    for i, j in ((0, 0), (1, 3), (40 // stride - 1, 72 // stride - 1)):
        block = image_B3HW[:, :, i * stride : (i + 1) * stride, j * stride : (j + 1) * stride]
        torch.testing.assert_close(feature_BDhw[:, :, i, j], block.mean((2, 3)))
    assert feature_BDhw.shape == (2, 3, 40 // stride, 72 // stride)


def test_padding_is_the_mean_colour_and_is_cut_off() -> None:
    student = small("unet", "resnet18")
    image_B3HW = torch.rand(1, 3, 45, 64)
    padded = torch.zeros(1, 3, 64, 64)
    padded[:, :, :45] = image_B3HW
    with torch.no_grad():
        torch.testing.assert_close(student(image_B3HW), student(padded)[:, :, :12])


def test_class_logits_are_scaled_cosines() -> None:
    feature_BDhw = torch.randn(2, 8, 3, 5, requires_grad=True)
    text_CD = F.normalize(torch.randn(6, 8), dim=1)
    logits_BChw = class_logits(feature_BDhw, text_CD, 100.0)
    reference_BDhw = feature_BDhw.detach().double().requires_grad_()
    cosine_BChw = F.cosine_similarity(reference_BDhw[:, None], text_CD.double()[..., None, None], 2)
    torch.testing.assert_close(logits_BChw.double(), 100 * cosine_BChw, rtol=1e-5, atol=1e-4)
    weight_BChw = torch.randn(2, 6, 3, 5)
    (grad,) = torch.autograd.grad((logits_BChw * weight_BChw).sum(), feature_BDhw)
    (expected,) = torch.autograd.grad((100 * cosine_BChw * weight_BChw).sum(), reference_BDhw)
    torch.testing.assert_close(grad.double(), expected, rtol=1e-4, atol=1e-4)


def test_class_logits_of_a_zero_feature_are_zero() -> None:
    feature_BDhw = torch.zeros(1, 4, 2, 2, requires_grad=True)
    logits_BChw = class_logits(feature_BDhw, torch.eye(4)[:2], 100.0)
    (grad,) = torch.autograd.grad(logits_BChw.sum(), feature_BDhw)
    assert (logits_BChw == 0).all()
    assert torch.isfinite(grad).all()


def test_class_logits_in_half_precision() -> None:
    feature_BDhw = torch.randn(1, 32, 4, 4)
    text_CD = F.normalize(torch.randn(5, 32), dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        half = class_logits(feature_BDhw.bfloat16(), text_CD, 100.0)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, class_logits(feature_BDhw, text_CD, 100.0), rtol=0.02, atol=1)


def largest_allocation(events: object) -> int:
    """Bytes of the largest single allocation that a profile has seen."""
    assert isinstance(events, list)
    allocated: list[int] = [event.self_cpu_memory_usage for event in events]
    return max(allocated)


def test_no_map_of_d_channels_is_made_at_full_resolution() -> None:
    student = small("unet", "resnet18", width=256)
    image_B3HW = torch.rand(1, 3, 64, 64)
    full = 256 * 64 * 64 * 4
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as lean:
        feature_BDhw = student(image_B3HW)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as wasteful:
        F.interpolate(feature_BDhw, size=(64, 64))
    assert largest_allocation(lean.events()) < full / 2
    assert largest_allocation(wasteful.events()) >= full


def test_scores_and_distillation_make_no_second_feature() -> None:
    feature_BDhw = torch.rand(2, 256, 16, 16)
    text_CD = F.normalize(torch.rand(20, 256), dim=1)
    inside_Bhw = torch.ones(2, 16, 16, dtype=torch.bool)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as lean:
        class_logits(feature_BDhw, text_CD, 100.0)
        for normalise in (True, False):
            sdd(
                feature_BDhw,
                torch.rand(2, 256),
                text_CD,
                tau_f=0.07,
                tau_c=0.01,
                normalise=normalise,
                inside_Bhw=inside_Bhw,
            )
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as wasteful:
        F.normalize(feature_BDhw, dim=1)
    size = feature_BDhw.numel() * 4
    assert largest_allocation(lean.events()) < size / 4
    assert largest_allocation(wasteful.events()) >= size


def test_parameter_groups_hold_every_parameter_once() -> None:
    config = TrainConfig(learning_rate=1e-4, head_multiplier=10, weight_decay=0.02)
    student = small("dpt", "tu-vit_tiny_patch16_224")
    decoder = nn.Linear(3, 4)
    groups = parameter_groups(student, decoder, config)
    where = {id(p): group for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(where)
    assert len(where) == len([*student.parameters(), *decoder.parameters()])
    assert {group["name"] for group in groups} == {
        "encoder",
        "encoder without decay",
        "head",
        "head without decay",
    }
    named = dict(student.named_parameters())
    named |= {f"latent.{name}": each for name, each in decoder.named_parameters()}
    for name, rate, decay in (
        ("network.encoder.model.blocks.0.attn.qkv.weight", 1e-4, 0.02),
        ("network.encoder.model.blocks.0.attn.qkv.bias", 1e-4, 0.0),
        ("network.encoder.model.blocks.0.norm1.weight", 1e-4, 0.0),
        ("network.encoder.model.pos_embed", 1e-4, 0.0),
        ("projection.weight", 1e-3, 0.02),
        ("projection.bias", 1e-3, 0.0),
        ("latent.weight", 1e-3, 0.02),
        ("latent.bias", 1e-3, 0.0),
    ):
        group = where[id(named[name])]
        assert group["lr"] == pytest.approx(rate), name
        assert group["weight_decay"] == decay, name
    optimiser = torch.optim.AdamW(groups)
    assert len(optimiser.param_groups) == 4


@pytest.mark.parametrize(
    ("architecture", "encoder", "message"),
    [
        ("segfourmer", "resnet18", "segformer"),
        ("segformer", "resnet19", "resnet18"),
        ("segformer", "tu-resnet19_nope", "resnet19_nope"),
        ("unetplusplus", "mit_b0", "mit_b0"),
        ("dpt", "resnet18", "tu-"),
    ],
)
def test_what_cannot_be_built_is_reported(architecture: str, encoder: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        small(architecture, encoder)


def test_weights_of_the_hub_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    create = smp.create_model

    def no_network(architecture: str, *, encoder_name: str, encoder_weights: object) -> nn.Module:
        if encoder_weights is None:
            made: nn.Module = create(architecture, encoder_name, encoder_weights=None)
            return made
        asked.append(encoder_weights)
        raise ConnectionError("no route to host")

    monkeypatch.setattr(smp, "create_model", no_network)
    for encoder in ("resnet18", "tu-resnet18"):
        with pytest.raises(ResourceError, match=r"(?s)no route to host.*student\.weights=none"):
            build_student(StudentConfig(architecture="fpn", encoder=encoder), 8)
    assert asked == ["imagenet", True]


def test_where_the_weights_come_from_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        small("fpn", "resnet18")
    assert caplog.messages == ["encoder: random initial weights"]


def test_segformer_decodes_four_stages_with_any_encoder(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    config = StudentConfig(encoder="resnet18", weights="none")
    student = build_student(config, 8, pretrained=False)
    assert "random" not in caplog.text  # a checkpoint's weights follow
    decoder: Any = student.network.decoder
    inputs = [stage.linear.in_features for stage in decoder.mlp_stage]
    assert inputs == [512, 256, 128, 64]  # not the 64 channels of stride 2 as well
    assert student(torch.zeros(2, 3, 64, 96)).shape == (2, 8, 16, 24)
