"""Files that survive a crash as the old or the new one, and JSON that names its file.

A path may lead elsewhere (see `place`): then a file is written and read by one request.
"""

import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from zsseg.stages.cache.disk import remote
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.errors import ResourceError

PARTIAL = ".partial"
"""Ending of files under way, here and in zarr; the next writer sweeps what a crash left."""

_BLOCK = 1 << 20

Item = TypeVar("Item")
Result = TypeVar("Result")

_log = logging.getLogger(__name__)


def write_durably(path: StorePath, content: bytes | memoryview) -> None:
    """Write a whole file so that a crash or power cut leaves either the old or the new content."""
    if not isinstance(path, Path):
        remote.put(path, bytes(content))
        return
    make_folder(path.parent)
    temporary = path.with_name(path.name + PARTIAL)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:  # Ctrl-C, or a full disk, which may need the room
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def make_folder(path: StorePath) -> None:
    """Make a folder and its parents so that a power cut does not lose them."""
    if isinstance(path, Path) and not path.is_dir():  # elsewhere there are no folders
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def remove_durably(path: StorePath) -> None:
    """Delete a file, if it is there, so that a power cut does not bring it back."""
    if not isinstance(path, Path):
        remote.delete(path)
    elif path.exists():
        path.unlink()
        sync(path.parent)


def remove_folder(folder: StorePath) -> None:
    """Delete a folder and all in it, if it is there, so that a power cut does not bring it back."""
    if not isinstance(folder, Path):
        remote.delete_files(folder, list(remote.sizes(folder)))
    elif folder.exists():
        shutil.rmtree(folder)
        sync(folder.parent)


def sync(path: Path) -> None:
    """fsync a file or a folder; Windows has no fsync of folders."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: StorePath) -> None:
    """Delete what a killed writer left half-written below `folder`."""
    if not isinstance(folder, Path):  # nothing is written by halves there
        return
    for path in folder.rglob(f"*{PARTIAL}"):
        _log.info("removing %s, left by an interrupted run", path)
        path.unlink()


def read_bytes(path: StorePath) -> bytes:
    """A whole file; FileNotFoundError when there is none."""
    return path.read_bytes() if isinstance(path, Path) else remote.get(path)


def exists(path: StorePath) -> bool:
    """Is there a file of this name, or (on this machine) a folder?"""
    return path.exists() if isinstance(path, Path) else remote.size(path) is not None


def file_size(path: StorePath) -> int | None:
    """Bytes of a file; None when there is none."""
    if not isinstance(path, Path):
        return remote.size(path)
    return path.stat().st_size if path.is_file() else None


def subfolders(folder: StorePath) -> list[StorePath]:
    """The folders in a folder, sorted; none when it is not there."""
    if not isinstance(folder, Path):
        return [folder / name for name in remote.subfolders(folder)]
    return sorted(entry for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


def list_files(folder: StorePath) -> list[str]:
    """Every file and link below a folder, by its path relative to it with `/`."""
    if not isinstance(folder, Path):
        return list(remote.sizes(folder))
    found = []
    for parent, folders, names in os.walk(folder):
        folders.sort()
        links = [name for name in folders if Path(parent, name).is_symlink()]
        found += [
            Path(parent, name).relative_to(folder).as_posix() for name in sorted([*names, *links])
        ]
    return found


def folder_bytes(folder: StorePath) -> int:
    """Size of all files below a folder; those that vanish meanwhile (a writer's) count 0."""
    if not isinstance(folder, Path):
        return sum(remote.sizes(folder).values())
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(parent, name).stat().st_size
    return total


@contextmanager
def read_ahead(folder: StorePath) -> Iterator[None]:
    """Within, files below a folder elsewhere are listed and read at once, as they are on entering.

    Otherwise each would be a round trip after the other. On this machine nothing is read ahead.
    """
    if isinstance(folder, Path):
        yield
    else:
        with remote.read_ahead(folder):
            yield


def each(
    function: Callable[[Item], Result], items: Iterable[Item], *, where: StorePath
) -> list[Result]:
    """The function of every item, in order; in threads where each waits for a place elsewhere."""
    if isinstance(where, Path):
        return [function(item) for item in items]
    return remote.in_threads(function, list(items))


def touch(path: StorePath) -> None:
    """Make an empty file, or set the time of the one that is there to now."""
    if isinstance(path, Path):
        path.touch()
    else:
        remote.put(path, b"")


def modified(path: StorePath) -> datetime:
    """When a file was last written; FileNotFoundError when there is none."""
    if isinstance(path, Path):
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return remote.modified(path)


def free_bytes(path: StorePath) -> int | None:
    """Bytes that are free on a folder's disk; None elsewhere, where nobody tells."""
    return shutil.disk_usage(path).free if isinstance(path, Path) else None


def free_text(path: StorePath) -> str:
    """' (123 MiB free)' for a message; empty where nobody tells."""
    try:
        free = free_bytes(path)
    except OSError:  # the disk that is told of is gone
        return ""
    return "" if free is None else f" ({free / 2**20:.0f} MiB free)"


@contextmanager
def disk_errors(store: StorePath, what: str) -> Iterator[None]:
    """Turn an OSError of writing `what` into a ResourceError: what is safe, and what to do."""
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"{store}: cannot write {what}: {error}{free_text(store)}. What is committed is safe: "
            "free space, or mend the disk, and run the same command again"
        ) from error


def append_durably(path: StorePath, content: bytes) -> None:
    """Append to a file; a crash may leave a part of `content` at its end."""
    if not isinstance(path, Path):  # objects cannot be appended to
        before = remote.get(path) if exists(path) else b""
        remote.put(path, before + content)
        return
    with path.open("ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
