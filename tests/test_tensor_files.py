"""Files of tensors from anywhere: nothing in them runs, and what is none is one message."""

import argparse
import enum
import io
import os
import pickle
import tarfile
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import datetime
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from zsseg.stages.errors import UserError
from zsseg.stages.tensor_files import read_tensor_file


class Runs:
    """Makes a file when it is loaded as pickle does it."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return run, (self.place,)


def run(place: Path) -> None:
    place.touch()


class Level(enum.Enum):
    HIGH = 1


@pytest.mark.parametrize(
    "beside",
    [
        np.float64(0.5),
        np.zeros(3),
        np.random.default_rng(0).bit_generator.state,
        PosixPath("/x"),
        argparse.Namespace(out=PosixPath("/x"), lr=1),
        defaultdict(list),
        Counter("ab"),
        OrderedDict(a=1),
        datetime(2026, 1, 1),
        Level.HIGH,
        nn.Linear(2, 2),
        {range(3), (1, 2)},
        [None, True, 1j, b"x", torch.Size([1]), torch.float16],
    ],
)
def test_tensors_are_had_without_what_is_beside_them(tmp_path: Path, beside: object) -> None:
    torch.save({"model": {"a": torch.ones(2)}, "beside": beside}, tmp_path / "x.pt")
    content = read_tensor_file(tmp_path / "x.pt")
    assert isinstance(content, dict)
    assert torch.equal(content["model"]["a"], torch.ones(2))


def test_nothing_in_a_file_runs(tmp_path: Path) -> None:
    marker = tmp_path / "it-ran"
    torch.save({"a": torch.ones(2), "beside": Runs(marker)}, tmp_path / "x.pt")
    assert isinstance(read_tensor_file(tmp_path / "x.pt"), dict)
    torch.save([torch.ones(2), os.system], tmp_path / "y.pt")
    with pytest.raises(UserError, match=r"y\.pt"):
        read_tensor_file(tmp_path / "y.pt")
    assert not marker.exists()


def archive(of: str) -> bytes:
    """An archive of another kind."""
    stream = io.BytesIO()
    if of == "zip":
        with zipfile.ZipFile(stream, "w") as pack:
            pack.writestr("a.txt", "x")
    else:
        with tarfile.open(fileobj=stream, mode="w") as pack:
            pack.addfile(tarfile.TarInfo("a.txt"))
    return stream.getvalue()


def saved(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<!doctype html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 3\n",
        pickle.dumps({"a": 1}),
        archive("zip"),
        archive("tar"),
        saved({"a": torch.ones(500)})[:900],
        saved({"a": torch.ones(2), "log": deque([1])}),
    ],
)
@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_no_file_of_tensors_is_one_message_of_ours(
    tmp_path: Path, content: bytes, name: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"x\..*Save the weights alone") as refused:
        read_tensor_file(tmp_path / name)
    text = str(refused.value)
    for foreign in ("\n", "torch.load", "weights_only", "add_safe_globals", "PyTorch 2.6", "miniz"):
        assert foreign not in text
    assert len(text) < 400 + len(str(tmp_path))
