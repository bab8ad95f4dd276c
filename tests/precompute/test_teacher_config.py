"""The configuration of a teacher is data: what it may say, and that nothing beside it runs."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from zsseg.stages.errors import ResourceError, UserError
from zsseg.stages.precompute.plan.recipes import with_known_tokenizer
from zsseg.stages.precompute.teacher.clip_teacher import load_teacher
from zsseg.stages.precompute.teacher.teacher_config import builtin_configs, read_config
from zsseg.stages.precompute.teacher.teacher_files import resolve_teacher

TOKENIZER = '{"model": {"type": "WordLevel"}}'


@pytest.fixture
def clip(tiny_clip: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_clip.removeprefix("local-dir:"), tmp_path / "clip"))


def edit(clip: Path, section: str, **values: Any) -> str:
    """Change a section of the configuration ("" is the whole file); returns the teacher's spec."""
    file = clip / "open_clip_config.json"
    config = json.loads(file.read_text())
    place = config
    for part in section.split(".") if section else []:
        place = place[part]
    place.update(values)
    file.write_text(json.dumps(config))
    return f"local-dir:{clip}"


@pytest.mark.parametrize("name", ["ViT-B-32", "RN50", "ViT-B-16-SigLIP", "coca_ViT-B-32"])
def test_open_clips_own_configurations_are_taken(name: str, tmp_path: Path) -> None:
    file = tmp_path / "open_clip_config.json"
    architecture = json.loads(builtin_configs()[name].read_text())
    file.write_text(json.dumps({"model_cfg": architecture, "preprocess_cfg": {"mean": 0.5}}))
    assert read_config(file, "it")["model_cfg"] == architecture


def test_every_configuration_of_open_clip_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "open_clip_config.json"
    for config in builtin_configs().values():
        file.write_text(f'{{"model_cfg": {config.read_text()}}}')
        read_config(file, config.stem)


@pytest.mark.parametrize(
    ("section", "values", "named"),
    [
        ("", {"hook": "evil"}, "hook"),
        ("model_cfg", {"embed_dim": "24"}, "embed_dim"),
        ("model_cfg", {"vision_cfg": []}, "vision_cfg"),
        ("model_cfg.vision_cfg", {"image_size": 0}, "image_size"),
        ("model_cfg.vision_cfg", {"timm_model_name": "hf-hub:someone/model"}, "timm_model_name"),
        ("model_cfg.text_cfg", {"tokenizer_kwargs": {"trust_remote_code": True}}, "trust_remote"),
        ("model_cfg.text_cfg", {"tokenizer_kwargs": {"subfolder": "../x"}}, "subfolder"),
        ("preprocess_cfg", {"mean": "abc"}, "mean"),
        ("preprocess_cfg", {"std": float("nan")}, "std"),
        ("preprocess_cfg", {"std": [0.2, 0.0, 0.2]}, "std"),
        ("preprocess_cfg", {"mean": [0.5, 0.5]}, "mean"),
    ],
)
def test_a_setting_that_is_wrong_or_unknown_is_named(
    clip: Path, section: str, values: dict[str, Any], named: str
) -> None:
    with pytest.raises(UserError, match=named) as caught:
        resolve_teacher(edit(clip, section, **values))
    assert "open_clip_config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("model_cfg.vision_cfg", {"patch_size": 512}),
        ("model_cfg.vision_cfg", {"head_width": 4096}),
        ("model_cfg.text_cfg", {"heads": 7}),
        ("model_cfg.text_cfg", {"width": 40}),
        ("model_cfg.vision_cfg", {"timm_model_name": "no_such_tower"}),
        ("model_cfg.text_cfg", {"act_kwargs": {"surprise": 1}}),
    ],
)
def test_settings_that_do_not_fit_together_are_one_message(
    clip: Path, section: str, values: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=r"cannot build|does not fit") as caught:
        load_teacher(resolve_teacher(edit(clip, section, **values)), device="cpu")
    assert "\n" not in str(caught.value)


