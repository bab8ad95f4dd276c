"""A teacher's folder is data: nothing in it runs or reaches the network, and no value crashes."""

import contextlib
import json
import shutil
import socket
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from zsseg.stages.errors import UserError
from zsseg.stages.precompute.teacher.clip_teacher import load_teacher
from zsseg.stages.precompute.teacher.private_copy import private_copy
from zsseg.stages.precompute.teacher.teacher_files import resolve_teacher

CONFIG = "open_clip_config.json"
TOKENIZER: dict[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1, "tree": 2}, "unk_token": "[UNK]"},
}
SETTINGS = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", "pad_token": "a"}


@pytest.fixture
def clip(tiny_clip: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_clip.removeprefix("local-dir:"), tmp_path / "clip"))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "create_connection", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)


@pytest.fixture
def planted(clip: Path) -> Iterator[Path]:
    """A folder with every name that a loader of models might run or follow."""
    marker = clip / "it-ran"
    code = f"from pathlib import Path\nPath({str(marker)!r}).touch()\nclass Evil: pass\n"
    for name in ("evil.py", "__init__.py", "tokenization.py", "sitecustomize.py", "hubconf.py"):
        (clip / name).write_text(code)
    (clip / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/else"}')
    (clip / "chat_template.jinja").write_text("{{ cycler.__init__.__globals__.os.mkdir('x') }}")
    yield clip
    assert not marker.exists()
    assert not any(str(clip) in place for place in sys.path)


def write(clip: Path, **files: Any) -> str:
    """Write JSON files by their stems, and a configuration that names a tokenizer."""
    for stem, content in files.items():
        (clip / f"{stem}.json").write_text(json.dumps(content))
    config = json.loads((clip / CONFIG).read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "someone/some-tokenizer"
    (clip / CONFIG).write_text(json.dumps(config))
    return f"local-dir:{clip}"


def test_only_known_files_are_read_without_what_leads_elsewhere(planted: Path) -> None:
    spec = write(
        planted,
        tokenizer=TOKENIZER,
        tokenizer_config={
            **SETTINGS,
            "tokenizer_file": "/elsewhere/tokenizer.json",
            "name_or_path": "someone/else",
            "added_tokens_decoder": {"0": {"content": "[UNK]", "special": True}},
        },
        config={"model_type": "roberta", "_attn_implementation": "someone/kernel", "inner": [{}]},
    )
    before = constants.is_offline_mode()
    with private_copy(spec) as copied:
        folder = Path(copied.removeprefix("local-dir:"))
        assert folder != planted
        assert constants.is_offline_mode()
        names = {file.name for file in folder.iterdir()}
        assert names == {CONFIG, "tokenizer.json", "tokenizer_config.json", "config.json"}
        stated = json.loads((folder / "tokenizer_config.json").read_text())
        assert stated.keys() == {*SETTINGS, "added_tokens_decoder"}
        assert json.loads((folder / "config.json").read_text()).keys() == {"model_type", "inner"}
    assert not folder.exists()
    assert constants.is_offline_mode() == before


@pytest.mark.parametrize("file", ["config", "tokenizer_config", "processor_config"])
@pytest.mark.parametrize(
    "content",
    [
        {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}},
        {"text_config": {"auto_map": {"AutoModel": "evil.Evil"}}},
        {"parts": [{"trust_remote_code": True}]},
        ["auto_map"],
    ],
)
def test_settings_that_name_code_are_refused(planted: Path, file: str, content: object) -> None:
    spec = write(planted, tokenizer=TOKENIZER, **{file: content})
    with pytest.raises(UserError, match="never runs"):
        resolve_teacher(spec)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("vision_cfg", {"timm_model_name": "resnet10t", "timm_model_pretrained": True}),
        ("text_cfg", {"hf_model_pretrained": True, "width": 24}),
    ],
)
def test_a_tower_is_built_without_the_network(
    planted: Path, section: str, values: dict[str, Any]
) -> None:
    config = json.loads((planted / CONFIG).read_text())
    config["model_cfg"][section].update(values)
    (planted / CONFIG).write_text(json.dumps(config))
    with pytest.raises(UserError, match="does not fit"):  # they are those of another tower
        load_teacher(resolve_teacher(f"local-dir:{planted}"), device="cpu")


@pytest.mark.usefixtures("no_network")
def test_transformers_itself_reads_a_tokenizer_and_runs_nothing(planted: Path) -> None:
    pytest.importorskip("transformers")
    spec = write(
        planted,
        tokenizer=TOKENIZER,
        tokenizer_config={**SETTINGS, "name_or_path": "someone/else"},
        config={"model_type": "evil", "architectures": ["Evil"]},
    )
    teacher = load_teacher(resolve_teacher(spec), device="cpu")
    assert teacher.tokenizer(["a tree"])[0, :2].tolist() == [1, 2]


