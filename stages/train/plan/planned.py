"""A plan: choices with their reasons, what the user has set, and the settings that both make."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from zsseg.stages.errors import UserError
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.validation_errors import error_lines
from zsseg.stages.yaml_files import yaml_text

_HEAD = """\
# Settings of this run, as zsseg chose them, and why. What is not named here has its default.
# To change some, copy the file, edit it, and train with it into another folder:
#   zsseg train --config plan.yaml --out runs/changed
"""


@dataclass(frozen=True)
class Decision:
    """Settings that are chosen together, and why."""

    what: str
    """Of a choice, in one or two words: `crop`."""
    said: str
    """What is chosen, as a person says it: `192 x 192`."""
    settings: Mapping[str, Any]
    """By dotted name. The first is what the choice is about: where the user has set it, there was
    nothing to choose."""
    reason: str

    @property
    def line(self) -> str:
        """The choice and its reason."""
        return f"{self.what}: {self.said} ({self.reason})"


@dataclass(frozen=True)
class TrainingPlan:
    """All settings of a training that are not its defaults."""

    choices: tuple[Decision, ...]
    given: Mapping[str, Any]
    """What the user has set, by dotted name; nothing is chosen against it."""

    @property
    def chosen(self) -> tuple[Decision, ...]:
        """The choices that were free."""
        return tuple(each for each in self.choices if next(iter(each.settings)) not in self.given)

    @property
    def lines(self) -> list[str]:
        """A line of what and why for each choice that was free."""
        return [each.line for each in self.chosen]

    def values(self) -> dict[str, Any]:
        """The settings in sections, as an experiment's file has them."""
        every: dict[str, Any] = {}
        for each in self.choices:
            every |= each.settings
        return _in_sections(every | dict(self.given))

    def config(self) -> RunConfig:
        """The settings as a checked model. Raises UserError where the user's contradict."""
        try:
            return RunConfig.model_validate(self.values(), strict=False)
        except ValidationError as error:
            lines = error_lines(RunConfig, error)
            raise UserError("plan: correct these settings:", *map("  {}".format, lines)) from error

    def text(self) -> str:
        """The plan as a file for `--config`."""
        reasons = "".join(f"# {line}\n" for line in self.lines)
        if self.given:
            named = ", ".join(f"{name}={value}" for name, value in self.given.items())
            reasons += f"# as you set it: {named}\n"
        values = self.config().model_dump(mode="json", exclude_defaults=True)
        return f"{_HEAD}{reasons}{yaml_text(values)}"


def _in_sections(every: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in every.items():
        *sections, field = name.split(".")
        inner = values
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[field] = value
    return values
