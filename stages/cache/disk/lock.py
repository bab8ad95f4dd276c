"""One writer per store: a lock of the operating system on a disk, an object in a bucket.

The lock of a store on a disk ends with the process that holds it. Object stores have no such lock:
there the file that names the writer is the lock, created by a request that fails when it exists. It
outlives a killed process. If that was a process of this machine, the next writer sees that it has
ended and takes over; for another machine's there is `zsseg cache unlock`.
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
from typing import TYPE_CHECKING, Any, TypeAlias

from filelock import FileLock, Timeout

from zsseg.stages.cache.disk.bucket import BucketStorage
from zsseg.stages.cache.disk.durable import open_no_link
from zsseg.stages.cache.disk.json_files import canonical_json
from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.errors import CacheError, CacheLocked
from zsseg.stages.file_bytes import again

if TYPE_CHECKING:
    from zsseg.stages.cache.disk.store_path import UPath

LOCK = ".lock"
"""The file of a folder that the operating system locks."""
HOLDER = ".writer.json"
"""The file of a folder that names its writer: process, machine and since when."""

_EXCLUSIVE = frozenset({"s3", "s3a", "gs", "gcs", "memory"})
"""Protocols whose file systems create a file only if there is none, in one step."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalLock:
    """A lock of a folder on a disk that this process holds; it ends with the process."""

    inner: FileLock
    died: str | None
    """Who held it before and ended without giving it back, as a killed process does."""

    @classmethod
    def acquire(cls, folder: Path) -> "LocalLock":
        """Lock a folder; CacheLocked names who holds it."""
        inner = _system_lock(folder / LOCK, folder)
        lock = cls(inner, held_by(folder) if (folder / HOLDER).exists() else None)
        try:
            again(lambda: _write_holder(folder))
        except BaseException:
            lock.release(folder)
            raise
        return lock

    def release(self, folder: StorePath) -> None:
        """Give the lock back; `folder` may have been renamed meanwhile."""
        try:
            (folder / HOLDER).unlink(missing_ok=True)
        finally:
            self.inner.release()

    def check_held(self, folder: StorePath) -> None:
        """Nothing: nobody can take a lock of the operating system away."""


@dataclass(frozen=True)
class BucketLock:
    """A lock of a folder at a URL that this process holds, until it is given back or taken away."""

    inner: FileLock
    """A lock between the processes of one user here, so that one of them takes over from another
    that was killed."""
    holder: bytes
    """Content of the file that says who holds it."""
    died: None = None
    """Not known: who held it before is named when this process takes over."""

    @classmethod
    def acquire(cls, folder: "UPath") -> "BucketLock":
        """Lock a folder; CacheLocked names who holds it."""
        inner = _system_lock(_file_on_this_machine(folder), folder)
        lock = cls(inner, canonical_json(_this_process() | {"token": uuid.uuid4().hex}).encode())
        try:
            _create_holder(folder, lock.holder)
        except BaseException:
            inner.release()
            raise
        return lock

    def release(self, folder: StorePath) -> None:
        """Give the lock back, unless somebody has taken it away meanwhile."""
        try:
            if _holder(folder) == self.holder:
                storage(folder / HOLDER).remove()
        finally:
            self.inner.release()

    def check_held(self, folder: StorePath) -> None:
        """CacheError when the lock was taken away (`unlock`) while this process wrote."""
        if _holder(folder) != self.holder:
            raise CacheError(
                f"{folder}: the lock of this process was taken away while it wrote, and another "
                "may have written too. Run the same command again: it checks the store"
            )


Lock: TypeAlias = LocalLock | BucketLock


def acquire(path: StorePath) -> Lock:
    """Lock a store for this process; CacheLocked names who holds it."""
    # Only a disk has locks of the operating system.
    return LocalLock.acquire(path) if isinstance(path, Path) else BucketLock.acquire(path)


@contextmanager
def locked(path: StorePath) -> Iterator[None]:
    """Hold a store's lock; CacheLocked names who has it."""
    lock = acquire(path)
    try:
        yield
    finally:
        lock.release(path)


