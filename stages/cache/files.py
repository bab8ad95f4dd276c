"""Files that survive a crash as the old or the new one, and JSON that names its file."""

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import xxhash

from stages.cache.recipe import canonical_json
from stages.errors import CacheError

PARTIAL = ".partial"
"""Ending of files under way, here and in zarr; the next writer sweeps what a crash left."""

_BLOCK = 1 << 20

_log = logging.getLogger(__name__)


def write_durably(path: Path, content: bytes) -> None:
    """Write a whole file so that a crash or power cut leaves either the old or the new content."""
    make_folder(path.parent)
    temporary = path.with_name(path.name + PARTIAL)
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder and its parents so that a power cut does not lose them."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def remove_durably(path: Path) -> None:
    """Delete a file, if it is there, so that a power cut does not bring it back."""
    if path.exists():
        path.unlink()
        sync(path.parent)


def sync(path: Path) -> None:
    """fsync a file or a folder; Windows has no fsync of folders."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Delete what a killed writer left half-written below `folder`."""
    for path in folder.rglob(f"*{PARTIAL}"):
        _log.info("removing %s, left by an interrupted run", path)
        path.unlink()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; CacheError names the file when it is missing, cut short or no object."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CacheError(f"{path}: the file is missing") from error
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError
        raise CacheError(f"{path}: damaged, not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise CacheError(f"{path}: damaged, not a JSON object")
    return value


def json_lines(entries: Iterable[Mapping[str, Any]]) -> bytes:
    """One JSON object per line, in canonical spelling."""
    return "".join(f"{canonical_json(entry)}\n" for entry in entries).encode("ascii")


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read one JSON object per line; no file, no objects; CacheError names file and line."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    values = []
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
        except ValueError as error:
            raise CacheError(f"{path}, line {number}: damaged ({error})") from error
        if not isinstance(value, dict):
            raise CacheError(f"{path}, line {number}: damaged, not a JSON object")
        values.append(value)
    return values


def hash_file(path: Path) -> str:
    """128-bit XXH3 of a file's bytes, 32 hexadecimal digits."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def folder_bytes(folder: Path) -> int:
    """Size of all files below a folder; those that vanish meanwhile (a writer's) count 0."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(parent, name).stat().st_size
    return total


def append_durably(path: Path, content: bytes) -> None:
    """Append to a file; a crash may leave a part of `content` at its end."""
    with path.open("ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def newest(entries: Sequence[Mapping[str, Any]], key: str) -> Any:
    """The value of `key` in the last entry that has it; None when none has."""
    return next((entry[key] for entry in reversed(entries) if key in entry), None)
