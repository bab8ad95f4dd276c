"""Finding, hashing, loading and running a teacher."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray
from open_clip.factory import _find_checkpoint_in_dir
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from zsseg.stages.data.images import read_image
from zsseg.stages.errors import ResourceError, UserError
from zsseg.stages.precompute.precompute_config import DenseConfig
from zsseg.stages.precompute.teacher.clip_teacher import ClipTeacher, load_teacher
from zsseg.stages.precompute.teacher.teacher_files import resolve_teacher
from zsseg.stages.precompute.teacher.text_embeddings import embed_classes


@pytest.fixture(scope="module")
def teacher(tiny_clip: str) -> ClipTeacher:
    return load_teacher(resolve_teacher(tiny_clip), device="cpu")


@pytest.fixture
def copied_clip(tiny_clip: str, tmp_path: Path) -> Path:
    """The folder of a CLIP that a test may change."""
    folder = tmp_path / "My CLIP"
    shutil.copytree(tiny_clip.removeprefix("local-dir:"), folder)
    return folder


def random_images(*sizes: tuple[int, int]) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


# --- files ---


def test_recipe_is_the_content_wherever_the_folder_lies(tiny_clip: str, copied_clip: Path) -> None:
    original, copy = resolve_teacher(tiny_clip), resolve_teacher(f"local-dir:{copied_clip}")
    assert original.recipe() == copy.recipe()
    assert copy.slug == "my-clip"
    assert copy.width == 24
    config = copied_clip / "open_clip_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()), indent=3))
    assert resolve_teacher(f"local-dir:{copied_clip}").recipe() == original.recipe()


def test_changed_weights_change_their_hash_only(copied_clip: Path) -> None:
    before = resolve_teacher(f"local-dir:{copied_clip}")
    weights = copied_clip / "open_clip_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    after = resolve_teacher(f"local-dir:{copied_clip}")
    assert after.weights_hash != before.weights_hash
    assert after.config_hash == before.config_hash


@pytest.mark.parametrize("section", ["model_cfg", "preprocess_cfg"])
def test_changed_configuration_changes_its_hash_only(copied_clip: Path, section: str) -> None:
    before = resolve_teacher(f"local-dir:{copied_clip}")
    file = copied_clip / "open_clip_config.json"
    config = json.loads(file.read_text())
    config[section] |= {"quick_gelu": True} if section == "model_cfg" else {"mean": [0, 0, 0]}
    file.write_text(json.dumps(config))
    after = resolve_teacher(f"local-dir:{copied_clip}")
    assert after.config_hash != before.config_hash
    assert after.weights_hash == before.weights_hash


def test_files_are_resolved_without_torch(copied_clip: Path) -> None:
    weights = copied_clip / "open_clip_model.safetensors"
    script = (
        "import sys\n"
        "from zsseg.stages.precompute.teacher.teacher_files import resolve_teacher\n"
        "from zsseg.stages.precompute.teacher.text_embeddings import load_templates\n"
        f"folder = resolve_teacher({f'local-dir:{copied_clip}'!r})\n"
        f"file = resolve_teacher({f'ViT-B-32@{weights}'!r})\n"
        "assert folder.weights_hash == file.weights_hash and file.width == 512\n"
        "assert len(load_templates('single')) == 1\n"
        "loaded = {'torch', 'open_clip', 'timm', 'zsseg.stages.precompute.teacher.clip_teacher'}\n"
        "loaded &= set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", script], check=True, cwd=root)


@pytest.mark.parametrize(
    "names",
    [
        ["model.safetensors", "open_clip_pytorch_model.bin"],
        ["open_clip_model.safetensors", "open_clip_pytorch_model.bin", "other.safetensors"],
        ["pytorch_model.bin", "model.pth", "a.safetensors"],
        ["mine.pth"],
    ],
)
def test_weights_of_a_folder_are_those_that_open_clip_loads(
    copied_clip: Path, names: list[str]
) -> None:
    (copied_clip / "open_clip_model.safetensors").unlink()
    for name in names:
        (copied_clip / name).write_bytes(name.encode())
    found = resolve_teacher(f"local-dir:{copied_clip}").weights
    assert str(found) == _find_checkpoint_in_dir(copied_clip)


def test_folder_without_or_with_unclear_weights_is_refused(copied_clip: Path) -> None:
    spec = f"local-dir:{copied_clip}"
    (copied_clip / "open_clip_model.safetensors").unlink()
    with pytest.raises(ResourceError, match="no weights"):
        resolve_teacher(spec)
    for name in ("one.pth", "two.pth"):
        (copied_clip / name).touch()
    with pytest.raises(UserError, match=r"one\.pth, two\.pth"):
        resolve_teacher(spec)


@pytest.mark.parametrize(
    ("content", "reason"), [("{", "not valid JSON"), ("[]", "model_cfg"), ("{}", "model_cfg")]
)
def test_damaged_configuration_is_named(copied_clip: Path, content: str, reason: str) -> None:
    (copied_clip / "open_clip_config.json").write_text(content)
    with pytest.raises(UserError, match=reason) as caught:
        resolve_teacher(f"local-dir:{copied_clip}")
    assert "open_clip_config.json" in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("local-dir:/no/such/folder", "there is no folder"),
        ("ViT-B-32@/no/such/file.pt", "no weights file /no/such/file.pt"),
        ("ViT-B-61/openai", "close: ViT-B-16"),
        ("ViT-B/16", "ViT-B-16"),
        ("ViT-B-16-quickgelu/opanai", "ViT-B-16-quickgelu/openai"),
        ("ViT-B-16", "say which weights"),
    ],
)
def test_wrong_names_are_answered_with_what_there_is(spec: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        resolve_teacher(spec)


@pytest.mark.parametrize(
    ("spec", "right"),
    [
        ("ViT-B-16/openai", "ViT-B-16-quickgelu/openai"),
        ("ViT-H-14/dfn5b", "ViT-H-14-quickgelu/dfn5b"),
        ("ViT-B-16-quickgelu/laion400m_e32", "ViT-B-16/laion400m_e32"),
    ],
)
def test_wrong_activation_is_answered_with_the_right_model(spec: str, right: str) -> None:
    with pytest.raises(UserError, match=f"GELU.*{right}"):
        resolve_teacher(spec)


def test_wrong_activation_of_a_file_or_folder(tmp_path: Path, copied_clip: Path) -> None:
    weights = tmp_path / "vit_b_16-openai.safetensors"
    weights.touch()
    with pytest.raises(UserError, match=f"ViT-B-16-quickgelu@{weights}"):
        resolve_teacher(f"ViT-B-16@{weights}")
    assert resolve_teacher(f"ViT-B-16-quickgelu@{weights}").pretrained == str(weights)

    (copied_clip / "open_clip_model.safetensors").rename(copied_clip / "openai.safetensors")
    with pytest.raises(UserError, match="quick_gelu"):
        resolve_teacher(f"local-dir:{copied_clip}")
    config = json.loads((copied_clip / "open_clip_config.json").read_text())
    config["model_cfg"]["quick_gelu"] = True
    (copied_clip / "open_clip_config.json").write_text(json.dumps(config))
    assert resolve_teacher(f"local-dir:{copied_clip}").weights.name == "openai.safetensors"


@pytest.mark.parametrize(
    ("spec", "cure"),
    [
        (
            "ViT-B-16-quickgelu/openai",
            "bring timm/vit_base_patch16_clip_224.openai/open_clip_model.safetensors to this "
            "machine and ask for ViT-B-16-quickgelu@FILE",
        ),
        ("hf-hub:someone/some-clip", "local-dir:FOLDER"),
    ],
)
def test_missing_network_is_answered_with_the_file_to_bring(
    spec: str, cure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(**_: Any) -> str:
        raise OSError("the network is down")

    monkeypatch.setattr("open_clip.pretrained.hf_hub_download", unreachable)
    with pytest.raises(ResourceError, match="the network is down") as caught:
        resolve_teacher(spec)
    assert cure in str(caught.value)


def test_hub_files_are_hashed_like_a_folder(
    copied_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def downloaded(*, repo_id: str, filename: str, **_: Any) -> str:
        assert repo_id == "someone/Some-CLIP"
        if not (copied_clip / filename).is_file():
            raise OSError(f"no {filename} in this repository")
        return str(copied_clip / filename)

    monkeypatch.setattr("open_clip.pretrained.hf_hub_download", downloaded)
    hub = resolve_teacher("hf-hub:someone/Some-CLIP")
    assert hub.recipe() == resolve_teacher(f"local-dir:{copied_clip}").recipe()
    assert hub.slug == "some-clip"


# --- loading ---


def test_damaged_or_foreign_weights_are_named(copied_clip: Path) -> None:
    weights = copied_clip / "open_clip_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    spec = f"local-dir:{copied_clip}"
    with pytest.raises(UserError, match=r"open_clip_model\.safetensors"):
        load_teacher(resolve_teacher(spec), device="cpu")

    weights.write_bytes(whole)
    config = json.loads((copied_clip / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["width"] = 48
    (copied_clip / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="size mismatch"):
        load_teacher(resolve_teacher(spec), device="cpu")


def test_gpu_that_is_not_there(tiny_clip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ResourceError, match="device=cuda"):
        load_teacher(resolve_teacher(tiny_clip), device="cuda")
    assert load_teacher(resolve_teacher(tiny_clip), device="auto").device == torch.device("cpu")


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("ViT-B-16-SigLIP", {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic"}),
        ("ViT-L-14", {}),
    ],
)
def test_weights_file_gets_the_preprocessing_of_its_model(
    model: str,
    expected: dict[str, Any],
    copied_clip: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked: dict[str, Any] = {}

    def create_model(name: str, **settings: Any) -> None:
        asked.update(settings, name=name)
        raise RuntimeError("stop here")

    def unreachable(name: str, **_: str) -> str:
        raise OSError(f"{name}: no network")

    monkeypatch.setattr("open_clip.create_model", create_model)
    monkeypatch.setattr("open_clip.pretrained.download_pretrained_from_hf", unreachable)
    weights = copied_clip / "open_clip_model.safetensors"
    with pytest.raises(UserError, match="stop here"):
        load_teacher(resolve_teacher(f"{model}@{weights}"), device="cpu")
    assert (asked["name"], asked["pretrained"]) == (model, str(weights))
    assert asked["force_preprocess_cfg"] == expected
    # Published weights of ViT-L-14 disagree: OpenAI's values are taken, with a warning.
    assert ("OpenAI's is assumed" in caplog.text) == (expected == {})


def test_the_tokenizer_of_a_hub_is_taken_from_the_cache_without_asking_the_network(
    copied_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(name: str, **_: str) -> str:
        raise AssertionError(f"{name}: the network was asked")

    cached = tmp_path / "tokenizer.json"
    cached.write_text("{}")
    monkeypatch.setattr("open_clip.pretrained.download_pretrained_from_hf", asked)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(cached))
    spec = f"ViT-B-16-SigLIP@{copied_clip / 'open_clip_model.safetensors'}"
    before = resolve_teacher(spec).tokenizer_hash
    assert before is not None
    cached.write_text("{ }")
    assert resolve_teacher(spec).tokenizer_hash != before


# --- running ---


def test_image_token_is_that_of_the_whole_squeezed_image(
    teacher: ClipTeacher, tiny_clip: str
) -> None:
    images = random_images((40, 90), (64, 20), (32, 32))
    model = open_clip.create_model(tiny_clip).eval()
    settings = PreprocessCfg(**model.visual.preprocess_cfg)
    settings.resize_mode = "squash"
    transform = image_transform_v2(settings, is_train=False)
    with torch.no_grad():
        pixels = torch.stack([transform(Image.fromarray(image)) for image in images])
        expected = model.encode_image(pixels).numpy()
    token_nD = teacher.cls(images)
    assert token_nD.dtype == np.float32
    np.testing.assert_allclose(token_nD, expected, atol=1e-5)


def test_dense_tokens_of_images_of_any_size(teacher: ClipTeacher) -> None:
    images, config = random_images((40, 90), (64, 20)), DenseConfig(size=(48, 64))
    token_nDhw = teacher.dense(images, config)
    assert token_nDhw.dtype == np.float32
    assert token_nDhw.shape == (2, teacher.width, *teacher.grid(config)) == (2, 24, 6, 8)
    assert teacher.dense_path(config) == "clearclip"
    norm_nhw = np.linalg.norm(token_nDhw, axis=1)
    assert norm_nhw.std() > 1e-3  # not normalised
    second = teacher.dense(images[1:], config)
    np.testing.assert_allclose(token_nDhw[1:], second, atol=1e-5)


def test_teacher_with_a_tower_of_timm(tiny_cnn_clip: str) -> None:
    teacher = load_teacher(resolve_teacher(tiny_cnn_clip), device="cpu")
    config = DenseConfig(size=(32, 32))
    assert teacher.native_size == (32, 32)
    assert teacher.dense_path(config) == "feature_map"
    images = random_images((50, 30), (32, 64))
    # Mean pooling and a linear projection: the image token is the mean of the dense tokens.
    mean_nD = teacher.dense(images, config).mean((2, 3))
    np.testing.assert_allclose(mean_nD, teacher.cls(images), atol=1e-5)
    with pytest.raises(UserError, match=r"32 x 32.*\[64,32\]"):
        teacher.grid(DenseConfig(size=(56, 40)))


def test_text_tokens_are_not_normalised(teacher: ClipTeacher, tiny_clip: str) -> None:
    model = open_clip.create_model(tiny_clip).eval()
    prompts = ["a photo of a ball.", "sky"]
    with torch.no_grad():
        expected = model.encode_text(open_clip.get_tokenizer(tiny_clip)(prompts)).numpy()
    np.testing.assert_allclose(teacher.text(prompts), expected, atol=1e-6)


def test_teacher_is_frozen_and_knows_its_grey(teacher: ClipTeacher) -> None:
    assert not teacher.model.training
    assert not any(weight.requires_grad for weight in teacher.model.parameters())
    assert all(weight.dtype == torch.float32 for weight in teacher.model.parameters())
    assert teacher.mean_colour == (122, 117, 105)


def test_stand_in_teacher_finds_sky_and_road(shared_data: Path) -> None:
    files = resolve_teacher(f"local-dir:{shared_data / 'camvid_clip'}")
    teacher = load_teacher(files, device="cpu")
    photo = sorted((shared_data / "camvid" / "train").iterdir())[0]
    dense_Dhw = teacher.dense([read_image(photo)], DenseConfig(size=(256, 256)))[0]
    text_CD = embed_classes(teacher, ["sky", "road", "building"], "single")
    best_hw = np.einsum("dhw,cd->chw", dense_Dhw, text_CD).argmax(0)
    assert dense_Dhw.shape == (512, 8, 8)
    assert (best_hw[0] == 0).any()
    assert (best_hw[-2:] == 1).mean() > 0.5
