"""Embeddings in a file stand for a CLIP that is not there."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.colour_run import colour_run
from helpers.zsseg_command import zsseg

from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.trained_run import TrainedRun
from zsseg.stages.export.names_file import NamesFile, read_names_file, write_names


@pytest.fixture
def run(tiny_world: Path, tmp_path: Path) -> TrainedRun:
    return colour_run(tmp_path / "run", tiny_world)


def content(run: TrainedRun) -> NamesFile:
    return NamesFile(["tram", "car|van"], ["anything else"], run.text_CD[:3])


def test_what_is_written_is_read(run: TrainedRun, tmp_path: Path) -> None:
    path = tmp_path / "names.npz"
    write_names(path, run, content(run))
    names, background, text_CD = read_names_file(path, run)
    assert (names, background) == (["tram", "car|van"], ["anything else"])
    assert torch.equal(text_CD, run.text_CD[:3])


def test_a_file_for_another_run_is_refused(run: TrainedRun, tmp_path: Path) -> None:
    path = tmp_path / "names.npz"
    write_names(path, run, content(run))
    wider = replace(run, text_CD=torch.ones(4, 5))
    other = replace(run, record=run.record.model_copy(update={"templates": "coco15"}))
    for each in (wider, other):
        with pytest.raises(UserError, match="Make the file with this run"):
            read_names_file(path, each)


@pytest.mark.parametrize("bytes_", [b"", b"no archive", b"PK\x03\x04 damaged"])
def test_a_file_that_is_none_is_refused(run: TrainedRun, bytes_: bytes, tmp_path: Path) -> None:
    path = tmp_path / "names.npz"
    path.write_bytes(bytes_)
    with pytest.raises(UserError, match="is no file of names"):
        read_names_file(path, run)


def test_a_pickle_is_not_opened(run: TrainedRun, tmp_path: Path) -> None:
    path = tmp_path / "names.npz"
    np.savez(path, names=np.array([object()], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="is no file of names"):
        read_names_file(path, run)


def test_wrong_calls_are_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = str(tmp_path / "none")
    (tmp_path / "there.npz").write_text("mine")
    for words, told in (
        (["names", "a, b", "--out", str(tmp_path / "names.txt")], "ends in .npz"),
        (["names", "a, b", "--out", str(tmp_path / "there.npz")], "add --force"),
        (["names", "a, b", "--out", str(tmp_path / "new.npz")], "no run"),
        (["export", "--out", str(tmp_path / "m.onnx")], "no run"),
        (["export", "--out", "m.onnx", "--int8", "--fp16"], "exclude each other"),
        (["export", "--out", "m.onnx", "--background", "sky"], "give --classes too"),
        (["predict", "a.png", "--out", "o", "--names", "n.npz", "--classes", "a"], "leave"),
    ):
        assert zsseg(*words, "--run", run) == 2
        assert told in capsys.readouterr().err
    assert (tmp_path / "there.npz").read_text() == "mine"
