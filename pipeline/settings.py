"""Experiments and settings: YAML files and `--set a.b=c` in, checked models out."""

import json
from collections.abc import Mapping, Sequence
from itertools import takewhile
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from zsseg.stages.errors import UserError
from zsseg.stages.file_bytes import read_text_file
from zsseg.stages.printable import did_you_mean
from zsseg.stages.validation_errors import error_lines
from zsseg.stages.yaml_files import builtin_names, packaged_text, parse_yaml

_FILE = "configuration file"

Model = TypeVar("Model", bound=BaseModel)


def experiment_text(name_or_file: str) -> str:
    """The YAML file of an experiment, by name ('sdd_rst') or path."""
    names = builtin_names("experiments")
    if name_or_file in names:
        return packaged_text(f"experiments/{name_or_file}.yaml")
    if Path(name_or_file).suffix in {".yaml", ".yml"}:
        return read_text_file(Path(name_or_file), kind=_FILE)
    raise UserError(
        f"unknown experiment '{name_or_file}'{did_you_mean(name_or_file, names)}. There are: "
        f"{', '.join(names)}; or give the path of a .yaml file"
    )


def read_experiment(name_or_file: str) -> dict[str, Any]:
    """What an experiment sets; `build` adds the defaults of everything else."""
    return _mapping(experiment_text(name_or_file), name_or_file)


def read_values(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds."""
    return _mapping(read_text_file(path, kind=_FILE), str(path))


def _mapping(text: str, where: str) -> dict[str, Any]:
    values = parse_yaml(text, where=where)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(
            f"{where}: a mapping of settings is needed, not {type(values).__name__}. Write "
            "section: {field: value}"
        )
    return values


def header(text: str) -> str:
    """The comment lines at the top of an experiment's file; the first is its title."""
    return "".join(takewhile(lambda line: line.startswith("#"), text.splitlines(keepends=True)))


def apply_settings(values: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """`values` with each `a.b=c` put in; c is read as YAML, so numbers and lists are typed."""
    merged: dict[str, Any] = dict(values)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {setting}: write it as section.field=value")
        *sections, field = key.strip().split(".")
        inner = merged
        for section in sections:
            child = inner.get(section)
            inner[section] = dict(child) if isinstance(child, dict) else {}
            inner = inner[section]
        inner[field] = parse_yaml(text, where=f"--set {setting}")
    return merged


def _not_finite(values: Mapping[str, Any], within: str = "") -> list[tuple[str, float]]:
    """The settings that are infinite or not a number, by name."""
    found = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _not_finite(value, f"{within}{name}.")
        else:
            parts = value if isinstance(value, list) else [value]
            strange = (each for each in parts if isinstance(each, float) and not isfinite(each))
            found += [(f"{within}{name}", each) for each in strange]
    return found


def build(model: type[Model], values: dict[str, Any], *, where: str) -> Model:
    """A checked model of `values`; every mistake becomes one line that names the field.

    Raises UserError. YAML knows no tuples and writes 1 for 1.0, so values go through JSON rules:
    lists stand for tuples and whole numbers for floats, but "3" is never a number.
    """
    if strange := _not_finite(values):
        named = ", ".join(f"{name} is {value}" for name, value in strange)
        raise UserError(f"{where}: {named}: give a finite number")
    try:
        return model.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        lines = error_lines(model, error)
        raise UserError(f"{where}: correct these settings:", *map("  {}".format, lines)) from error
