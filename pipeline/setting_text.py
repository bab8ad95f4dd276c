"""Settings as text: YAML in which each says what it means, a JSON schema, and two side by side."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from zsseg.stages.precompute.precompute_config import PrecomputeConfig
from zsseg.stages.setting_notes import SettingNote, setting_notes
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.yaml_files import yaml_text

_WIDTH = 98

STAGES: Mapping[type[BaseModel], str] = {RunConfig: "train", PrecomputeConfig: "precompute"}
"""What has settings, and the command that takes them."""


def model_of(values: Mapping[str, Any]) -> type[BaseModel]:
    """Whose settings these are, by the names on top: those of a training, or of stage one."""
    one, two = (set(model.model_fields) & set(values) for model in (PrecomputeConfig, RunConfig))
    return PrecomputeConfig if len(one) > len(two) else RunConfig


def explained_yaml(model: type[BaseModel], values: Mapping[str, Any]) -> str:
    """Values as YAML; above each setting its meaning, unit and source, what it takes, its default.

    It reads back as the same values.
    """
    notes = {note.name: note for note in setting_notes(model)}
    return "".join(_lines(values, notes, ""))


def _lines(
    values: Mapping[str, Any], notes: Mapping[str, SettingNote], within: str
) -> Iterator[str]:
    indent = "  " * within.count(".")
    for name, value in values.items():
        note = notes.get(f"{within}{name}")
        if note is None:  # a section
            yield f"{indent}{name}:\n"
            yield from _lines(value, notes, f"{within}{name}.")
            continue
        start = f"{indent}# "
        said = f"{note.meaning} ({note.kind}; default {json.dumps(note.default)})"
        yield textwrap.fill(said, _WIDTH, initial_indent=start, subsequent_indent=start) + "\n"
        yield textwrap.indent(yaml_text({name: value}), indent)


def schema(model: type[BaseModel]) -> dict[str, Any]:
    """A JSON schema of a settings file, for editors: every setting with its meaning."""
    made = model.model_json_schema()
    made["title"] = f"settings of zsseg {STAGES[model]}"
    meanings = {note.name: note.meaning for note in setting_notes(model)}
    _describe(made["properties"], made["$defs"], meanings, "")
    return made


def _describe(
    fields: dict[str, Any], sections: Mapping[str, Any], meanings: Mapping[str, str], within: str
) -> None:
    """Write the meaning of each setting into its part of a schema."""
    for name, field in fields.items():
        if (meaning := meanings.get(f"{within}{name}")) is not None:
            field["description"] = meaning
        elif "$ref" in field:
            section = sections[field["$ref"].rpartition("/")[2]]
            _describe(section["properties"], sections, meanings, f"{within}{name}.")
