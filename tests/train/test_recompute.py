"""Activation checkpointing: the same step, with less kept for its backward pass."""

import copy

import pytest
import torch
from torch import Tensor, nn

from zsseg.stages.errors import UserError
from zsseg.stages.train.run_config import StudentConfig
from zsseg.stages.train.students.recompute import recompute_blocks
from zsseg.stages.train.students.student import Student, build_student

STUDENTS = [
    ("segformer", "mit_b0", 8),
    ("segnext", "mscan_t", 13),
    ("setr_naive", "vit_tiny_patch16_224", 12),
    ("setr_pup", "vit_tiny_patch16_224", 12),
    ("setr_mla", "vit_tiny_patch16_224", 12),
    ("segformer", "resnet18", 8),
    ("unet", "efficientnet-b0", 16),
    ("fpn", "tu-convnext_atto", 12),
]


def student_of(architecture: str, encoder: str, *, checkpointing: bool) -> Student:
    torch.manual_seed(0)
    return build_student(
        StudentConfig(
            architecture=architecture, encoder=encoder, weights="none", checkpointing=checkpointing
        ),
        8,
    )


def step(student: Student, *, seed: int = 1) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """A step's loss, all that it left in the student, and the next random number."""
    torch.manual_seed(seed)
    student.zero_grad()
    loss = student(torch.randn(2, 3, 64, 64)).square().mean()
    loss.backward()
    found = {f"gradient of {name}": p.grad for name, p in student.named_parameters()}
    found |= {name: value.clone() for name, value in student.state_dict().items()}
    return loss.detach(), {n: v for n, v in found.items() if v is not None}, torch.rand(())


@pytest.mark.parametrize(("architecture", "encoder", "blocks"), STUDENTS)
def test_a_step_is_the_same_to_the_bit(architecture: str, encoder: str, blocks: int) -> None:
    plain = student_of(architecture, encoder, checkpointing=False)
    lean = student_of(architecture, encoder, checkpointing=True)
    assert lean.state_dict().keys() == plain.state_dict().keys()
    # Dropout and stochastic depth draw, and batch normalisation counts, in both steps alike.
    for seed in (1, 2):
        loss, found, drawn = step(plain, seed=seed)
        lean_loss, lean_found, lean_drawn = step(lean, seed=seed)
        assert torch.equal(lean_loss, loss)
        assert torch.equal(lean_drawn, drawn)
        assert lean_found.keys() == found.keys()
        assert any(name.startswith("gradient of network.encoder") for name in found)
        for name, value in found.items():
            assert torch.equal(lean_found[name], value), name
    assert recompute_blocks(plain.network.get_submodule("encoder")) == blocks


def kept_bytes(encoder: nn.Module, image_B3HW: Tensor) -> int:
    """What autograd keeps for the backward pass, but for what is computed again."""
    kept: dict[int, int] = {}

    def pack(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        encoder(image_B3HW)
    return sum(kept.values())


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [("segformer", "mit_b0"), ("segnext", "mscan_t"), ("setr_naive", "vit_tiny_patch16_224")],
)
def test_less_is_kept(architecture: str, encoder: str) -> None:
    image_B3HW = torch.randn(1, 3, 64, 64)
    kept = {}
    for checkpointing in (False, True):
        student = student_of(architecture, encoder, checkpointing=checkpointing)
        module = student.network.get_submodule("encoder")
        weights = sum(parameter.nbytes for parameter in module.parameters())
        kept[checkpointing] = kept_bytes(module, image_B3HW) - weights
    assert kept[True] < kept[False] / 4


def test_a_copy_is_a_student_of_its_own() -> None:
    student = student_of("segformer", "resnet18", checkpointing=True)
    average = copy.deepcopy(student)
    with torch.no_grad():
        for parameter in average.parameters():
            parameter.zero_()
    loss, found, _ = step(student)
    expected_loss, expected, _ = step(student_of("segformer", "resnet18", checkpointing=False))
    assert torch.equal(loss, expected_loss)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    average(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(
        torch.equal(p.grad, found[f"gradient of {name}"])
        for name, p in student.named_parameters()
        if p.grad is not None
    )


def test_without_gradients_nothing_is_computed_twice() -> None:
    student = student_of("segformer", "resnet18", checkpointing=True).eval()
    before = copy.deepcopy(student.state_dict())
    image_B3HW = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        feature_BDhw = student(image_B3HW)
    plain = student_of("segformer", "resnet18", checkpointing=False).eval()
    with torch.no_grad():
        assert torch.equal(feature_BDhw, plain(image_B3HW))
    # Gradients in evaluation: statistics are used and stay.
    student(image_B3HW).sum().backward()
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())


def test_an_encoder_without_blocks_is_refused() -> None:
    with pytest.raises(UserError, match=r"student\.checkpointing: encoder 'vgg11' has no blocks"):
        student_of("unet", "vgg11", checkpointing=True)
    lone = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()))
    assert recompute_blocks(lone) == 0


def test_a_compiled_student_takes_the_same_step() -> None:
    torch.compiler.reset()  # what other tests compiled decides how shapes are taken
    student = student_of("segformer", "resnet18", checkpointing=True)
    loss, found, _ = step(student)
    again = student_of("segformer", "resnet18", checkpointing=True)
    again.forward = torch.compile(again.forward, backend="aot_eager")  # type: ignore[method-assign]
    compiled_loss, compiled, _ = step(again)
    torch.testing.assert_close(compiled_loss, loss)
    for name, value in found.items():
        torch.testing.assert_close(compiled[name], value, msg=name)
