"""What was read ahead of a folder at a URL, for the thread that has asked for it."""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zsseg.stages.cache.disk.store_path import UPath


@dataclass(frozen=True)
class Ahead:
    """What is below a folder, as `read_ahead` found it: sizes of all files, content of some."""

    root: str
    sizes: dict[str, int]
    content: dict[str, bytes]


AHEAD: ContextVar[Ahead | None] = ContextVar("AHEAD", default=None)


def ahead_of(path: "UPath") -> Ahead | None:
    """What was read ahead of the folder that a path lies in."""
    ahead = AHEAD.get()
    return ahead if ahead and f"{path.path.rstrip('/')}/".startswith(ahead.root) else None
