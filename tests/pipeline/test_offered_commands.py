"""A command or option that is mistyped: what is offered in its place is one."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from helpers.zsseg_command import zsseg

from zsseg.pipeline.cli.main import app


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that lead to it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_an_offered_command_is_one(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    *group, name = words
    assert zsseg(*group, f"{name}x") != 0
    said = capsys.readouterr().err
    offered = re.findall(r"'([^']+)'", said.partition("Did you mean")[2])
    assert name in offered, said
    assert all((*group, each) in COMMANDS or _is_group(each) for each in offered)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_an_offered_option_is_one(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    parameters = COMMANDS[words].params
    named = [each for one in parameters for each in (*one.opts, *one.secondary_opts)]
    options = {each for each in named if each.startswith("--")} | {"--help"}
    for option in sorted(each for each in options if len(each) > 5):
        assert zsseg(*words, f"{option}x") != 0
        said = capsys.readouterr().err.replace("\n", " ")
        offered = re.findall(
            r"--[a-z0-9-]+", re.split(r"ossible option|Did you mean", said, maxsplit=1)[-1]
        )
        offered = offered[: -1 if offered[-1] == "--help" else None]  # of the advice at the end
        assert set(offered) <= options, said
        assert offered, said


def _is_group(name: str) -> bool:
    return any(words[0] == name for words in COMMANDS)
