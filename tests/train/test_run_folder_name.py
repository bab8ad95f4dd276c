"""Names that the files of a run cannot hold are refused before a step."""

import os
from pathlib import Path

import pytest
from helpers.tiny_training import config_of, make_world, run, train_tiny_students

from zsseg.stages.errors import UserError

NAME = os.fsdecode(b"r\xff\n\x1b[2J [b]")


@pytest.mark.parametrize("which", ["store", "run"])
def test_a_name_that_is_no_utf_8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    train_tiny_students(monkeypatch)
    (tmp_path / NAME).mkdir()
    world = make_world(tmp_path / NAME if which == "store" else tmp_path, images=3)
    out = tmp_path / NAME / "run" if which == "run" else tmp_path / "run"
    with pytest.raises(UserError, match=r"r\\xff\\n.*: this name is not UTF-8.*Rename"):
        run(world, out, config_of(train={"steps": 1}))
    assert not (out / "run.json").exists()
