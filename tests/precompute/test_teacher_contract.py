"""`zsseg teacher check`: what it finds of right and wrong teachers."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.example_teachers import COLOURS, EXAMPLES, write_maps
from helpers.zsseg_command import zsseg

from zsseg.stages.precompute.check.teacher_contract import fits_by_chance

GOOD = (EXAMPLES / "python_teacher.py").read_text()


def checked(
    spec: str, capsys: pytest.CaptureFixture[str], *more: object
) -> tuple[int, dict[str, bool | None]]:
    """The exit code, and by what was looked at whether it passed."""
    capsys.readouterr()
    code = zsseg("teacher", "check", spec, "--device", "cpu", "--json", *more)
    found = json.loads(capsys.readouterr().out)
    return code, {each["what"]: each["passed"] for each in found}


def test_a_right_teacher_passes(capsys: pytest.CaptureFixture[str]) -> None:
    code, passed = checked(COLOURS, capsys)
    assert code == 0
    assert passed.pop("time") is None
    assert set(passed.values()) == {True}
    assert len(passed) == 9


def test_the_table_says_what_passed(capsys: pytest.CaptureFixture[str], tiny_cnn_clip: str) -> None:
    # Random weights are in no space with anything.
    assert zsseg("teacher", "check", tiny_cnn_clip, "--device", "cpu", "--number", 2) == 3
    out = capsys.readouterr().out
    for what in ("fingerprint", "shapes", "mirrored", "time", "FAIL", "fails: one space"):
        assert what in out


def test_maps_are_checked_by_their_ids(
    capsys: pytest.CaptureFixture[str], tiny_world: Path, tmp_path: Path
) -> None:
    spec = write_maps(tiny_world.parent / "images" / "train", tmp_path / "maps")
    code, passed = checked(spec, capsys)
    assert code == 0
    assert passed["alone as in a batch"] is True
    assert passed["mirrored"] is None
    assert passed["one space"] is None
    assert zsseg("teacher", "check", spec, "--images", tiny_world.parent) == 2
    assert "has its own images" in capsys.readouterr().err


def test_images_of_your_own_have_no_labels(
    capsys: pytest.CaptureFixture[str], tiny_world: Path, tmp_path: Path
) -> None:
    images = tiny_world.parent / "images" / "train"
    code, passed = checked(COLOURS, capsys, "--images", images, "--names", "sky, ground, box")
    assert code == 0
    assert passed["one space"] is None
    (tmp_path / "empty").mkdir()
    assert zsseg("teacher", "check", COLOURS, "--images", tmp_path / "empty") == 2


MAP = "return np.moveaxis(self._embedded(cells), -1, 1)"


@pytest.mark.parametrize(
    ("old", "new", "fails"),
    [
        ("default_rng(0)", "default_rng()", "fingerprint"),  # other weights each time
        (MAP, "return cells", "shapes"),
        (MAP, f"{MAP} * np.nan", "finite"),
        (MAP, f"cells = cells[:, :, ::-1]\n        {MAP}", "one space"),  # from right to left
        (MAP, f"cells = cells.swapaxes(1, 2).reshape(cells.shape)\n        {MAP}", "mirrored"),
        (MAP, f"{MAP} + np.random.rand()", "the same again"),
        (
            "n, height,",
            "images = images - images.mean(0); n, height,",
            "alone as in a batch",
        ),
        (MAP, f"cells = cells * 0 + images.mean()\n        {MAP}", "places differ"),
        ("self._colour(text) for", "self._colour(text[::-1]) for", "one space"),
    ],
)
def test_what_is_wrong_is_found(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, old: str, new: str, fails: str
) -> None:
    assert GOOD.count(old) == 1
    (tmp_path / "own.py").write_text(GOOD.replace(old, new))
    code, passed = checked(f"python:{tmp_path / 'own.py'}:ColourTeacher", capsys)
    assert code == 3
    assert passed[fails] is False


def test_names_fit_their_regions_or_they_do_not() -> None:
    classes = np.array([0, 1, 2, 3, 4, 0, 1, 2, 3, 4])
    right = np.eye(5)[classes] + np.random.default_rng(0).normal(size=(10, 5)) / 4
    assert fits_by_chance(right, classes) < 0.02
    # A name that is liked everywhere says nothing.
    assert fits_by_chance(right + np.array([0, 9, 0, 0, 0]), classes) < 0.02
    assert fits_by_chance(right, (classes + 1) % 5) > 0.5
    assert fits_by_chance(np.ones((10, 5)), classes) == 1
