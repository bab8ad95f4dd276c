"""Settings and progress, as a person gives them in Python."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from zsseg.stages.errors import UserError

GivenSettings: TypeAlias = Mapping[str, Any] | Sequence[str] | None
"""A dict such as {"train.steps": 100}, or what follows --set on the command line, in a list."""

Progress: TypeAlias = Callable[[int, int, str], None]
"""Is called now and then with what is done, what there is to do, and a few words such as the
speed."""


def setting_texts(given: GivenSettings) -> list[str]:
    """Settings as the command line writes them: A.B=VALUE, the value in JSON.

    Raises UserError for another type, and for a value that no settings file can hold.
    """
    if given is None:
        return []
    if isinstance(given, list | tuple) and all(isinstance(each, str) for each in given):
        return list(given)
    if not isinstance(given, Mapping):
        raise UserError(f"set is {given!r}. Give a dict such as {{'train.steps': 100}}")
    texts = []
    for name, value in given.items():
        try:
            texts.append(f"{name}={json.dumps(value)}")
        except TypeError as error:
            raise UserError(
                f"set: {name} is {value!r}, which no settings file can hold. Give a number, "
                "a text, a list, True, False or None"
            ) from error
    return texts


def nothing(done: int, total: int, words: str) -> None:
    """Progress that nobody wants to see."""
