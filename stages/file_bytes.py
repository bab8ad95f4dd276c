"""Reads files that a user names: ordinary ones, of bounded size, again after a passing error."""

import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from zsseg.stages.errors import UserError

Result = TypeVar("Result")

IMAGE_BYTES = 1 << 30
"""Bytes of an image file at most; the largest image that is decoded needs less uncompressed."""
TEXT_BYTES = 64 << 20
"""Bytes of a text file at most: names of half a million images."""

_PAUSES = (0.05, 0.25, 1.0)  # seconds before another attempt
# What a network file system answers for a moment.
PASSING = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR})
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}
_GROWTH = 2**20
"""Bytes by which a file may grow while it is read."""
_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}  # how a text of another encoding begins


def read_file(path: Path, *, at_most: int) -> bytes:
    """The bytes of a file.

    Raises OSError for what is no ordinary file (a pipe or a device would never end), for more than
    `at_most` bytes, and when it cannot be read; a passing error of the file system is tried again
    for about a second first.
    """
    return again(lambda: _read_once(path, at_most))


def again(attempt: Callable[[], Result]) -> Result:
    """The result of `attempt`, which is made up to three times more after a passing error.

    A passing error is one that a network file system answers for a moment. What stays, for about a
    second, and any other error is raised.
    """
    for pause in _PAUSES:
        try:
            return attempt()
        except OSError as error:
            if error.errno not in PASSING:
                raise
        time.sleep(pause)
    return attempt()


def may_have_passed(reason: str) -> bool:
    """Is it an error that passes which the text of an error is about?"""
    return any(f"[Errno {number}]" in reason for number in PASSING)


def _read_once(path: Path, at_most: int) -> bytes:
    # Opening a pipe waits for its writer; with O_NONBLOCK it does not.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(f"it is {_KINDS.get(stat.S_IFMT(found.st_mode), 'special')}, not a file")
        if found.st_size > at_most:
            raise OSError(
                f"{found.st_size / 2**20:,.0f} MiB are more than the {at_most >> 20:,} MiB that "
                "are read"
            )
        with open(descriptor, "rb", closefd=False) as stream:
            # Bounded again: a file that grows while it is read must not fill the memory. Not by
            # `at_most`: Python asks the system for as much memory before it reads.
            return stream.read(min(at_most, found.st_size + _GROWTH))
    finally:
        os.close(descriptor)


def read_text_file(path: Path, *, kind: str = "file", error: type[UserError] = UserError) -> str:
    """The text of a UTF-8 file, with or without a byte order mark; lines end in '\\n'.

    Raises `error`, naming the file, for another encoding and when it is not there (`kind` says what
    is missing) or cannot be read.
    """
    try:
        content = read_file(path, at_most=TEXT_BYTES)
    except FileNotFoundError as reason:
        raise error(f"{path}: there is no such {kind}. Correct the path") from reason
    except OSError as reason:
        raise error(f"{path}: cannot be read ({reason}). Mend that, or give another") from reason
    found = _MARKS.get(content[:2])
    if found is None and b"\0" in content[:4096]:
        found = "binary, or a text in UTF-16"
    try:
        if found is None:
            return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as reason:
        line = content.count(b"\n", 0, reason.start) + 1
        found = f"another encoding: byte 0x{content[reason.start]:02x} in line {line}"
    raise error(f"{path}: is not UTF-8 text ({found}). Save it as UTF-8")