@pytest.mark.usefixtures("no_network")
def test_transformers_itself_refuses_what_is_no_tokenizer(planted: Path) -> None:
    pytest.importorskip("transformers")
    contents: list[Any] = [[], {"model": 3}, {**TOKENIZER, "model": {"type": "Evil"}}, "text"]
    for content in contents:
        spec = write(planted, tokenizer=content, tokenizer_config=SETTINGS)
        with pytest.raises(UserError, match="tokenizer cannot be loaded") as refused:
            load_teacher(resolve_teacher(spec), device="cpu")
        assert "\n" not in str(refused.value)
        assert "zsseg-teacher-" not in str(refused.value)


@pytest.mark.usefixtures("no_network")
def test_transformers_itself_builds_a_text_tower_from_the_folder(planted: Path) -> None:
    pytest.importorskip("transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 8}
    spec = write(
        planted,
        tokenizer=TOKENIZER,
        tokenizer_config=SETTINGS,
        config={"model_type": "roberta", **small, "_attn_implementation": "someone/kernel"},
    )
    config = json.loads((planted / CONFIG).read_text())
    config["model_cfg"]["text_cfg"]["hf_model_name"] = "someone/else"
    (planted / CONFIG).write_text(json.dumps(config))
    with pytest.raises(
        UserError, match="does not fit"
    ):  # a tower was built, these weights are others
        load_teacher(resolve_teacher(spec), device="cpu")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["", "../x", "hf-hub:a/b", "resnet10t", "\n", "[red]", "\x1b[31m", "nan"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


def places(value: Any, within: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place of a JSON value: keys and indices from the outside in."""
    if not isinstance(value, dict | list):
        return [within]
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    return [within, *(place for name, each in inner for place in places(each, (*within, name)))]


def with_value(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    changed = deepcopy(value)
    inner = changed
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = new
    return changed


def one_message(spec: str) -> None:
    """A teacher that loads, or one error of ours; any other goes through."""
    with contextlib.suppress(UserError):
        load_teacher(resolve_teacher(spec), device="cpu")


@pytest.mark.usefixtures("no_network")
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_wrong_value_in_the_configuration_is_one_message(data: st.DataObject, clip: Path) -> None:
    kept = clip.with_name("kept.json")
    if not kept.exists():
        shutil.copy(clip / CONFIG, kept)
    config = json.loads(kept.read_text())
    changed = with_value(config, data.draw(st.sampled_from(places(config))), data.draw(VALUES))
    (clip / CONFIG).write_text(json.dumps(changed))
    one_message(f"local-dir:{clip}")


@pytest.mark.parametrize(
    ("section", "name"),
    [
        ("vision_cfg", "width"),
        ("vision_cfg", "layers"),
        ("vision_cfg", "image_size"),
        ("vision_cfg", "patch_size"),
        ("vision_cfg", "mlp_ratio"),
        ("text_cfg", "width"),
        ("text_cfg", "layers"),
        ("text_cfg", "vocab_size"),
        ("text_cfg", "context_length"),
    ],
)
def test_a_model_far_larger_than_its_weights_is_refused_unbuilt(
    clip: Path, section: str, name: str
) -> None:
    config = json.loads((clip / CONFIG).read_text())
    config["model_cfg"][section][name] = 10**7
    (clip / CONFIG).write_text(json.dumps(config))
    with pytest.raises(UserError, match="billion numbers"):
        resolve_teacher(f"local-dir:{clip}")


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        3,
        "text",
        [],
        {"a": None},
        {1: torch.zeros(2)},
        {"visual.proj": torch.zeros(2, dtype=torch.int64)},
        {"visual.proj": torch.zeros(2, dtype=torch.complex64)},
        {"visual.proj": torch.zeros(32, 24).to_sparse()},
        {"visual.proj": torch.zeros(32, 24, dtype=torch.float8_e4m3fn)},
        {"positional_embedding": torch.zeros(())},
        {"visual.positional_embedding": torch.zeros(3, 0)},
        {"logit_scale": torch.zeros(3, 4)},
        {"token_embedding.weight": torch.zeros(0)},
    ],
)
def test_wrong_kinds_of_weights_are_one_message(clip: Path, wrong: Any) -> None:
    plain = clip / "open_clip_model.safetensors"
    state: Any = {**load_file(plain), **wrong} if isinstance(wrong, dict) else wrong
    plain.unlink()
    torch.save(state, clip / "epoch_1.pt")
    one_message(f"local-dir:{clip}")


def test_a_folder_in_the_place_of_a_file_is_one_message(clip: Path) -> None:
    (clip / CONFIG).unlink()
    (clip / CONFIG).mkdir()
    (clip / "other.pt").mkdir()
    with pytest.raises(UserError, match=CONFIG):
        resolve_teacher(f"local-dir:{clip}")
