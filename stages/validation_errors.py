"""What pydantic finds wrong with values, as lines for a person: one per mistake."""

import difflib
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, get_args

from pydantic import BaseModel, ValidationError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_SHOWN = 80
"""Characters of a wrong value that a line repeats."""


def error_lines(model: type[BaseModel], error: ValidationError) -> list[str]:
    """`train.steps: Input should be a valid integer (got 'many')`, and so on.

    An unknown name comes with the nearest one that `model` has, or with all of them.
    """
    return [_line(model, mistake) for mistake in error.errors()]


def _line(model: type[BaseModel], mistake: "ErrorDetails") -> str:
    place, given = mistake["loc"], mistake["input"]
    start = f"{'.'.join(map(str, place))}: " if place else ""
    if mistake["type"] == "extra_forbidden":
        known = _fields(model, place[:-1])
        near = difflib.get_close_matches(str(place[-1]), known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
        return f"{start}no such setting; {hint}"
    # A whole section or a whole file is too long to repeat.
    hint = _hint(mistake["type"], given)
    whole = (isinstance(given, dict) and not hint) or mistake["type"] == "json_invalid"
    shown = "" if whole else f" (got {_short(given)})"
    return f"{start}{mistake['msg'].removeprefix('Value error, ')}{shown}{hint}"


def _hint(kind: str, given: object) -> str:
    """How to write what YAML turned into something else; nothing where that is not the mistake."""
    if kind == "string_type" and isinstance(given, bool):
        word = "yes" if given else "no"
        return f'; YAML reads words such as {word} so: write them in quotes, "{word}"'
    if kind == "string_type" and given is None:
        return '; YAML reads null, ~ and nothing so: write a word in quotes, "null"'
    if kind == "string_type" and isinstance(given, int | float | date):
        return f'; write it in quotes: "{given}"'
    if kind in {"tuple_type", "list_type"} and isinstance(given, dict | str):
        parts = given.values() if isinstance(given, dict) else given.split(",")
        listed = ", ".join(str(part).strip() for part in parts)
        return f"; write a list: [{listed[:_SHOWN]}{'...' if len(listed) > _SHOWN else ''}]"
    return ""


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _fields(model: type[BaseModel], place: Sequence[str | int]) -> list[str]:
    """Field names of the model at a place below `model`; [] where there is none."""
    for part in place:
        if isinstance(part, int):  # which one of a list: all are of one model
            continue
        field = model.model_fields.get(part)
        kinds = () if field is None else (field.annotation, *get_args(field.annotation))
        models = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        if not models:
            return []
        model = models[0]
    return sorted(model.model_fields)