def held_by(path: StorePath) -> str:
    """Who holds the lock of a folder, for a message."""
    try:
        holder: dict[str, Any] = json.loads(storage(path / HOLDER).read())
        return f"process {holder['pid']} on {holder['host']} (since {holder['since']})"
    except (OSError, ValueError, KeyError, TypeError):  # being written at this moment
        return "another process"


def lock_left_behind(path: StorePath) -> str | None:
    """Who is named as the writer of a store at a URL; None when nobody is.

    None on a disk of this machine: a lock there ends with its process.
    """
    left = storage(path).locks_outlive_processes and storage(path / HOLDER).exists()
    return held_by(path) if left else None


def unlock(path: StorePath) -> None:
    """Take away the lock of a store at a URL. Whoever still writes finds out before it seals."""
    storage(path / HOLDER).remove()


def _system_lock(file: Path, folder: StorePath) -> FileLock:
    lock = FileLock(file, timeout=0, thread_local=False)
    try:
        again(lock.acquire)
    except Timeout as error:
        raise CacheLocked(
            f"{folder}: {held_by(folder)} writes this store. Wait until it ends; the lock ends "
            "with it"
        ) from error
    return lock


def _write_holder(folder: Path) -> None:
    (folder / HOLDER).unlink(missing_ok=True)  # it may be a link that somebody has put there
    with open_no_link(folder / HOLDER, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
        file.write(canonical_json(_this_process()).encode())


def _this_process() -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        **_process_space(),
        "started": _started("self"),
    }


def _process_space() -> dict[str, str | None]:
    """Where a process number means this process: the running kernel, and its container.

    None where the system does not tell.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return {"boot": boot, "processes": str(Path("/proc/self/ns/pid").readlink())}
    except OSError:
        return {"boot": None, "processes": None}


def _started(pid: int | str) -> str | None:
    """When a process of this container began, in ticks since the kernel did; None when unknown.

    A number is given anew once its process has ended.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _create_holder(folder: "UPath", holder: bytes) -> None:
    """Create the object that is the lock; CacheLocked when a process that may live has made it."""
    if folder.protocol not in _EXCLUSIVE:
        _log.warning(
            "%s: %s:// cannot create a file only if there is none, so two writers that begin at "
            "the same moment are not kept apart: make sure that only one runs",
            folder,
            folder.protocol,
        )
    file = BucketStorage(folder / HOLDER)
    try:
        file.create(holder)
    except FileExistsError as error:
        if _holder(folder) == holder:  # the answer to the first request was lost, and it repeated
            return
        if not _has_ended(folder):
            raise CacheLocked(
                f"{folder}: {held_by(folder)} writes this store. Wait until it ends. If it was "
                f"killed, `zsseg cache unlock {folder}` takes its lock away"
            ) from error
        _log.warning("%s: taking over from %s, which has ended", folder, held_by(folder))
        file.remove()
        try:
            file.create(holder)
        except FileExistsError as other:
            raise CacheLocked(
                f"{folder}: {held_by(folder)} writes this store. Wait until it ends"
            ) from other


def _has_ended(folder: "UPath") -> bool:
    """Is it certain that the writer is gone: a process of this kernel and of this container?

    In another container, or on another machine of this name, its number says nothing. This process
    has the lock of this machine, so no other one here decides the same.
    """
    try:
        holder = json.loads(_holder(folder) or b"")
        here = _process_space()
        if None in here.values() or any(holder.get(key) != here[key] for key in here):
            return False
        if holder["host"] != socket.gethostname():
            return False
        if holder["started"] is not None and _started(holder["pid"]) not in (
            None,
            holder["started"],
        ):
            return True  # the number belongs to another process now
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, KeyError, TypeError):  # another user's process, or damaged
        return False
    return False


def _file_on_this_machine(folder: "UPath") -> Path:
    """The file of the lock between the processes of one user on this machine."""
    user = os.getuid() if hasattr(os, "getuid") else ""  # on Windows each has a folder of his own
    name = sha256(str(folder).encode()).hexdigest()[:32]
    return Path(tempfile.gettempdir()) / f"zsseg-{user}-{name}.lock"


def _holder(folder: StorePath) -> bytes | None:
    """Content of the file that names the writer; None when there is none."""
    try:
        return storage(folder / HOLDER).read()
    except FileNotFoundError:
        return None
