"""Configuration files and `--set a.b=c`: plain YAML in, strict models out, one line per mistake."""

import difflib
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from zsseg.stages.errors import UserError

Model = TypeVar("Model", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-4 is a number, as in YAML 1.2; PyYAML's own rule wants 1.0e-4."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def experiment_names() -> list[str]:
    """Names of the experiments that come with zsseg, sorted."""
    folder = files("zsseg.configs") / "experiments"
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    )


def read_experiment(name_or_file: str) -> dict[str, Any]:
    """The values of an experiment, by name ('sdd_rst') or from a YAML file."""
    if name_or_file in experiment_names():
        return read_packaged(f"experiments/{name_or_file}.yaml")
    if Path(name_or_file).suffix in {".yaml", ".yml"}:
        return read_values(Path(name_or_file))
    near = difflib.get_close_matches(name_or_file, experiment_names(), n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    raise UserError(
        f"unknown experiment '{name_or_file}'{hint}. There are: {', '.join(experiment_names())}; "
        "or give the path of a .yaml file"
    )


def experiment_title(name: str) -> str:
    """What an experiment is, in a line: the first of its file, for one that comes with zsseg."""
    first, _ = (
        files("zsseg.configs")
        .joinpath(f"experiments/{name}.yaml")
        .read_text("utf-8")
        .split("\n", 1)
    )
    return first.removeprefix("#").strip()


def read_packaged(place: str) -> dict[str, Any]:
    """The mapping of a YAML file that comes with zsseg, by its place below `configs`."""
    text = files("zsseg.configs").joinpath(place).read_text("utf-8")
    return _mapping(text, f"configs/{place}")


def read_values(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such configuration file")
    return _mapping(path.read_text(encoding="utf-8"), str(path))


def _mapping(text: str, where: str) -> dict[str, Any]:
    try:
        values = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not valid YAML: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{where}: a mapping of settings is needed, not {type(values).__name__}")
    return values


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
        try:
            inner[field] = yaml.load(text, Loader=_Loader) if text else None
        except yaml.YAMLError as error:
            raise UserError(f"--set {setting}: '{text}' is not a YAML value") from error
    return merged


def build(model: type[Model], values: dict[str, Any], *, where: str) -> Model:
    """A checked model of `values`; every mistake becomes one line that names the field.

    Raises UserError. YAML knows no tuples and writes 1 for 1.0, so values go through JSON rules:
    lists stand for tuples and whole numbers for floats, but "3" is never a number.
    """
    try:
        return model.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        lines = [_line(model, problem) for problem in error.errors()]
        raise UserError(f"{where}:\n  " + "\n  ".join(lines)) from error


def _line(model: type[BaseModel], problem: Any) -> str:
    path = [str(part) for part in problem["loc"]]
    name = ".".join(path) or "configuration"
    if problem["type"] != "extra_forbidden":
        shown = "" if isinstance(problem["input"], dict) else f" (got {problem['input']!r})"
        return f"{name}: {problem['msg'].removeprefix('Value error, ')}{shown}"
    known = _fields(model, path[:-1])
    near = difflib.get_close_matches(path[-1], known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
    return f"{name}: no such setting; {hint}"


def _fields(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    """Field names of the model that `path` leads to."""
    for part in path:
        field = model.model_fields.get(part)
        if field is None or not isinstance(field.annotation, type):
            return []
        model = field.annotation
    return sorted(model.model_fields)
