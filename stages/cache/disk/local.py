"""Files and folders on a disk of this machine: the methods of `BucketStorage` by system calls."""

import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, ClassVar, TypeVar

from zsseg.stages.cache.disk.durable import (
    PARTIAL,
    append_durably,
    make_folder,
    open_no_link,
    remove_durably,
    remove_folder_durably,
    sync,
    write_durably,
)
from zsseg.stages.file_bytes import again

_BLOCK = 1 << 20

Item = TypeVar("Item")
Result = TypeVar("Result")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalStorage:
    """A file or folder on a disk of this machine. `BucketStorage` has the same methods for a URL.

    Files are written whole or not at all, and what is written or removed survives a power cut. A
    passing error of the file system (EIO, ESTALE) is tried again for about a second.
    """

    path: Path

    can_append: ClassVar[bool] = True
    """Appending costs what is appended, and not the whole file again."""
    can_rename: ClassVar[bool] = True
    """A folder can be moved aside, or be shown when it is whole, in one step."""
    locks_outlive_processes: ClassVar[bool] = False
    """The operating system takes back the lock of a process that ends."""
    seconds_between_looks: ClassVar[float] = 0.0
    """A reader looks each time whether a file is still the same."""

    # One file

    def read(self) -> bytes:
        """A whole file; FileNotFoundError when there is none."""
        return again(self.path.read_bytes)

    def blocks(self) -> Iterator[bytes]:
        """A file piece by piece; FileNotFoundError when there is none."""
        with self.path.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block

    @contextmanager
    def open(self) -> Iterator[tuple[BinaryIO, int]]:
        """A file to read from, and its bytes."""
        with self.path.open("rb") as file:
            yield file, os.fstat(file.fileno()).st_size

    @contextmanager
    def parts(self) -> Iterator[Callable[[int, int], bytearray]]:
        """Reads parts of a file: the first byte, counted from the end where negative, and how many.

        There are fewer where the file ends.
        """
        with self.path.open("rb", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)

            def part(start: int, length: int) -> bytearray:
                begin = start if start >= 0 else max(0, size + start)
                read = bytearray(max(0, min(length, size - begin)))
                file.seek(begin)
                count = file.readinto(read)
                return read if count == len(read) else read[:count]

            yield part

    def write(self, content: bytes | memoryview) -> None:
        """Write a whole file, and its folder if there is none."""
        again(lambda: write_durably(self.path, content))

    def append(self, content: bytes) -> None:
        """Append to a file; a crash may leave a part of `content` at its end."""
        append_durably(self.path, content)

    def touch(self) -> None:
        """Make an empty file, or set the time of the one that is there to now."""
        with open_no_link(self.path, os.O_WRONLY | os.O_CREAT) as file:
            os.utime(file.fileno() if os.utime in os.supports_fd else self.path)

    def remove(self) -> None:
        """Delete a file, if it is there."""
        remove_durably(self.path)

    def exists(self) -> bool:
        """Is there a file or a folder of this name?"""
        return self.path.exists()

    def size(self) -> int | None:
        """Bytes of a file; None when there is none."""
        return self.path.stat().st_size if self.path.is_file() else None

    def modified(self) -> datetime:
        """When a file was last written; FileNotFoundError when there is none."""
        return datetime.fromtimestamp(self.path.stat().st_mtime, UTC)

    def state(self) -> object:
        """What is another value once a file was written again; FileNotFoundError without one."""
        found = self.path.stat()
        return (found.st_size, found.st_mtime_ns, found.st_ino)

    def is_link(self) -> bool:
        """Is this a symbolic link?"""
        return self.path.is_symlink()

    def is_folder(self) -> bool:
        """Is there a folder of this name?"""
        return self.path.is_dir()

    def is_plain_file(self) -> bool:
        """Is this a file, and neither a link nor a folder?"""
        return self.path.is_file() and not self.path.is_symlink()

    # All files below a folder

    def make_folder(self) -> None:
        """Make a folder and its parents, where they are missing."""
        make_folder(self.path)

    def remove_folder(self) -> None:
        """Delete a folder and all in it, if it is there."""
        remove_folder_durably(self.path)

    def remove_whatever_is_at(self, name: str) -> None:
        """Delete what is in the place of a file below a folder, be it a link or a folder.

        A file or link where one of its folders should be is deleted too.
        """
        for above in reversed([self.path / folder for folder in Path(name).parents][:-1]):
            if not above.is_dir() and (above.is_symlink() or above.exists()):
                above.unlink()
        file = self.path / name
        if file.is_dir() and not file.is_symlink():
            shutil.rmtree(file)
        elif file.is_symlink() or file.exists():
            file.unlink()
        if file.parent.is_dir():
            sync(file.parent)

    def remove_empty_folders(self, name: str) -> None:
        """Delete the folders below this one that a deleted file of this name leaves empty."""
        for parent in list(Path(name).parents)[:-1]:
            with suppress(OSError):  # not empty
                (self.path / parent).rmdir()

    def move(self, name: str, folder: str) -> None:
        """Move a file or folder within this folder into another folder within it; see `sync`."""
        (self.path / name).replace(self.path / folder / name)

    def folders_named(self, endings: tuple[str, ...]) -> list[Path]:
        """The folders directly in a folder, no links, whose names end in one of these; sorted."""
        return [
            folder
            for folder in self.subfolders()
            if folder.name.endswith(endings) and not folder.is_symlink()
        ]

    def remove_partial_files(self, written: Callable[[str], bool]) -> None:
        """Delete what a killed writer left half-written below a folder.

        `written`: are files of this name, relative to the folder, written here?
        """
        for name in self.list_files():
            if name.endswith(PARTIAL) and written(name.removesuffix(PARTIAL)):
                _log.info("removing %s, left by an interrupted run", self.path / name)
                (self.path / name).unlink()

    def sync(self) -> None:
        """Bring what was moved in or out of a folder to the disk."""
        sync(self.path)

    def subfolders(self) -> list[Path]:
        """The folders directly in a folder, sorted; none when it is not there."""
        if not self.path.is_dir():
            return []
        return sorted(entry for entry in self.path.iterdir() if entry.is_dir())

    def list_files(self) -> list[str]:
        """Every file and link below a folder, by its path relative to it with `/`."""
        found = []
        for parent, folders, names in os.walk(self.path):
            folders.sort()
            links = [name for name in folders if Path(parent, name).is_symlink()]
            found += [
                Path(parent, name).relative_to(self.path).as_posix()
                for name in sorted([*names, *links])
            ]
        return found

    def total_bytes(self) -> int:
        """Size of all files below a folder; those that vanish meanwhile (a writer's) count 0."""
        total = 0
        for parent, _, names in os.walk(self.path):
            for name in names:
                with suppress(FileNotFoundError):
                    total += Path(parent, name).stat().st_size
        return total

    def contains(self, file: Path) -> bool:
        """Does a file lie in this folder, whether either is there or not?"""
        return file.resolve().is_relative_to(self.path.resolve())

    def free_bytes(self) -> int:
        """Bytes that are free on the disk where a folder lies, or would be made."""
        folder = self.path
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def check_reachable(self) -> None:
        """Nothing: what is wrong with a path shows when it is opened."""

    @contextmanager
    def read_ahead(self) -> Iterator[None]:
        """Nothing: reading one file after the other costs no round trips."""
        yield

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """The function of every item, in order, one after the other."""
        return [function(item) for item in items]
