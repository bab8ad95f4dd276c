"""Embeddings in a file stand for a CLIP that is not there."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.colour_run import colour_run
from helpers.zsseg_command import zsseg

from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.asked_names import AskedNames, with_text
from zsseg.stages.evaluate.colours import name_colours
from zsseg.stages.evaluate.trained_run import TrainedRun
from zsseg.stages.export.names_file import read_names_file, write_names


@pytest.fixture
def run(tiny_world: Path, tmp_path: Path) -> TrainedRun:
    return colour_run(tmp_path / "run", tiny_world)


def content(run: TrainedRun) -> AskedNames:
    return with_text(run, ["tram", "car|van"], ["anything else"], run.text_CD[:3])


def test_what_is_written_is_read(run: TrainedRun, tmp_path: Path) -> None:
    path = tmp_path / "names.npz"
    write_names(path, run, content(run))
    found = read_names_file(path, run)
    assert (found.classes, found.background) == (("tram", "car|van"), ("anything else",))
    assert torch.equal(found.text_KD, run.text_CD[:3])
    with np.load(path) as stored:
        np.testing.assert_array_equal(stored["colours"], name_colours(found.classes, run.spec)[:3])


def test_a_file_for_another_run_is_refused(run: TrainedRun, tmp_path: Path) -> None:
    path = tmp_path / "names.npz"
    write_names(path, run, content(run))
    wider = replace(run, text_CD=torch.ones(4, 5))
    other = replace(run, record=run.record.model_copy(update={"templates": "coco15"}))
    for each in (wider, other):
        with pytest.raises(UserError, match="Make the file with this run"):
            read_names_file(path, each)


def test_another_teacher_is_told_by_a_class_of_the_run(run: TrainedRun, tmp_path: Path) -> None:
    """Of the same width and with the same templates, as two CLIPs of one size are."""
    path = tmp_path / "names.npz"
    other = replace(run, text_CD=run.text_CD.roll(1, dims=1))
    own = run.spec.prompt_names[1]
    write_names(path, other, content(other))
    with pytest.raises(UserError, match=rf"embedding of '{run.spec.prompt_names[0]}'"):
        read_names_file(path, run)
    # A run that does not know that class may know another one in the file.
    renamed = run.spec.model_copy(
        update={"classes": ("x", *run.spec.classes[1:]), "names": {}, "unseen": ()}
    )
    stranger = replace(run, record=run.record.model_copy(update={"dataset": renamed}))
    write_names(path, other, with_text(other, [own], [], other.text_CD[1:2]))
    with pytest.raises(UserError, match=f"embedding of '{own}'"):
        read_names_file(path, stranger)
    write_names(path, other, with_text(other, ["tram"], [], other.text_CD[1:2]))
    assert read_names_file(path, stranger).names == ("tram",)  # nothing to compare with


def test_a_file_names_no_folder_of_this_machine(run: TrainedRun, tmp_path: Path) -> None:
    path = tmp_path / "names.npz"
    record = run.record.model_copy(update={"teacher": f"local-dir:{tmp_path}/clip"})
    write_names(path, replace(run, record=record), content(run))
    with np.load(path) as stored:
        assert str(stored["teacher"]) == "local-dir:clip"


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
