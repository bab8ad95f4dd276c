"""What a shell offers at the tab key, and the panels of a `--help`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.zsseg_command import zsseg
from reference_pages import commands

from zsseg.pipeline.cli.main import app
from zsseg.pipeline.cli.parameter_extras import COMPLETED, PANELS, commands_of

COMPLETE = (
    "import sys; sys.argv[0] = 'zsseg'\n"
    "from zsseg.pipeline.cli.main import main\n"
    "try: main()\n"
    "finally: print('torch' in sys.modules, 'zarr' in sys.modules, file=sys.stderr)"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a run, a store, a description, and what is neither."""
    for file in (
        "runs/first/run.json",
        "runs/notes/text.txt",
        "data_cache/camvid-train-x/zarr.json",
    ):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    (tmp_path / "photos.yaml").touch()
    (tmp_path / "photos.txt").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("train --config sdd", {"sdd", "sdd_rst"}),
        ("config show pho", {"photos.yaml"}),
        ("precompute --dataset pascal", {"pascal-voc", "pascal-context"}),
        ("dataset info pho", {"photos.yaml"}),
        ("evaluate --run runs/f", {"runs/first", "runs/first/"}),
        ("compare runs/n", {"runs/notes/"}),
        ("cache info data_cache/c", {"data_cache/camvid-train-x", "data_cache/camvid-train-x/"}),
        ("cache ver", {"verify"}),
    ],
)
def test_names_are_completed_without_loading_anything(
    typed: str, offered: set[str], folder: Path
) -> None:
    words = f"zsseg {typed}"
    environ = os.environ | {
        "_ZSSEG_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-c", COMPLETE],
        capture_output=True,
        text=True,
        check=False,
        env=environ,
        cwd=folder,
    )
    assert set(done.stdout.split()) == offered
    assert done.stderr == "False False\n"


def test_the_tables_name_what_there_is() -> None:
    parameters = {
        f"{name.removeprefix('zsseg ')} {each.name}"
        for name, command in commands()
        for each in command.params
    }
    assert {words for names in COMPLETED.values() for words in names} <= parameters
    assert {name for names in PANELS.values() for name in names} <= {
        words.rpartition(" ")[2] for words in parameters
    }
    assert len(list(commands_of(app))) == len(list(commands()))


def test_options_stand_in_panels(capsys: pytest.CaptureFixture[str]) -> None:
    assert zsseg("train", "--help") == 0
    shown = capsys.readouterr().out
    for panel, option in (
        ("Where things lie", "--cache"),
        ("Settings", "--set"),
        ("What is printed", "--quiet"),
    ):
        assert option in shown.partition(f" {panel} ")[2].partition("╰")[0]
