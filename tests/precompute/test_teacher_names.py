"""What is offered for a wrong teacher, experiment, setting or data set is taken when typed."""

import re
import typing
from pathlib import Path

import pytest
from pydantic import BaseModel

from zsseg.pipeline.settings import apply_settings, build, experiment_text
from zsseg.stages.data.spec import load_spec
from zsseg.stages.errors import UserError
from zsseg.stages.precompute.precompute_config import PrecomputeConfig
from zsseg.stages.precompute.teacher.teacher_files import resolve_teacher
from zsseg.stages.train.run_config import RunConfig


@pytest.fixture(autouse=True)
def every_download_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "weights.pt"
    file.touch()
    for name in ("download_pretrained", "download_pretrained_from_hf"):
        monkeypatch.setattr(f"open_clip.pretrained.{name}", lambda *_, **__: str(file))


def refusal(spec: str) -> str:
    with pytest.raises(UserError) as refused:
        resolve_teacher(spec)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def offered(message: str) -> list[str]:
    """All of `close: a, b.`, `There are: a, b` and `Ask for a`."""
    found = re.search(r"(?:close: |There are: |Ask for )(.+?)(?:\. Forms|$)", message)
    assert found, message
    return found[1].split(", ")


@pytest.mark.parametrize(
    "spec",
    [
        "ViT-B-61/openai",
        "ViT-B/16",
        "ViT-B/16/openai",
        "vit-b-32",
        "RN50/openai",
        "RN50",
        "RN51/openai",
        "ViT-L-14-335/openai",
        "ViT-SO400M-14-SigLip/webli",
        "convnext_bse/laion400m_s13b_b51k",
        "ViT-B-16-quickgelu/opanai",
        "ViT-B-16/openai",
        "ViT-H-14-quickgelu/laion2b_s32b_b79k",
        "coca_roberta-ViT-B-23/x",
        "ViT-M-61",
    ],
)
def test_an_offered_teacher_is_taken(spec: str) -> None:
    for offer in offered(refusal(spec)):
        assert resolve_teacher(offer).spec == offer


def test_the_wanted_weights_are_offered_of_a_model_that_has_them() -> None:
    assert "ViT-B-16-quickgelu/openai" in refusal("ViT-B-61-quickgelu/openai")
    assert "ViT-B-16/laion2b_s34b_b88k" in refusal("ViT-B-61/laion2b_s34b_b88k")


def test_a_file_is_offered_with_a_model_that_there_is(tmp_path: Path) -> None:
    for offer in offered(refusal(f"ViT-B-61@{tmp_path / 'weights.pt'}")):
        assert resolve_teacher(offer).model in offer


def test_a_model_without_weights_of_its_activation_names_the_one_that_has_them() -> None:
    assert offered(refusal("RN50x4")) == ["RN50x4-quickgelu/openai"]


@pytest.mark.parametrize("name", ["camvid_bst", "sddrst", "bseline", "c2z"])
def test_an_offered_experiment_is_taken(name: str) -> None:
    with pytest.raises(UserError) as refused:
        experiment_text(name)
    message = str(refused.value)
    close = re.search(r"did you mean '(.+?)'", message)
    everything = re.search(r"There are: (.+?);", message)
    assert everything
    for offer in [*(close.groups() if close else []), *everything[1].split(", ")]:
        assert experiment_text(offer)


def test_an_offered_data_set_is_taken() -> None:
    with pytest.raises(UserError) as refused:
        load_spec("coco_stuf")
    everything = re.search(r"Built in: (.+?);", str(refused.value))
    assert everything
    for offer in everything[1].split(", "):
        assert load_spec(offer).name


def mistyped(model: type[BaseModel], within: str = "") -> list[str]:
    """Every setting of a model, and of its sections, with a letter too many."""
    names = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names += mistyped(kind, f"{within}{name}.")
        elif not typing.get_args(kind) or within:
            names.append(f"{within}{name}x")
    return names


@pytest.mark.parametrize("model", [RunConfig, PrecomputeConfig])
def test_an_offered_setting_is_one(model: type[BaseModel]) -> None:
    names = mistyped(model)
    assert len(names) > 20
    for name in names:
        with pytest.raises(UserError) as refused:
            build(model, apply_settings({}, [f"{name}=1"]), where="here")
        close = re.search(
            rf"{re.escape(name)}: no such setting; did you mean '(.+?)'", str(refused.value)
        )
        assert close, str(refused.value)
        assert close[1] == name.rpartition(".")[2][:-1]
