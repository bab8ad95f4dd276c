"""One writer per store: a lock of the operating system, which ends with its process.

A place elsewhere knows no such lock. There the file that names the writer is the lock: created by a
request that fails when it exists. It outlives a killed process: a process of the same machine that
is gone is recognised, for another machine's there is `zsseg cache unlock`.
"""

import json
import logging
import os
import socket
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from zsseg.stages.cache.disk import remote
from zsseg.stages.cache.disk.files import exists, read_bytes
from zsseg.stages.cache.disk.json_files import canonical_json
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.errors import CacheError, CacheLocked

if TYPE_CHECKING:
    from zsseg.stages.cache.disk.store_path import UPath

LOCK = ".lock"
HOLDER = ".writer.json"

_EXCLUSIVE = frozenset({"s3", "s3a", "gs", "gcs", "memory"})
"""Protocols whose file systems create a file only if there is none, in one step."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lock:
    """A lock that this process holds; `holder` is the content of the file that says so."""

    inner: FileLock
    holder: bytes
    died: str | None = None
    """Who held it before and ended without giving it back, as a killed process does."""


def acquire(path: StorePath) -> Lock:
    """Lock a store for this process; CacheLocked names who holds it."""
    here = path / LOCK if isinstance(path, Path) else _lock_of_this_machine(path)
    inner = FileLock(here, timeout=0, thread_local=False)
    try:
        inner.acquire()
    except Timeout as error:
        raise CacheLocked(
            f"{path}: {held_by(path)} writes this store. Wait until it ends; the lock ends with it"
        ) from error
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if isinstance(path, Path):
        died = held_by(path) if (path / HOLDER).exists() else None
        lock = Lock(inner, canonical_json(holder).encode(), died)
        try:
            (path / HOLDER).write_bytes(lock.holder)
        except BaseException:
            release(path, lock)
            raise
        return lock
    lock = Lock(inner, canonical_json(holder | {"token": uuid.uuid4().hex}).encode())
    try:
        _create(path, lock.holder)
    except BaseException:
        inner.release()
        raise
    return lock


def release(path: StorePath, lock: Lock) -> None:
    """Give the lock back."""
    try:
        if isinstance(path, Path):
            (path / HOLDER).unlink(missing_ok=True)
        elif _content(path) == lock.holder:  # else somebody has taken it away meanwhile
            remote.delete(path / HOLDER)
    finally:
        lock.inner.release()


@contextmanager
def locked(path: StorePath) -> Iterator[None]:
    """Hold a store's lock; CacheLocked names who has it."""
    lock = acquire(path)
    try:
        yield
    finally:
        release(path, lock)


def check_held(path: StorePath, lock: Lock) -> None:
    """CacheError when a lock elsewhere was taken away (`unlock`) while this process wrote."""
    if not isinstance(path, Path) and _content(path) != lock.holder:
        raise CacheError(
            f"{path}: the lock of this process was taken away while it wrote, and another may have "
            "written too. Run the same command again: it checks the store"
        )


def holder_of(path: StorePath) -> str | None:
    """Who is named as the writer of a store elsewhere; None when nobody is, or it is a path here.

    On this machine a lock ends with its process, and never has to be taken away.
    """
    if isinstance(path, Path) or not exists(path / HOLDER):
        return None
    return held_by(path)


def unlock(path: StorePath) -> None:
    """Take a lock elsewhere away. Whoever still writes finds out when it wants to finish."""
    if not isinstance(path, Path):
        remote.delete(path / HOLDER)


def _create(path: "UPath", holder: bytes) -> None:
    if path.protocol not in _EXCLUSIVE:
        _log.warning(
            "%s: %s:// cannot create a file only if there is none, so two writers that begin at "
            "the same moment are not kept apart: see to it that there is one",
            path,
            path.protocol,
        )
    file = path / HOLDER
    try:
        remote.create(file, holder)
    except FileExistsError as error:
        if _content(path) == holder:  # the answer to the first request was lost, and it repeated
            return
        if not _ended(path):
            raise CacheLocked(
                f"{path}: {held_by(path)} writes this store. Wait until it ends. If it was killed, "
                f"`zsseg cache unlock {path}` takes its lock away"
            ) from error
        _log.warning("%s: taking over from %s, which has ended", path, held_by(path))
        remote.delete(file)
        try:
            remote.create(file, holder)
        except FileExistsError as other:
            raise CacheLocked(f"{path}: {held_by(path)} writes this store") from other


def _ended(path: "UPath") -> bool:
    """Is the writer a process of this machine that is gone?

    This process has the lock of this machine, so no other one here decides the same.
    """
    try:
        holder = json.loads(_content(path) or b"")
        if holder["host"] != socket.gethostname() or os.name == "nt":  # there kill(0) kills
            return False
        if holder["pid"] == os.getpid():  # given anew, as to the first process of a container
            return True
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, KeyError, TypeError):  # another user's process, or damaged
        return False
    return False


def _lock_of_this_machine(path: "UPath") -> Path:
    """A lock between the processes of one user here, which ends with its process as others do."""
    user = os.getuid() if hasattr(os, "getuid") else ""  # on Windows each has a folder of his own
    name = sha256(str(path).encode()).hexdigest()[:32]
    return Path(tempfile.gettempdir()) / f"zsseg-{user}-{name}.lock"


def _content(path: "UPath") -> bytes | None:
    try:
        return remote.get(path / HOLDER)
    except FileNotFoundError:
        return None


def held_by(path: StorePath) -> str:
    """Who holds the lock of a folder, for a message."""
    try:
        holder: dict[str, Any] = json.loads(read_bytes(path / HOLDER))
        return f"process {holder['pid']} on {holder['host']} (since {holder['since']})"
    except (OSError, ValueError, KeyError, TypeError):  # being written at this moment
        return "another process"
