"""Every `--help` ends with examples that can be typed; nearly right words are told."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from helpers.zsseg_command import zsseg
from reference_pages import commands

from zsseg.pipeline.cli.examples import EXAMPLES
from zsseg.stages.data.spec import DatasetSpec

COMMANDS = {name.removeprefix("zsseg "): command for name, command in commands()}


def test_every_command_has_examples_and_no_other() -> None:
    assert set(EXAMPLES) == set(COMMANDS)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_parse_and_stand_in_the_help(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command: Any = COMMANDS[name]
    for line in EXAMPLES[name]:
        _, *words = shlex.split(line.partition(" > ")[0])
        parts = name.split()
        assert words[: len(parts)] == parts, line
        command.make_context(name, words[len(parts) :])  # raises for what is not understood
    assert zsseg(*name.split(), "--help") == 0
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    for line in EXAMPLES[name]:
        assert line in shown


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("trian",), "train"),
        (("cache", "verfy"), "verify"),
        (("dataset", "info", "cocostuff"), "coco-stuff"),
        (("config", "show", "sdd_rts"), "sdd_rst"),
        (("train", "--cahe", "x"), "--cache"),
        (("precompute", "--dataset", "cityscape", "--root", "."), "cityscapes"),
    ],
)
def test_a_misspelt_word_comes_with_the_right_one(
    words: tuple[str, ...], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert zsseg(*words) in (2, 4)
    assert re.search(rf"(?i)(did you mean|possible options:) '?{meant}", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("unseen: [tre]", "tree"),
        ("unsen: [tree]", "unseen"),
        ("names: {rod: street}", "road"),
    ],
)
def test_a_misspelt_description_comes_with_the_right_word(
    wrong: str, meant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "unseen" in DatasetSpec.model_fields
    text = f"classes: [road, tree, sky]\npatterns: {{images: ., labels: .}}\n{wrong}\n"
    (tmp_path / "photos.yaml").write_text(text)
    assert zsseg("dataset", "info", tmp_path / "photos.yaml") == 4
    assert f"did you mean '{meant}'?" in capsys.readouterr().err
