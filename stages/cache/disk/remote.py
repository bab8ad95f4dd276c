"""Whole files in and out of a place elsewhere (object stores, fsspec): one request each.

Putting an object is atomic: no partial files, no fsync, no folders. Other processes and forks get
file systems of their own: connections do not survive a fork.
"""

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from zsseg.stages.cache.disk.store_path import BUCKETS, CREDENTIALS_ADVICE, StorePath
from zsseg.stages.errors import ResourceError

if TYPE_CHECKING:
    from zsseg.stages.cache.disk.store_path import UPath

_BLOCK = 1 << 23  # bytes of one request of a file that is read in pieces
_THREADS = 32  # requests at a time; the time goes into waiting
_AHEAD_SUFFIX = ".json"  # manifest, seal, receipts, metadata of arrays

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class _Ahead:
    """What is below a folder, as `read_ahead` found it: sizes of all files, content of some."""

    root: str
    sizes: dict[str, int]
    content: dict[str, bytes]


_AHEAD: ContextVar[_Ahead | None] = ContextVar("_AHEAD", default=None)


def get(path: "UPath") -> bytes:
    """A whole file; FileNotFoundError when there is none."""
    if ahead := _ahead(path):
        if path.path not in ahead.sizes:
            raise FileNotFoundError(str(path))
        if path.path in ahead.content:
            return ahead.content[path.path]
    content: bytes = _told(path, _files(path).cat_file, path.path)
    return content


def blocks(path: "UPath") -> Iterator[bytes]:
    """A file piece by piece; FileNotFoundError when there is none."""
    length = size(path)
    if length is None:
        raise FileNotFoundError(str(path))
    if length <= _BLOCK:
        yield get(path)
        return
    for start in range(0, length, _BLOCK):
        end = min(start + _BLOCK, length)
        yield _told(path, _files(path).cat_file, path.path, start=start, end=end)


def put(path: "UPath", content: bytes) -> None:
    """Write a whole file: readers see the old or the new one."""
    _told(path, _files(path).pipe_file, path.path, content)
    if ahead := _ahead(path):
        ahead.sizes[path.path] = len(content)
        ahead.content[path.path] = content


def create(path: "UPath", content: bytes) -> None:
    """Write a file that is not there yet; FileExistsError when it is."""
    try:
        _told(path, _files(path).pipe_file, path.path, content, mode="create")
    except FileExistsError:
        raise
    except OSError as error:  # "precondition failed" has no exception of its own everywhere
        if size(path) is None:
            raise
        raise FileExistsError(str(path)) from error


def delete(path: "UPath") -> None:
    """Delete a file, if it is there."""
    with suppress(FileNotFoundError):
        _told(path, _files(path).rm_file, path.path)
    if ahead := _ahead(path):
        ahead.sizes.pop(path.path, None)
        ahead.content.pop(path.path, None)


def delete_files(folder: "UPath", names: list[str]) -> None:
    """Delete files, named relative to a folder, in as few requests as it takes."""
    if names:
        paths = [(folder / name).path for name in names]
        _told(folder, _files(folder).rm, paths)
        if ahead := _ahead(folder):
            for path in paths:
                ahead.sizes.pop(path, None)
                ahead.content.pop(path, None)


def size(path: "UPath") -> int | None:
    """Bytes of a file; None when there is none."""
    if ahead := _ahead(path):
        return ahead.sizes.get(path.path)
    try:
        info: Mapping[str, Any] = _told(path, _files(path).info, path.path)
    except FileNotFoundError:
        return None
    return int(info["size"]) if info["type"] == "file" else None


def sizes(folder: "UPath") -> dict[str, int]:
    """Bytes of every file below a folder, by its path relative to it, sorted; one listing."""
    root = folder.path.rstrip("/")
    ahead = _ahead(folder)
    found = ahead.sizes if ahead else _listed(folder)
    return {
        name.removeprefix(f"{root}/"): length
        for name, length in sorted(found.items())
        if name.startswith(f"{root}/")
    }


def modified(path: "UPath") -> datetime:
    """When a file was last written; FileNotFoundError when there is none."""
    when: datetime = _told(path, _files(path).modified, path.path)
    return when


def subfolders(folder: "UPath") -> list[str]:
    """Names of the folders directly in a folder, sorted; one listing."""
    try:
        entries: list[dict[str, Any]] = _told(folder, _files(folder).ls, folder.path, detail=True)
    except FileNotFoundError:
        return []
    folders = (entry["name"] for entry in entries if entry["type"] == "directory")
    return sorted(name.rstrip("/").rpartition("/")[2] for name in folders)


