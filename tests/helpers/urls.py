"""URLs of stores in the tests."""

from pathlib import Path
from typing import TYPE_CHECKING

from zsseg.stages.cache.disk.store_path import store_path

if TYPE_CHECKING:
    from upath import UPath


def at_url(url: str) -> "UPath":
    """A URL as the product opens it."""
    path = store_path(url)
    assert not isinstance(path, Path)
    return path
