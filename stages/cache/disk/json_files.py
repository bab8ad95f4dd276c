"""JSON files: one object, or one object per line, read with errors that name the file."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.errors import CacheError

_LARGEST = 1 << 28  # bytes of one object: a seal names four million receipts in them
LARGEST_LINES = 1 << 32  # bytes of a file of lines of which nobody knows how many there should be

_NO_JSON = (ValueError, RecursionError)
"""What json.loads raises: for bytes that are no JSON or no text, and for a nesting of thousands."""


def canonical_json(value: object) -> str:
    """The one text form of a JSON value: keys sorted, no spaces, ASCII only, tuples as lists.

    TypeError or ValueError for NaN, infinity and anything that is not JSON (a NumPy scalar, a
    path).
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def plain(value: object) -> Any:
    """The value as it reads back from a file: tuples become lists, keys become strings."""
    return json.loads(canonical_json(value))


def json_lines(entries: Iterable[Mapping[str, Any]]) -> bytes:
    """One JSON object per line, each as `canonical_json`."""
    return "".join(f"{canonical_json(entry)}\n" for entry in entries).encode("ascii")


def read_bounded(path: StorePath, *, at_most: int = LARGEST_LINES) -> bytes:
    """A whole file that describes something; CacheError when it is larger than `at_most` bytes.

    Whatever OSError says that it is not there stays.
    """
    size = storage(path).size()
    if size is not None and size > at_most:
        raise CacheError(
            f"{path}: damaged, or not written by zsseg: it has {size:,} bytes, and at most "
            f"{at_most:,} of such a file are read. Put it back from a copy, or delete it and make "
            "it again"
        )
    return storage(path).read()


def read_json(path: StorePath) -> dict[str, Any]:
    """Read a JSON object; CacheError names the file when it is missing, cut short or no object."""
    try:
        value = json.loads(read_bounded(path, at_most=_LARGEST))
    except FileNotFoundError as error:
        raise CacheError(f"{path}: the file is missing") from error
    except _NO_JSON as error:
        raise CacheError(f"{path}: damaged, not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise CacheError(f"{path}: damaged, not a JSON object")
    return value


def read_json_lines(path: StorePath, *, at_most: int = LARGEST_LINES) -> list[dict[str, Any]]:
    """Read one JSON object per line; a missing file has none.

    CacheError names file and line, or the file when it has more than `at_most` bytes.
    """
    try:
        lines = read_bounded(path, at_most=at_most).splitlines()
    except (FileNotFoundError, NotADirectoryError):
        lines = []
    values = []
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
        except _NO_JSON as error:
            raise CacheError(f"{path}, line {number}: damaged ({error})") from error
        if not isinstance(value, dict):
            raise CacheError(f"{path}, line {number}: damaged, not a JSON object")
        values.append(value)
    return values


def sound_json_lines(path: StorePath) -> list[dict[str, Any]]:
    """The readable objects of a file that is no content; a killed command may leave half a line."""
    try:
        lines = read_bounded(path).splitlines()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return []
    values = []
    for line in lines:
        with suppress(*_NO_JSON):
            values.append(json.loads(line))
    return [value for value in values if isinstance(value, dict)]


def newest(entries: Sequence[Mapping[str, Any]], key: str) -> Any:
    """The value of `key` in the last entry that has it; None when none has."""
    return next((entry[key] for entry in reversed(entries) if key in entry), None)