def is_there(path: "UPath") -> bool:
    """Is there a file of this name, or anything below it?"""
    try:
        _told(path, _files(path).info, path.path)
    except FileNotFoundError:
        return False
    return True


def has_bucket(path: "UPath") -> bool:
    """Is there the bucket of a URL? Who may not list it is not told, and is believed."""
    try:
        return bool(_told(path, _files(path).exists, path.path.split("/")[0]))
    except PermissionError:
        return True


def check_reachable(path: StorePath) -> None:
    """ResourceError when a place elsewhere cannot be used: no bucket, permission or network.

    A folder that is not there yet is none of these. A path of this machine is not looked at.
    """
    if isinstance(path, Path):
        return
    try:
        if is_there(path) or path.protocol not in BUCKETS:
            return
        bucket = path.path.split("/")[0]
        if not has_bucket(path):
            raise ResourceError(f"{path}: there is no bucket {bucket}. Make it, or mend the URL")
    except PermissionError as error:
        raise ResourceError(f"{path}: no permission: {error}. {CREDENTIALS_ADVICE}") from error
    except OSError as error:
        raise ResourceError(f"{path}: cannot be reached: {error}. {CREDENTIALS_ADVICE}") from error


@contextmanager
def read_ahead(folder: "UPath") -> Iterator[None]:
    """Within, in this thread, files below a folder are as they were on entering, read all at once.

    One listing gives sizes; metadata (.json) is fetched by many requests at a time. What this
    thread writes and deletes within is seen.
    """
    found = _listed(folder)
    names = [name for name in found if name.endswith(_AHEAD_SUFFIX)]
    files = _files(folder)
    read: list[bytes | Exception] = _told(
        folder, files.cat_ranges, names, [None] * len(names), [None] * len(names)
    )
    # What could not be read is asked for again, and told, by whoever needs it.
    content = {name: one for name, one in zip(names, read, strict=True) if isinstance(one, bytes)}
    token = _AHEAD.set(_Ahead(f"{folder.path.rstrip('/')}/", found, content))
    try:
        yield
    finally:
        _AHEAD.reset(token)


def in_threads(function: Callable[[Any], R], items: list[Any]) -> list[R]:
    """The function of every item, in order; many requests wait at the same time."""
    if not items:
        return []
    with ThreadPoolExecutor(min(_THREADS, len(items))) as pool:
        return list(pool.map(function, items))


def for_zarr(path: "UPath") -> Any:
    """The asynchronous file system of a place, as zarr needs it."""
    return _file_system(path.protocol, tuple(path.storage_options.items()), os.getpid(), True)


def _files(path: "UPath") -> Any:
    return _file_system(path.protocol, tuple(path.storage_options.items()), os.getpid(), False)


@cache
def _file_system(
    protocol: str, options: tuple[tuple[str, Any], ...], process: int, asynchronous: bool
) -> Any:
    """One per process, for all its threads: fsspec itself would make one for each thread."""
    import fsspec
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

    if not asynchronous:
        return fsspec.filesystem(protocol, **dict(options))
    if fsspec.get_filesystem_class(protocol).async_impl:
        return fsspec.filesystem(protocol, asynchronous=True, **dict(options))
    return AsyncFileSystemWrapper(fsspec.filesystem(protocol, **dict(options)), asynchronous=True)


def _listed(folder: "UPath") -> dict[str, int]:
    found: dict[str, dict[str, Any]] = _told(folder, _files(folder).find, folder.path, detail=True)
    return {name: int(info["size"]) for name, info in found.items() if info["type"] == "file"}


def _ahead(path: "UPath") -> _Ahead | None:
    ahead = _AHEAD.get()
    return ahead if ahead and f"{path.path.rstrip('/')}/".startswith(ahead.root) else None


def _told(path: "UPath", call: Callable[P, Any], /, *arguments: P.args, **options: P.kwargs) -> Any:
    """The call; what the libraries below raise becomes an OSError that names the URL."""
    try:
        return call(*arguments, **options)
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
    except OSError as error:
        text = f"{path}: {error.strerror or error}"
        raise (type(error)(error.errno, text) if error.errno else type(error)(text)) from error
    except Exception as error:  # of botocore, aiohttp and their like: no network, no credentials
        raise ConnectionError(f"{path}: {type(error).__name__}: {error}") from error