def test_deep_json_is_one_message(clip: Path) -> None:
    (clip / "open_clip_config.json").write_text("[" * 200_000)
    with pytest.raises(UserError, match="not valid JSON"):
        resolve_teacher(f"local-dir:{clip}")


def test_one_number_is_the_mean_of_all_colours(clip: Path) -> None:
    spec = edit(clip, "preprocess_cfg", mean=0.5, std=0.25)
    teacher = load_teacher(resolve_teacher(spec), device="cpu")
    assert (teacher.mean, teacher.std) == ((0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
def test_files_that_name_code_are_refused(clip: Path, file: str) -> None:
    spec = edit(clip, "model_cfg.text_cfg", hf_tokenizer_name="any")
    (clip / "tokenizer.json").write_text(TOKENIZER)
    (clip / file).write_text(json.dumps({"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}))
    with pytest.raises(UserError, match="never runs"):
        resolve_teacher(spec)


@pytest.mark.parametrize("setting", ["hf_tokenizer_name", "hf_model_name"])
def test_a_folder_is_complete_or_refused(clip: Path, setting: str) -> None:
    with pytest.raises(ResourceError, match="never the network"):
        resolve_teacher(edit(clip, "model_cfg.text_cfg", **{setting: "someone/some-model"}))


def test_a_tokenizer_is_read_from_its_folder_without_code(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    class AutoTokenizer:
        @staticmethod
        def from_pretrained(source: object, **settings: Any) -> object:
            asked.update(settings, source=source)
            return object()

    transformers, code = ModuleType("transformers"), ModuleType("transformers.dynamic_module_utils")
    transformers.AutoTokenizer = AutoTokenizer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", transformers)
    monkeypatch.setitem(sys.modules, "transformers.dynamic_module_utils", code)
    spec = edit(clip, "model_cfg.text_cfg", hf_tokenizer_name="someone/else")
    (clip / "tokenizer.json").write_text(TOKENIZER)
    load_teacher(resolve_teacher(spec), device="cpu")
    assert asked["source"] != clip  # a copy of what it may read
    assert asked["trust_remote_code"] is False
    assert asked["local_files_only"] is True
    assert code.TIME_OUT_REMOTE_CODE == 0  # it would ask at a terminal


def test_another_tokenizer_changes_what_text_is_made_of_only(clip: Path) -> None:
    plain = resolve_teacher(f"local-dir:{clip}")
    assert plain.text_recipe() == plain.recipe()  # stores made before know no tokenizer
    spec = edit(clip, "model_cfg.text_cfg", hf_tokenizer_name="any")
    (clip / "tokenizer.json").write_text(TOKENIZER)
    before = resolve_teacher(spec)
    (clip / "tokenizer.json").write_text(TOKENIZER.replace("Level", "Piece"))
    after = resolve_teacher(spec)
    assert before.recipe() == after.recipe()
    assert before.text_recipe() != after.text_recipe()
    (clip / "added_tokens.json").write_text("{}")
    assert resolve_teacher(spec).text_recipe() != after.text_recipe()


def test_a_store_that_does_not_know_its_tokenizer_is_kept_and_says_so(
    made: tuple[Path, Path], clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, store = made
    spec = edit(clip, "model_cfg.text_cfg", hf_tokenizer_name="any")
    (clip / "tokenizer.json").write_text(TOKENIZER)
    files = resolve_teacher(spec)
    assert "tokenizer" not in with_known_tokenizer(files, store).text_recipe()
    assert f"{store}: made before stores recorded the teacher's tokenizer" in caplog.text
    assert with_known_tokenizer(files, store.with_name("none here")) == files
    plain = replace(files, tokenizer_hash=None)
    caplog.clear()
    assert with_known_tokenizer(plain, store) == plain
    assert not caplog.text
