"""Marks on the fields of settings: does a result depend on one, does a replayed step?

A field says it once, `workers: Annotated[int, Mark(result=False)]`; a field without a mark has the
defaults of `Mark`. The mark of a section is that of all its fields.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

InReplay = Literal["counts", "nothing", "fixed"]


@dataclass(frozen=True)
class Mark:
    """What depends on a setting."""

    result: bool = True
    """Do results depend on it, by more than the last digits and than how many crops batch
    normalisation sees at once (which also follows from the number of processes)? One without
    influence may change when a run is resumed, and two runs that differ in nothing else are runs of
    the same experiment."""
    replay: InReplay = "counts"
    """In a step that is done again from its capture: `counts`, another value may be tried;
    `nothing`, it changes nothing there, where crops are cut already and no weight is moved;
    `fixed`, the captured weights fit no other value."""


def marked(
    model: type[BaseModel], *, result: bool | None = None, replay: InReplay | None = None
) -> list[str]:
    """Names (`train.workers`) of the settings that are marked so; None: either way.

    A section with a mark of its own is one name.
    """
    return [
        name
        for name, mark in _marks(model)
        if result in (None, mark.result) and replay in (None, mark.replay)
    ]


def _marks(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Mark]]:
    for name, field in model.model_fields.items():
        mark = next((each for each in field.metadata if isinstance(each, Mark)), None)
        section = field.annotation
        if mark is None and isinstance(section, type) and issubclass(section, BaseModel):
            yield from _marks(section, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", mark or Mark()


def selection(names: Iterable[str]) -> dict[str, bool | set[str]]:
    """Names of sections and of their fields, as `include` and `exclude` of pydantic take them."""
    chosen: dict[str, bool | set[str]] = {}
    for name in names:
        section, _, field = name.partition(".")
        fields = chosen.setdefault(section, set() if field else True)
        if isinstance(fields, set):
            fields.add(field)
    return chosen
