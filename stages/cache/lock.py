"""One writer per store: a lock of the operating system, which ends with its process."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from stages.cache.recipe import canonical_json
from stages.errors import CacheLocked

LOCK = ".lock"
HOLDER = ".writer.json"


def acquire(path: Path) -> FileLock:
    """Lock a store for this process; CacheLocked names who holds it."""
    lock = FileLock(path / LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise CacheLocked(
            f"{path}: {_holder(path)} writes this store. Wait until it ends; the lock ends with it"
        ) from error
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    (path / HOLDER).write_text(canonical_json(holder))
    return lock


def release(path: Path, lock: FileLock) -> None:
    """Give the lock back."""
    try:
        (path / HOLDER).unlink(missing_ok=True)
    finally:
        lock.release()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a store's lock; CacheLocked names who has it."""
    lock = acquire(path)
    try:
        yield
    finally:
        release(path, lock)


def _holder(path: Path) -> str:
    try:
        holder = json.loads((path / HOLDER).read_text())
        return f"process {holder['pid']} on {holder['host']} (since {holder['since']})"
    except (OSError, ValueError, KeyError, TypeError):  # being written at this moment
        return "another process"
