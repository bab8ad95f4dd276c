"""The next training tells that the last one was killed, and at how much memory."""

import json
import logging
from pathlib import Path

import pytest
from helpers.tiny_training import config_of, make_world, run, train_tiny_students

from zsseg.stages.train.run.attempt import NOTE, noted_attempt, peak_gb


def test_a_killed_attempt_is_told_of_with_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    train_tiny_students(monkeypatch)
    world, out = make_world(tmp_path), tmp_path / "run"
    kept: list[str] = []

    def copy(step: int) -> None:
        kept.append((out / NOTE).read_text())

    with pytest.raises(ConnectionError):
        run(world, out, config_of(), stop_at=3, after_step=copy)
    assert not (out / NOTE).exists()  # an error is no death without a word
    assert 0 < json.loads(kept[-1])["peak_gb"] <= peak_gb() + 0.01
    (out / NOTE).write_text(json.dumps({"step": 2, "peak_gb": 20.04}))
    with caplog.at_level(logging.WARNING):
        run(world, out, config_of(), resume=True)
    assert "killed after step 2 or later; it had taken 20.0 GB" in caplog.text
    assert "train.accumulate" in caplog.text
    assert not (out / NOTE).exists()


def test_a_killed_attempt_is_told_of_with_what_was_foretold(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with noted_attempt(tmp_path, start_step=0, foretold=17_340_000_000) as note:
        note(1)
        left = (tmp_path / NOTE).read_text()
    (tmp_path / NOTE).write_text(left)  # as a killed process leaves it
    with noted_attempt(tmp_path, start_step=0):
        pass
    assert "17.3 foretold" in caplog.text
    assert "GB of memory at step" in caplog.text


@pytest.mark.parametrize("content", ["", "[1]", '{"step": "x", "peak_gb": 1}', "null"])
def test_a_damaged_note_is_passed_over(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / NOTE).write_text(content)
    with noted_attempt(tmp_path, start_step=0):
        assert json.loads((tmp_path / NOTE).read_text())["step"] == 0
    assert caplog.text == ""
