"""Any architecture with any encoder works at any image size, or is refused in one line.

A walk over every architecture of smp with a sample of encoders; docs/students.md has the refusals.
"""

import re
import warnings
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch

from zsseg.stages.errors import ResourceError, UserError
from zsseg.stages.train.run_config import StudentConfig
from zsseg.stages.train.students.student import Student, build_student

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "students.md"
ROW = re.compile(r"^\| (?P<names>`.+`) \| (?P<encoders>`.+`) \| (?P<reason>[^|]+) \|$", re.M)


def refused() -> set[tuple[str, str, str]]:
    """Architecture, encoder and reason of docs/students.md; `any` stands for unet there."""
    _, section = DOCUMENT.read_text().split("## What is refused")
    rows = ROW.finditer(section.split("\n## ")[0])
    return {
        (architecture, encoder, row["reason"])
        for row in rows
        for architecture in re.findall(r"`([^`]+)`", row["names"].replace("any of smp", "unet"))
        for encoder in re.findall(r"`([^`]+)`", row["encoders"])
    }


def built(architecture: str, encoder: str) -> Student:
    config = StudentConfig(architecture=architecture, encoder=encoder, weights="none")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build_student(config, 8)


def assert_any_size_works(student: Student) -> None:
    """Two sizes that no encoder divides, one smaller than its stride; and gradients."""
    for height, width in ((20, 45), (130, 70)):
        feature_BDhw = student.eval()(torch.zeros(1, 3, height, width))
        stride = student.multiple // student(torch.zeros(1, 3, *[student.multiple] * 2)).shape[2]
        assert feature_BDhw.shape == (1, 8, -(-height // stride), -(-width // stride))
    feature_BDhw.sum().backward()
    assert student.projection.weight.grad is not None


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [
        *((name, "resnet18") for name in smp.MODEL_ARCHITECTURES_MAPPING if name != "dpt"),
        ("dpt", "tu-vit_tiny_patch16_224"),
        ("fpn", "tu-swin_tiny_patch4_window7_224"),
        ("pan", "tu-mobilenetv3_small_050"),
        ("segformer", "vgg11_bn"),
        ("upernet", "mit_b0"),
    ],
)
def test_what_works_takes_images_of_any_size(architecture: str, encoder: str) -> None:
    assert_any_size_works(built(architecture, encoder))


def test_there_are_refusals_to_look_at() -> None:
    assert len(refused()) >= 10


@pytest.mark.parametrize(("architecture", "encoder", "reason"), sorted(refused()))
def test_what_does_not_work_is_refused_in_one_line(
    architecture: str, encoder: str, reason: str
) -> None:
    with pytest.raises(UserError) as error:
        built(architecture, encoder)
    message = str(error.value)
    assert "\n" not in message
    assert architecture in message
    assert encoder in message
    assert reason.strip("`") in message


def test_windows_of_maxvit_decide_the_padding() -> None:
    assert built("fpn", "tu-maxvit_pico_rw_256").multiple == 256


def test_a_pair_that_cannot_be_built_is_no_failed_download() -> None:
    """With the hub's weights as well: the error of any layer may be meant."""
    with pytest.raises(UserError, match="cannot be built") as refusal:
        build_student(StudentConfig(architecture="linknet", encoder="mit_b0", weights="hub"), 8)
    assert not isinstance(refusal.value, ResourceError)
