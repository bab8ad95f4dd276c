"""One training at a time writes a run folder; whoever reads it is not kept waiting."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from helpers.several_processes import child
from helpers.tiny_training import (
    EVERYTHING,
    World,
    make_world,
    metrics_of,
    run,
    train_tiny_students,
    with_changes,
)

from zsseg.stages.errors import CacheLocked, ResourceError, UserError
from zsseg.stages.train.run import checkpoint
from zsseg.stages.train.run.run_folder import only_writer
from zsseg.stages.train.run_config import RunConfig

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def config_of(**train: Any) -> RunConfig:
    small = {"batch": 2, "steps": 6, "checkpoint_every": 2}
    return with_changes(EVERYTHING, {"train": small | train})


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


def test_a_folder_that_vanished_hides_no_error(tmp_path: Path) -> None:
    def fails() -> None:
        with only_writer(tmp_path / "run"):
            shutil.rmtree(tmp_path / "run")
            raise ResourceError("no room")

    with pytest.raises(ResourceError, match="no room"):
        fails()
    with only_writer(tmp_path / "run"):  # nor does it keep the lock
        assert (tmp_path / "run").is_dir()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_second_training_is_refused_until_the_first_is_gone(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """Killed, it leaves no lock, though its loader processes live on for some seconds."""
    train_tiny_students(monkeypatch)
    out, message = tmp_path / "run", tmp_path / "message"
    heard, tell = os.pipe()

    def wait(step: int) -> None:
        if step == 3:
            os.write(tell, b".")
            signal.pause()

    first = child(
        lambda: void(run(world, out, config_of(workers=workers), after_step=wait)), message
    )
    os.close(tell)
    assert os.read(heard, 1) == b".", message.read_text()
    os.close(heard)
    try:
        with pytest.raises(
            CacheLocked, match=rf"run: process {first.pid} on .* \(since 2"
        ) as caught:
            run(world, out, config_of(), resume=True)
        assert caught.value.exit_code == 6
        assert "--out" in str(caught.value)
        assert checkpoint.load_student(out)[1] == 2
    finally:
        first.kill()
        first.join()
    run(world, out, config_of(), resume=True)
    assert [line["step"] for line in metrics_of(out)] == [1, 2, 3, 4, 5, 6]


def test_a_folder_of_something_else_gets_no_lock(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    for out in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(UserError, match="exists and is no run"), only_writer(out):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("mine", "new"):
        out = tmp_path / name
        with only_writer(out), pytest.raises(CacheLocked), only_writer(out):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_place_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / "file" / "run"
    with pytest.raises(ResourceError, match=r"run: cannot write its \.lock"), only_writer(out):
        pass


def void(_: object) -> None:
    """Nothing."""
