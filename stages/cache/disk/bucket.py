"""Objects at a URL (S3 and whatever else fsspec reads): the methods of `LocalStorage` by requests.

An object is put whole or not at all, and stays: no partial files, no fsync, no folders. Reading and
writing one is tried again after a passing error, beside what fsspec's libraries try again.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, TypeVar

from zsseg.stages.cache.disk.bucket_ahead import AHEAD, Ahead, ahead_of
from zsseg.stages.cache.disk.bucket_requests import requests_to
from zsseg.stages.cache.disk.store_path import BUCKETS, CREDENTIALS_ADVICE
from zsseg.stages.errors import ResourceError
from zsseg.stages.file_bytes import again

if TYPE_CHECKING:
    from zsseg.stages.cache.disk.store_path import UPath

_BLOCK = 1 << 23  # bytes of one request of a file that is read in pieces
_THREADS = 32  # requests at a time; the time goes into waiting
_AHEAD_SUFFIX = ".json"  # manifest, seal, receipts, metadata of arrays
_MOST_AHEAD = 1 << 30  # bytes that are read ahead; what is beyond is read when it is needed

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class BucketStorage:
    """An object, or all objects below a URL. `LocalStorage` has the same methods for a disk."""

    path: "UPath"

    can_append: ClassVar[bool] = False
    """Appending costs what is appended, and not the whole file again."""
    can_rename: ClassVar[bool] = False
    """Objects stay where they are: no folder can be moved aside, or shown when it is whole."""
    locks_outlive_processes: ClassVar[bool] = True
    """The object that is a lock stays when its writer is killed."""
    seconds_between_looks: ClassVar[float] = 1.0
    """A reader looks this seldom whether a file is still the same: each look is a round trip."""

    # One file

    def read(self) -> bytes:
        """A whole file; FileNotFoundError when there is none."""
        if ahead := ahead_of(self.path):
            if self.path.path not in ahead.sizes:
                raise FileNotFoundError(str(self.path))
            if self.path.path in ahead.content:
                return ahead.content[self.path.path]
        return again(self._fetched)

    def blocks(self) -> Iterator[bytes]:
        """A file piece by piece; FileNotFoundError when there is none."""
        length = self.size()
        if length is None:
            raise FileNotFoundError(str(self.path))
        if length <= _BLOCK:
            yield self.read()
            return
        for start in range(0, length, _BLOCK):
            yield self._fetched(start, min(start + _BLOCK, length))

    @contextmanager
    def open(self) -> Iterator[tuple[BinaryIO, int]]:
        """A file to read from, and its bytes."""
        content = self.read()
        yield io.BytesIO(content), len(content)

    @contextmanager
    def parts(self) -> Iterator[Callable[[int, int], bytes]]:
        """Reads parts of a file: the first byte, counted from the end where negative, and how many.

        There are fewer where the file ends.
        """

        def part(start: int, length: int) -> bytes:
            end = None if start < 0 else start + length
            return again(lambda: self._fetched(start, end))

        yield part

    def write(self, content: bytes | memoryview) -> None:
        """Write a whole file: readers see the old or the new one."""
        content = bytes(content)

        def put() -> None:
            with requests_to(self.path) as files:
                files.pipe_file(self.path.path, content)

        again(put)
        if ahead := ahead_of(self.path):
            ahead.sizes[self.path.path] = len(content)
            ahead.content[self.path.path] = content

    def create(self, content: bytes) -> None:
        """Write a file that is not there yet; FileExistsError when it is."""
        try:
            with requests_to(self.path) as files:
                files.pipe_file(self.path.path, content, mode="create")
        except FileExistsError:
            raise
        except OSError as error:  # "precondition failed" has no exception of its own everywhere
            if self.size() is None:
                raise
            raise FileExistsError(str(self.path)) from error

    def append(self, content: bytes) -> None:
        """Write a file again with more at its end: objects cannot be appended to."""
        self.write((self.read() if self.exists() else b"") + content)

    def touch(self) -> None:
        """Make a file empty, which sets its time to now."""
        self.write(b"")

    def remove(self) -> None:
        """Delete a file, if it is there."""
        with suppress(FileNotFoundError), requests_to(self.path) as files:
            files.rm_file(self.path.path)
        if ahead := ahead_of(self.path):
            ahead.sizes.pop(self.path.path, None)
            ahead.content.pop(self.path.path, None)

    def exists(self) -> bool:
        """Is there a file of this name?"""
        return self.size() is not None

    def size(self) -> int | None:
        """Bytes of a file; None when there is none."""
        if ahead := ahead_of(self.path):
            return ahead.sizes.get(self.path.path)
        try:
            with requests_to(self.path) as files:
                info: Mapping[str, Any] = files.info(self.path.path)
        except FileNotFoundError:
            return None
        return int(info["size"]) if info["type"] == "file" else None

    def modified(self) -> datetime:
        """When a file was last written; FileNotFoundError when there is none."""
        with requests_to(self.path) as files:
            when: datetime = files.modified(self.path.path)
        return when

    def state(self) -> object:
        """What is another value once a file was written again; FileNotFoundError without one."""
        with requests_to(self.path) as files:
            return files.ukey(self.path.path)

    def is_link(self) -> bool:
        """Objects are no links."""
        return False

    def is_folder(self) -> bool:
        """Objects are no folders."""
        return False

    def is_plain_file(self) -> bool:
        """What is listed below a URL is an object, and so a plain file."""
        return True

    # All files below a folder

    def make_folder(self) -> None:
        """Nothing: there are no folders."""

    def remove_folder(self) -> None:
        """Delete all files below a folder."""
        self.remove_files(list(self.sizes()))

    def remove_files(self, names: list[str]) -> None:
        """Delete files, named relative to a folder, in as few requests as it takes."""
        if names:
            paths = [(self.path / name).path for name in names]
            with requests_to(self.path) as files:
                files.rm(paths)
            if ahead := ahead_of(self.path):
                for path in paths:
                    ahead.sizes.pop(path, None)
                    ahead.content.pop(path, None)

    def remove_whatever_is_at(self, name: str) -> None:
        """Delete the file of this name below a folder, if it is there."""
        BucketStorage(self.path / name).remove()

    def remove_empty_folders(self, name: str) -> None:
        """Nothing: there are no folders."""

    def move(self, name: str, folder: str) -> None:
        """UnsupportedOperation: objects cannot be moved."""
        raise io.UnsupportedOperation(f"{self.path / name}: objects cannot be moved")

    def folders_named(self, endings: tuple[str, ...]) -> list[Path]:
        """None: nothing is renamed here."""
        return []

    def remove_partial_files(self, written: Callable[[str], bool]) -> None:
        """Nothing: objects are never half written."""

    def sync(self) -> None:
        """Nothing: what a request has answered is stored."""

    def subfolders(self) -> list["UPath"]:
        """The folders directly in a folder, sorted; none when it is not there. One listing."""
        try:
            with requests_to(self.path) as files:
                entries: list[dict[str, Any]] = files.ls(self.path.path, detail=True)
        except FileNotFoundError:
            return []
        folders = (entry["name"] for entry in entries if entry["type"] == "directory")
        names = sorted(name.rstrip("/").rpartition("/")[2] for name in folders)
        return [self.path / name for name in names]

    def list_files(self) -> list[str]:
        """Every file below a folder, by its path relative to it with `/`, sorted; one listing."""
        return list(self.sizes())

    def sizes(self) -> dict[str, int]:
        """Bytes of every file below a folder, by its path relative to it, sorted; one listing."""
        root = self.path.path.rstrip("/")
        ahead = ahead_of(self.path)
        found = ahead.sizes if ahead else self._listed()
        return {
            name.removeprefix(f"{root}/"): length
            for name, length in sorted(found.items())
            if name.startswith(f"{root}/")
        }

    def total_bytes(self) -> int:
        """Size of all files below a folder."""
        return sum(self.sizes().values())

    def contains(self, file: Path) -> bool:
        """A file of this machine lies in no bucket."""
        return False

    def free_bytes(self) -> None:
        """None: an object store does not say how much."""
        return

    def check_reachable(self) -> None:
        """ResourceError when a URL cannot be used: no bucket, permission or network.

        A folder that is not there yet is none of these.
        """
        path = self.path
        try:
            if self._is_there() or path.protocol not in BUCKETS:
                return
            bucket = path.path.split("/")[0]
            if not self._has_bucket(bucket):
                raise ResourceError(
                    f"{path}: there is no bucket {bucket}. Create it, or correct the URL"
                )
        except PermissionError as error:
            raise ResourceError(f"{path}: no permission: {error}. {CREDENTIALS_ADVICE}") from error
        except OSError as error:
            raise ResourceError(
                f"{path}: cannot be reached: {error}. {CREDENTIALS_ADVICE}"
            ) from error

    @contextmanager
    def read_ahead(self) -> Iterator[None]:
        """Within, in this thread, files below a folder are as they were on entering.

        They are read all at once, as each would otherwise be a round trip after the other: one
        listing gives sizes, and metadata (.json) is fetched by many requests at a time. What this
        thread writes and deletes within is seen.
        """
        found = self._listed()
        described = sorted((n for n in found if n.endswith(_AHEAD_SUFFIX)), key=found.__getitem__)
        sums = accumulate(found[name] for name in described)
        names = [name for name, total in zip(described, sums, strict=True) if total <= _MOST_AHEAD]
        ends = [None] * len(names)
        with requests_to(self.path) as files:
            read: list[bytes | Exception] = files.cat_ranges(names, ends, ends)
        # What could not be read is asked for again by whoever needs it, and fails there.
        content = {
            name: one for name, one in zip(names, read, strict=True) if isinstance(one, bytes)
        }
        token = AHEAD.set(Ahead(f"{self.path.path.rstrip('/')}/", found, content))
        try:
            yield
        finally:
            AHEAD.reset(token)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """The function of every item, in order; many requests wait at the same time."""
        every = list(items)
        if not every:
            return []
        with ThreadPoolExecutor(min(_THREADS, len(every))) as pool:
            return list(pool.map(function, every))

    def _fetched(self, start: int | None = None, end: int | None = None) -> bytes:
        """A file, or a part of it, by one request."""
        with requests_to(self.path) as files:
            content: bytes = files.cat_file(self.path.path, start=start, end=end)
        return content

    def _listed(self) -> dict[str, int]:
        """Bytes of every file below the folder, by its whole path."""
        with requests_to(self.path) as files:
            found: dict[str, dict[str, Any]] = files.find(self.path.path, detail=True)
        return {name: int(info["size"]) for name, info in found.items() if info["type"] == "file"}

    def _is_there(self) -> bool:
        """Is there a file of this name, or anything below it?"""
        try:
            with requests_to(self.path) as files:
                files.info(self.path.path)
        except FileNotFoundError:
            return False
        return True

    def _has_bucket(self, bucket: str) -> bool:
        """Is there this bucket? Where listing it is forbidden, it is taken to be there."""
        try:
            with requests_to(self.path) as files:
                return bool(files.exists(bucket))
        except PermissionError:
            return True
