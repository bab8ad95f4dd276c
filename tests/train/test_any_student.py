"""Any architecture with any encoder works at any image size, or is refused in one line.

What is refused is the list of docs/students.md; ZSSEG_WALK=all walks all of it.
"""

import os

import pytest
from helpers.student_walk import ARCHITECTURES, built, documented, refusal

from zsseg.stages.errors import ResourceError, UserError
from zsseg.stages.train.run_config import StudentConfig
from zsseg.stages.train.students.student import build_student

SAMPLE = (
    ("unet", "tu-resnet10t"),
    ("segformer", "mit_b0"),
    ("pan", "tu-mobilenetv3_small_050"),
    ("pspnet", "tu-convnext_atto"),
    ("dpt", "tu-vit_tiny_patch16_224"),
    ("setr_naive", "tu-vit_tiny_patch16_224"),
    ("fpn", "tu-ghostnet_100"),
    # Refused:
    ("unetplusplus", "mit_b0"),
    ("linknet", "mit_b0"),
    ("deeplabv3", "tu-ghostnet_100"),
    ("dpt", "tu-resnet10t"),
    ("unet", "tu-vit_tiny_patch16_224"),
    ("fpn", "tu-coatnet_0_rw_224"),
)


def walked() -> list[tuple[str, str]]:
    if os.environ.get("ZSSEG_WALK") != "all":
        return list(SAMPLE)
    return [(name, encoder) for encoder in documented() for name in ARCHITECTURES]


@pytest.mark.parametrize(("architecture", "encoder"), walked())
def test_a_pair_works_or_is_refused_as_the_list_says(architecture: str, encoder: str) -> None:
    message = refusal(architecture, encoder)
    assert (message is not None) == (architecture in documented()[encoder]), message
    if message:
        assert "\n" not in message
        assert "Use " in message


def test_the_list_has_every_architecture_and_most_families() -> None:
    assert set.union(*documented().values()) == set(ARCHITECTURES)
    assert len(documented()) >= 120


def test_windows_of_maxvit_decide_the_padding() -> None:
    assert built("fpn", "tu-maxvit_pico_rw_256").multiple == 256


def test_a_pair_that_cannot_be_built_is_no_failed_download() -> None:
    """With the hub's weights as well: the error of any layer may be meant."""
    with pytest.raises(UserError, match="cannot be built") as refused:
        build_student(StudentConfig(architecture="linknet", encoder="mit_b0", weights="hub"), 8)
    assert not isinstance(refused.value, ResourceError)
