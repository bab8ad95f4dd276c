"""Every block of commands in the documents is run here on small data, or says why it is not.

`<!-- not run: REASON -->` stands in the line above such a block, `<!-- not run on this page: REASON
-->` above all that follow on its page.
"""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import typer
from helpers.drawn_world import draw_world
from helpers.tiny_training import train_tiny_students
from helpers.zsseg_command import zsseg
from PIL import Image

from zsseg.pipeline.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "data_cache" / "README.md"]
)
FIRST = ROOT / "docs" / "tutorials" / "own_images.md"
"""Makes what the commands of other pages speak of: photos.yaml, data_cache, runs/first."""

_PIECE = re.compile(
    r"^<!-- not run on this page: (?P<page>[^>]+) -->$"
    r"|^(?:<!-- not run: (?P<block>[^>]+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
_LANGUAGES = {"", "text", "python", "yaml", "json", "rust"}
"""What a block may be of; one that names no language holds commands."""


class Block(NamedTuple):
    """Commands of a page."""

    place: str
    lines: list[str]
    why_not: str | None


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of commands of a page, in order."""
    text = page.read_text("utf-8")
    of_page = None
    for found in _PIECE.finditer(text):
        of_page = found["page"] or of_page
        if found["text"] and not found["language"]:
            line = text[: found.start("text")].count("\n") + 1
            lines = found["text"].replace("\\\n", " ").splitlines()
            yield Block(f"{page.relative_to(ROOT)}:{line}", lines, found["block"] or of_page)


RUN = {page: [each for each in blocks(page) if not each.why_not] for page in PAGES}


def test_the_blocks_are_found() -> None:
    assert sum(len(list(blocks(page))) for page in PAGES) > 60
    assert len(RUN[FIRST]) >= 5
    assert sum(map(len, RUN.values())) >= 11


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_stand_in_blocks_and_reasons_above_blocks(page: Path) -> None:
    text = page.read_text("utf-8")
    assert not re.findall(r"^ {4}zsseg .*|^ +```|^~~~", _PIECE.sub("", text), re.MULTILINE)
    for found in _PIECE.finditer(text):
        assert (found["language"] or "") in _LANGUAGES
        assert not found["language"] or not re.search("^zsseg ", found["text"], re.MULTILINE)
    assert text.count("<!-- not run") == sum(
        bool(found["page"] or found["block"]) for found in _PIECE.finditer(text)
    )


@pytest.mark.usefixtures("one_teacher")
def test_commands_of_the_pages_run(
    tmp_path: Path,
    tiny_clip: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    draw_photos(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("zsseg.stages.train.plan.make_plan._CPU_MINUTES", 0.001)
    train_tiny_students(monkeypatch)
    for page in [FIRST, *(page for page in PAGES if page != FIRST)]:
        for block in RUN[page]:
            for line in block.lines:
                words = words_of(line, tiny_clip)
                assert zsseg(*words) == 0, f"{block.place}: {line}\n{capfd.readouterr().err}"
        said = re.findall(r"^next: (zsseg .*)", capfd.readouterr().err, re.MULTILINE)
        for text in said:
            parses(text)
        if page == FIRST:
            assert {text.split()[1] for text in said} >= {"preview", "run"}
            shutil.copytree("runs/first", "runs/second")


def parses(line: str) -> None:
    """Raise for a command that does not understand its words."""
    command: Any = typer.main.get_command(app)
    _, *words = shlex.split(line)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context(line, words)


def draw_photos(folder: Path) -> None:
    """Twelve pictures in `photos` with masks of four classes, and `street.jpg`."""
    draw_world(folder / "drawn", images=12)
    (folder / "photos" / "masks").mkdir(parents=True)
    for image in sorted((folder / "drawn" / "images" / "train").iterdir()):
        mask_HW = np.array(Image.open(folder / "drawn" / "labels" / "train" / image.name))
        mask = Image.fromarray(np.where(mask_HW > 3, 0, mask_HW).astype(np.uint8))
        mask.save(folder / "photos" / "masks" / image.name)
        Image.open(image).save(folder / "street.jpg")
        image.rename(folder / "photos" / image.name)


def words_of(line: str, teacher: str) -> list[str]:
    """The words after `zsseg` as a shell hands them over: STORE is the store there is, a teacher is
    named, and a training is short."""
    store = next(Path("data_cache").glob("*-train-*"), Path("none"))
    text = line.partition(" #")[0].replace("data_cache/STORE", str(store))
    _, *words = shlex.split(text.replace("--minutes 5", "--minutes 0.05"))
    if words[0] in ("preview", "run", "precompute"):
        words += ["--teacher", teacher]
    paths = ([*sorted(Path().glob(word))] if word.endswith("*") else [word] for word in words)
    return [str(path) for each in paths for path in each]
