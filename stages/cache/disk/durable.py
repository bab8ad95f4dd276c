"""Changes of this machine's disk that survive a power cut: files written whole, folders, deletions.

A file is written to a temporary one beside it, brought to the disk (fsync) and renamed, so that a
crash leaves the old or the new content, never a part of it.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".partial"
"""Ending of temporary files; the next writer removes what a crash left."""


@contextmanager
def durable_file(path: Path) -> Iterator[BinaryIO]:
    """A new file to write: it replaces the one at `path` when the block ends without an error."""
    make_folder(path.parent)
    temporary = path.with_name(path.name + PARTIAL)
    temporary.unlink(missing_ok=True)  # of a killed writer, or a link that somebody has put there
    try:
        with open_no_link(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:  # Ctrl-C, or a full disk, which may need the room
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_durably(path: Path, content: bytes | memoryview) -> None:
    """Write a whole file so that a crash or power cut leaves either the old or the new content."""
    with durable_file(path) as file:
        file.write(content)


def append_durably(path: Path, content: bytes) -> None:
    """Append to a file; a crash may leave a part of `content` at its end."""
    with open_no_link(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def open_no_link(path: Path, flags: int) -> BinaryIO:
    """A file to write, opened with these flags; OSError for a symbolic link.

    In a folder that others can write to, a link would lead the writing to another file.
    """
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags, 0o666), "wb")


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


def remove_folder_durably(folder: Path) -> None:
    """Delete a folder and all in it, if it is there, so that a power cut does not bring it back."""
    if folder.exists():
        shutil.rmtree(folder)
        sync(folder.parent)


def sync(path: Path) -> None:
    """Bring a file or a folder to the disk (fsync); Windows has no fsync of folders."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
