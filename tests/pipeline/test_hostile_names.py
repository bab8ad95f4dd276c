"""Names that hold anything, through whole commands: one line each, nothing a terminal acts on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.drawn_world import draw_world
from helpers.zsseg_command import zsseg

from zsseg.stages.errors import CacheError, UserError

NAME = os.fsdecode(b"a [b]\n\x1b[2J\t'\"c\x9b \xff") + "\u202e道路"
SHOWN = r"""a [b]\n\x1b[2J\t'"c\x9b \xff\u202e道路"""
COMMAND = "import sys; from zsseg.pipeline.cli.main import main; main()"


def _plain(text: str) -> bool:
    return not any(each in text for each in ("\x1b", "\t", "\x9b", "\u202e", "\udcff"))


@pytest.mark.parametrize(
    "words",
    [
        ("cache", "info", NAME),
        ("cache", "rm", "-y", NAME),
        ("cache", "verify", NAME),
        ("cache", "import", f"{NAME}.tar"),
        ("compare", NAME),
        ("config", "show", NAME),
        ("config", "show", f"{NAME}.yaml"),
        ("config", "show", "best", "--set", f"train{NAME}"),
        ("config", "show", "best", "--set", f"train.{NAME.encode(errors='ignore').decode()}=1"),
        ("dataset", "verify", NAME, "--root", "."),
        ("dataset", "verify", "camvid", "--root", NAME),
        ("demo", "--method", NAME),
        ("evaluate", "--run", NAME),
        ("predict", "--run", NAME, "x.png", "--out", "out"),
        ("train", "--cache", NAME, "--out", "out"),
        # wrong calls, which typer finds
        (NAME,),
        ("demo", "--seed", NAME),
        ("train", f"--{NAME}"),
        ("cache", "info", "a", NAME),
    ],
)
def test_an_error_shows_the_name_in_its_line(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert zsseg(*words) in (2, 4, 5)
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert lines[0].startswith("error: ")
    assert all(line.startswith(("error: ", "  ")) for line in lines)
    assert r"a [b]\n\x1b[2J" in shown.err.replace(r"\x0a", r"\n")  # typer writes it so
    assert _plain(shown.err)


def test_each_argument_of_an_error_is_a_line() -> None:
    error = CacheError(f"{NAME}: two files:", f"  {NAME}", "Delete them")
    assert str(error) == f"{SHOWN}: two files:\n  {SHOWN}\nDelete them"
    assert str(UserError(f"within: {error.args[0]}")) == f"within: {SHOWN}: two files:"


@pytest.fixture
def hostile_world(tmp_path: Path) -> Path:
    """The description of a data set in a folder of such a name, with a damaged image of one."""
    world = draw_world(tmp_path / NAME, images=2)
    (world.parent / "images/train" / f"{NAME}.png").write_bytes(b"no image")
    return world


def test_files_of_a_data_set(hostile_world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ("--root", hostile_world.parent, "--split", "train")
    assert zsseg("dataset", "verify", hostile_world, *place) == 4
    shown = capsys.readouterr()
    problems = [line for line in shown.out.splitlines() if "images/train" in line]
    assert len(problems) == 2  # it is damaged, and has no label
    assert all(SHOWN in problem for problem in problems)
    assert _plain(shown.out + shown.err)


@pytest.mark.parametrize("closed", ["", ">&-", "2>&-"])
def test_a_strict_terminal_or_none(hostile_world: Path, closed: str) -> None:
    """Everything that is no ASCII is an escape; no stream is needed for the exit code."""
    root = hostile_world.parent
    done = subprocess.run(
        [
            *("bash", "-c", f'"$@" {closed}', "bash", sys.executable, "-c", COMMAND),
            *("dataset", "verify", hostile_world, "--root", root, "--split", "train"),
        ],
        capture_output=True,
        env={**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0"},
        check=False,
    )
    assert done.returncode == 4
    shown = done.stdout + done.stderr
    assert b"Traceback" not in shown
    assert b"\x1b" not in shown
    assert shown.isascii()
