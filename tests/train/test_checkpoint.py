"""Checkpoints: exact, atomic, and never trusted unseen."""

import errno
import json
import logging
import os
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from zsseg.stages.cache.disk.durable import write_durably
from zsseg.stages.cache.disk.hashing import hash_file
from zsseg.stages.errors import ResourceError, UserError
from zsseg.stages.train.run import checkpoint
from zsseg.stages.train.run.checkpoint import (
    latest,
    load_student,
    load_training,
    load_weights,
    prune,
    save,
    step_of,
)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def write(run: Path, step: int) -> Path:
    return save(run, step, student=network(step), training={"steps": [step], "x": torch.ones(2)})


def names_in(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_what_is_saved_comes_back_bit_for_bit(tmp_path: Path) -> None:
    student = network(1)
    student(torch.rand(2, 3, 8, 8))
    state = torch.get_rng_state()
    folder = save(tmp_path, 20, student=student, training={"rng": state, "n": 3})
    assert (folder.name, step_of(folder), latest(tmp_path)) == ("step-000020", 20, folder)
    other = network(2)
    load_weights(folder, other)
    assert other.state_dict().keys() == student.state_dict().keys()
    for name, value in student.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)
    training = load_training(folder)
    assert training["n"] == 3
    assert torch.equal(training["rng"], state)


def test_the_last_two_are_kept_in_order_of_steps(tmp_path: Path) -> None:
    known = []
    for step in (8, 9, 10, 1_000_000):
        known.append(write(tmp_path, step))
        prune(tmp_path, known)
    assert names_in(tmp_path) == ["step-000010", "step-1000000"]
    newest = latest(tmp_path)
    assert newest is not None
    assert step_of(newest) == 1_000_000


