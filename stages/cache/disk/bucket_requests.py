"""Requests to object stores: the fsspec file system of a URL, with errors that name the URL.

Other processes and forks get file systems of their own: connections do not survive a fork.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zsseg.stages.cache.disk.store_path import UPath


@contextmanager
def requests_to(path: "UPath") -> Iterator[Any]:
    """The file system of a URL; within, whatever it raises becomes an OSError that names the URL.

    FileNotFoundError, FileExistsError and PermissionError stay what they are; errors of the
    libraries below (no network, no credentials) become ConnectionError.
    """
    try:
        yield file_system(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
    except OSError as error:
        # Libraries have kinds of their own, made and shown in other ways (aiohttp's).
        kind: Any = next(k for k in type(error).__mro__ if k.__module__ == "builtins")
        number = error.errno if isinstance(error.errno, int) else None
        text = f"{path}: {error.strerror or _shown(error)}"
        raise (kind(number, text) if number else kind(text)) from error
    except Exception as error:  # of botocore, aiohttp and their like
        raise ConnectionError(f"{path}: {type(error).__name__}: {error}") from error


def _shown(error: OSError) -> str:
    """The text of an error, or its kind where it has none."""
    try:
        return str(error) or type(error).__name__
    except AttributeError:  # made without what its text is made of
        return type(error).__name__


def file_system(path: "UPath") -> Any:
    """The file system of a URL, for calls that wait for their answer."""
    return _file_system(path.protocol, tuple(path.storage_options.items()), os.getpid())


@cache
def _file_system(protocol: str, options: tuple[tuple[str, Any], ...], process: int) -> Any:
    """One per process, for all its threads: fsspec itself would make one for each thread."""
    import fsspec

    return fsspec.filesystem(protocol, **dict(options))
