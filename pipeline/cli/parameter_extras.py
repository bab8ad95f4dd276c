"""What options have beside their meaning: the panel of the help that they stand in, and what a
shell offers for them.
"""

from collections.abc import Callable, Iterator
from typing import get_type_hints

import typer
from typer.models import CommandInfo, OptionInfo, ParameterInfo

from zsseg.pipeline.cli import completion

Complete = Callable[[str], list[str]]

PANELS = {
    "Where things lie": (
        "cache",
        "checkpoint",
        "dataset",
        "labels",
        "out",
        "root",
        "run",
        "runs",
        "teacher",
    ),
    "Settings": ("config", "settings", "seed", "steps", "minutes", "calibration", "device"),
    "What is printed": ("as_json", "quiet", "dry_run"),
}
"""Options by panel, as the functions of the commands call them; all others stand under Options."""

COMPLETED: dict[Complete, tuple[str, ...]] = {
    completion.experiment_names: (
        "train config",
        "ablate config",
        "tune config",
        "config show name",
        "config diff one",
        "config diff other",
    ),
    completion.dataset_names: (
        "preview dataset",
        "run dataset",
        "precompute dataset",
        "evaluate dataset",
        "dataset info name",
        "dataset fetch name",
        "dataset verify name",
    ),
    completion.run_folders: (
        "evaluate run",
        "report runs",
        "predict run",
        "export run",
        "names run",
        "push run",
        "compare runs",
    ),
    completion.stores: (
        "cache verify path",
        "cache why store",
        "cache rm stores",
        "cache export store",
        "cache unlock store",
        "cache gap path",
        "cache show path",
        "cache info path",
        "cache diff a",
        "cache diff b",
    ),
}
"""What is offered for which parameter of which command."""


def commands_of(app: typer.Typer, group: str = "") -> Iterator[tuple[str, CommandInfo]]:
    """Every command with its words, those of groups included."""
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__.replace("_", "-")
        yield f"{group}{name}", command
    for each in app.registered_groups:
        assert each.typer_instance is not None
        yield from commands_of(each.typer_instance, f"{group}{each.name} ")


def add_panels_and_completion(app: typer.Typer) -> None:
    """Put each option into its panel, and let shells complete names."""
    panels = {name: panel for panel, names in PANELS.items() for name in names}
    completes = {name: each for each, names in COMPLETED.items() for name in names}
    for words, command in commands_of(app):
        for name, info in _parameters(command):
            if isinstance(info, OptionInfo):
                info.rich_help_panel = panels.get(name)
            if complete := completes.get(f"{words} {name}"):
                info.autocompletion = complete


def _parameters(command: CommandInfo) -> Iterator[tuple[str, ParameterInfo]]:
    assert command.callback is not None
    for name, hint in get_type_hints(command.callback, include_extras=True).items():
        for info in getattr(hint, "__metadata__", ()):
            if isinstance(info, ParameterInfo):
                yield name, info
