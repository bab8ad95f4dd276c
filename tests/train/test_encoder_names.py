"""An encoder that there is not: what is offered in its place works, and nothing is fetched."""

import re

import pytest

from zsseg.stages.errors import UserError
from zsseg.stages.train.run_config import StudentConfig
from zsseg.stages.train.students.student import build_student


def refusal(architecture: str, encoder: str) -> str:
    config = StudentConfig(architecture=architecture, encoder=encoder, weights="none")
    with pytest.raises(UserError) as refused:
        build_student(config, 8)
    message = str(refused.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


def offered(message: str) -> list[str]:
    """The names after `close:` and after `such as`."""
    close = re.search(r"close: (.+?)\. Use", message)
    such = re.search(r"such as (.+)$", message)
    assert such
    return [*(close[1].split(", ") if close else []), *such[1].split(" or ")]


@pytest.mark.parametrize(
    ("architecture", "encoder", "close"),
    [
        ("unet", "resnet81", "resnet18"),
        ("linknet", "mit_b9", None),  # which it does not take at all
        ("dpt", "vit_tiny_patch16_24", "tu-vit_tiny_patch16_224"),
        ("setr_naive", "tu-vit_tiny_patch16_24", "vit_tiny_patch16_224"),
    ],
)
def test_what_is_offered_would_be_taken(architecture: str, encoder: str, close: str | None) -> None:
    names = offered(refusal(architecture, encoder))
    assert close is None or close in names
    for encoder in [name for name in names if "base" not in name][:1]:
        build_student(
            StudentConfig(architecture=architecture, encoder=encoder, weights="none"), width=8
        )


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [
        ("unet", "tu-hf-hub:timm/resnet18"),
        ("setr_pup", "hf-hub:timm/vit_tiny_patch16_224"),
        ("setr_pup", "local-dir:/tmp"),
        ("dpt", "tu-local-dir:/tmp"),
        ("unet", ""),
        ("unet", "tu-"),
        ("unet", "../resnet18"),
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(
    architecture: str, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timm.create_model", None)  # not even asked
    monkeypatch.setattr("zsseg.stages.train.students.networks.near_encoders", lambda *_: [])
    monkeypatch.setattr("zsseg.stages.train.students.networks.near_timm", lambda *_: [])
    assert "there is no" in refusal(architecture, encoder)


def test_setr_takes_the_names_that_smp_gives_timms_networks() -> None:
    config = StudentConfig(architecture="setr_naive", encoder="tu-test_vit", weights="none")
    build_student(config, 8)
