"""What is written below a field of settings: its meaning, unit and source."""

import ast
import inspect
from collections.abc import Iterator
from itertools import pairwise
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel


class SettingNote(NamedTuple):
    """One setting, as a person looks it up."""

    name: str
    """With its section: `train.batch`."""
    kind: str
    """What it takes, such as `int` or `st | rst`."""
    default: Any
    meaning: str
    """Meaning, unit, and the paper it is from or `[ours]`, in one line."""


def setting_notes(model: type[BaseModel]) -> list[SettingNote]:
    """Every setting of a model and of its sections, in their order."""
    return list(_notes(model, ""))


def _notes(model: type[BaseModel], prefix: str) -> Iterator[SettingNote]:
    texts = _texts_below(model)
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _notes(kind, f"{prefix}{name}.")
        else:
            text = texts.get(name, "")
            yield SettingNote(f"{prefix}{name}", _shown(kind), field.get_default(), text)


def _texts_below(model: type[BaseModel]) -> dict[str, str]:
    (written,) = ast.parse(inspect.getsource(model)).body
    assert isinstance(written, ast.ClassDef)
    return {
        line.target.id: " ".join(below.value.value.split())
        for line, below in pairwise(written.body)
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(below.value.value, str)
    }


def _shown(kind: Any) -> str:
    """A type as YAML is written: `st | rst`, `[int, int]`, `float | null`."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " | ".join(map(str, parts))
    if origin in (Union, UnionType):
        return " | ".join(map(_shown, parts))
    if origin is tuple:
        return f"[{', '.join('...' if part is ... else _shown(part) for part in parts)}]"
    if origin is Annotated:
        return _shown(parts[0])
    return "null" if kind is NoneType else str(kind.__name__)