def test_no_checkpoint(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    with pytest.raises(UserError, match="no complete checkpoint"):
        load_student(tmp_path)


def test_a_step_can_be_saved_again(tmp_path: Path) -> None:
    write(tmp_path, 5)
    (tmp_path / "checkpoints" / "step-000005" / "training.pt").write_bytes(b"")
    folder = write(tmp_path, 5)
    assert latest(tmp_path) == folder


def test_an_intact_one_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be the only one: that which a run resumed from whose first step is not finite."""
    folder = write(tmp_path, 5)
    before = [path.stat().st_ino for path in sorted(folder.iterdir())]

    def killed(*_: object) -> None:
        raise ConnectionError("killed")

    monkeypatch.setattr(Path, "rename", killed)
    monkeypatch.setattr("zsseg.stages.train.run.checkpoint.shutil.rmtree", killed)
    assert write(tmp_path, 5) == folder
    assert [path.stat().st_ino for path in sorted(folder.iterdir())] == before


def test_what_a_kill_left_is_cleared_by_the_next_save(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step-000007.partial").mkdir(parents=True)
    write(tmp_path, 5)
    assert names_in(tmp_path) == ["step-000005"]


@pytest.mark.parametrize("at", ["durable_file", "hash_file", "write_durably", "rename"])
def test_a_crash_while_saving_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    before = write(tmp_path, 1)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if at == "rename":
            patch.setattr(Path, "rename", crash)
        else:
            patch.setattr(f"zsseg.stages.train.run.checkpoint.{at}", crash)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, 2)
    assert latest(tmp_path) == before
    after = write(tmp_path, 2)
    assert latest(tmp_path) == after
    assert sorted((tmp_path / "checkpoints").iterdir()) == [before, after]


@pytest.mark.parametrize(("weights", "state"), [(90_000, 10), (10, 90_000)])
def test_a_full_disk_is_reported_with_what_is_kept(
    tmp_path: Path, weights: int, state: int
) -> None:
    before = write(tmp_path, 1)
    student, training = nn.Linear(weights, 1), {"x": torch.ones(state)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, hard))
    try:
        with pytest.raises(ResourceError, match=r"step-000002.*kept: step-000001.*--resume"):
            save(tmp_path, 2, student=student, training=training)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "checkpoints").iterdir()) == [before]
    assert latest(save(tmp_path, 2, student=student, training=training).parents[1]) is not None


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(ResourceError, match="kept: none"):
        write(tmp_path, 1)


def test_an_error_that_is_not_the_disk_s_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    monkeypatch.setattr("zsseg.stages.train.run.checkpoint.torch.save", killed)
    with pytest.raises(RuntimeError, match="killed by signal"):
        write(tmp_path, 1)


def test_damaged_ones_push_out_no_whole_one(tmp_path: Path) -> None:
    """A run whose two checkpoints are damaged begins anew, and passes their steps only later."""
    for step in (30, 40):
        (write(tmp_path, step) / "training.pt").write_bytes(b"")
    assert latest(tmp_path) is None
    known = []
    for step in (10, 20, 25, 50, 60):
        known.append(write(tmp_path, step))
        prune(tmp_path, known)
        assert latest(tmp_path) == known[-1]
        if step == 25:
            assert names_in(tmp_path) == [f"step-0000{each}" for each in (20, 25, 30, 40)]
        if step == 50:
            assert names_in(tmp_path) == [f"step-0000{each}" for each in (25, 30, 40, 50)]
    assert names_in(tmp_path) == ["step-000050", "step-000060"]


def test_one_that_this_process_did_not_check_is_no_reserve(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        write(tmp_path, step)
    prune(tmp_path, [])
    prune(tmp_path, [tmp_path / "checkpoints" / "step-000030"])
    assert len(names_in(tmp_path)) == 3


@pytest.mark.parametrize("file", ["student.safetensors", "training.pt", "meta.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_one_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str, damage: str
) -> None:
    before, damaged = write(tmp_path, 1), write(tmp_path, 2)
    path = damaged / file
    content = bytearray(path.read_bytes())
    if damage == "flip":
        # In meta.json: the first digit of the format; elsewhere any byte is hashed.
        place = content.index(b"1") if file == "meta.json" else len(content) // 2
        content[place] ^= 1
        path.write_bytes(content)
    elif damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    with caplog.at_level(logging.WARNING):
        assert latest(tmp_path) == before
    assert "step-000002" in caplog.text


def test_a_copy_under_another_step_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, 3).rename(tmp_path / "checkpoints" / "step-000004")
    assert latest(tmp_path) is None


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.mkdir, (str(trace),))

    folder = write(tmp_path, 1)
    file = folder / "training.pt"
    torch.save({"optimiser": Evil()}, file)
    meta = json.loads((folder / "meta.json").read_text())
    meta["files"]["training.pt"] = {"bytes": file.stat().st_size, "xxh3_128": hash_file(file)}
    (folder / "meta.json").write_text(json.dumps(meta))
    assert latest(tmp_path) == folder
    with pytest.raises(UserError, match=r"training\.pt: holds more than tensors"):
        load_training(folder)
    assert not trace.exists()


@pytest.mark.parametrize(
    "name", ["step-000004 copy", "step-000004.bak", "step-000005.tar", "step-x"]
)
def test_copies_beside_checkpoints_are_none(tmp_path: Path, name: str) -> None:
    newest = write(tmp_path, 4)
    copy = newest.with_name(name)
    shutil.copytree(newest, copy) if "tar" not in name else copy.write_bytes(b"x")
    assert latest(tmp_path) == newest
    known = [newest, write(tmp_path, 5), write(tmp_path, 6)]
    prune(tmp_path, known)
    assert names_in(tmp_path) == sorted(["step-000005", "step-000006", name])


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_passing_error_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    written = write_durably

    def flaky(path: Path, content: bytes) -> None:
        if len(pauses) < 2:
            raise OSError(number, os.strerror(number))
        written(path, content)

    monkeypatch.setattr(checkpoint, "write_durably", flaky)
    assert latest(tmp_path) is None
    assert write(tmp_path, 3) == latest(tmp_path)
    assert len(pauses) == 2
    pauses.clear()
    monkeypatch.setattr(checkpoint, "write_durably", lambda *_: flaky_for_ever(number))
    with pytest.raises(ResourceError, match="could not be written"):
        write(tmp_path, 4)
    assert len(pauses) == 3


def flaky_for_ever(number: int) -> None:
    raise OSError(number, os.strerror(number))


def test_the_weights_of_another_student_are_one_message(tmp_path: Path) -> None:
    folder = write(tmp_path, 3)
    with pytest.raises(UserError, match=r"student\.safetensors: the weights of another student"):
        load_weights(folder, nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)))


def test_a_list_for_a_state_is_one_message(tmp_path: Path) -> None:
    folder = write(tmp_path, 3)
    torch.save([1, 2], folder / "training.pt")
    with pytest.raises(UserError, match=r"training\.pt: not what"):
        load_training(folder)


def test_deep_json_is_a_fault_of_a_checkpoint(tmp_path: Path) -> None:
    older, newer = write(tmp_path, 3), write(tmp_path, 4)
    (newer / "meta.json").write_text("[" * 100_000)
    assert latest(tmp_path) == older


@pytest.mark.parametrize("name", ["step-000002.partial", "step-000002.partial/x", "other.partial"])
def test_planted_links_are_not_written_through(tmp_path: Path, name: str) -> None:
    """In a folder that others can write to: to a folder of mine, or to files in it."""
    victim = tmp_path / "victim"
    victim.mkdir()
    for file in ("student.safetensors", "training.pt", "meta.json"):
        (victim / file).write_text("mine")
    write(tmp_path, 1)
    link = tmp_path / "checkpoints" / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(victim)
    folder = write(tmp_path, 2)
    assert latest(tmp_path) == folder
    assert not folder.is_symlink()
    assert {file.read_text() for file in victim.iterdir()} == {"mine"}


def test_links_in_the_place_of_a_checkpoint_s_files_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is quick puts them into the folder as soon as it is there."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    mkdir = Path.mkdir

    def planted(folder: Path, *args: Any, **options: Any) -> None:
        mkdir(folder, *args, **options)
        if folder.name.endswith(".partial") and not any(folder.iterdir()):
            for file in ("student.safetensors", "training.pt", "meta.json"):
                (folder / file).symlink_to(victim)
                (folder / f"{file}.partial").symlink_to(victim)

    monkeypatch.setattr(Path, "mkdir", planted)
    folder = write(tmp_path, 2)
    assert latest(tmp_path) == folder
    assert not any(file.is_symlink() for file in folder.iterdir())
    assert victim.read_text() == "mine"
