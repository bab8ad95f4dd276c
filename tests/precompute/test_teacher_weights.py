"""Weights however their trainer wrapped them, and files that are none."""

import argparse
import shutil
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from zsseg.stages.errors import UserError
from zsseg.stages.precompute.teacher.clip_teacher import load_teacher
from zsseg.stages.precompute.teacher.teacher_files import resolve_teacher
from zsseg.stages.precompute.teacher.teacher_weights import read_weights


class Settings:
    """An object of a trainer's own class."""


@pytest.fixture
def clip(tiny_clip: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_clip.removeprefix("local-dir:"), tmp_path / "clip"))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: tensors,
        lambda tensors: {"epoch": 5, "state_dict": {f"module.{k}": v for k, v in tensors.items()}},
        lambda tensors: {"model": tensors, "args": argparse.Namespace(lr=1)},
        lambda tensors: {
            "state_dict": {f"_orig_mod.module.{k}": v for k, v in tensors.items()},
            "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}},
        },
        lambda tensors: {"ema": {"module": tensors}},
        lambda tensors: {"state_dict": tensors, "config": Settings(), "best": np.float64(0.5)},
    ],
)
@pytest.mark.parametrize("name", ["epoch_5.pt", "mine.pth"])
def test_a_trainers_checkpoint_gives_the_weights(
    clip: Path,
    wrap: Callable[[dict[str, Any]], Any],
    name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain = clip / "open_clip_model.safetensors"
    tensors = load_file(plain)
    plain.unlink()
    torch.save(wrap(tensors), clip / name)
    files = resolve_teacher(f"local-dir:{clip}")
    assert files.weights.name == name
    read = read_weights(files.weights, files.spec)
    assert read.keys() == tensors.keys()
    loaded = load_teacher(files, device="cpu").model.state_dict()
    assert not caplog.text, "open_clip warns of weights that it does not load itself"
    assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)


def test_prefixes_of_a_compiled_model_are_left_out(clip: Path) -> None:
    file = clip / "open_clip_model.safetensors"
    save_file({f"_orig_mod.{k}": v for k, v in load_file(file).items()}, file)
    load_teacher(resolve_teacher(f"local-dir:{clip}"), device="cpu")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (Settings(), "no weights"),
        ({"state_dict": {"a": torch.zeros(1)}, "log": deque([1])}, "deque"),
        ({"epoch": 5, "optimizer": {"lr": 1.0}}, "epoch, optimizer"),
        ([1, 2], "no weights"),
    ],
)
def test_a_file_without_weights_that_can_be_read_is_one_line(
    tmp_path: Path, content: object, named: str
) -> None:
    torch.save(content, tmp_path / "mine.pt")
    with pytest.raises(UserError, match=named) as caught:
        read_weights(tmp_path / "mine.pt", "local-dir:x")
    text = str(caught.value)
    assert "mine.pt" in text
    assert not any(part in text for part in ("\n", "\x1b", "torch.load", "weights_only", "options"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02junk", bytes(200)])
def test_a_damaged_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    for name in ("a.pt", "a.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}.*Save the weights alone"):
            read_weights(tmp_path / name, "local-dir:x")


def test_weights_of_another_width_are_one_line_that_names_the_file(clip: Path) -> None:
    file = clip / "open_clip_model.safetensors"
    with pytest.raises(UserError, match=r"open_clip_model\.safetensors does not fit ViT-B-32"):
        load_teacher(resolve_teacher(f"ViT-B-32@{file}"), device="cpu")
