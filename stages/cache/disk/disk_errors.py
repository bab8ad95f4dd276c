"""The message of a write that failed: what could not be written, the space left, what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.errors import ResourceError


@contextmanager
def disk_errors(store: StorePath, what: str) -> Iterator[None]:
    """Turn an OSError of writing `what` into a ResourceError: what is safe, and what to do."""
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"{store}: cannot write {what}: {error}{_free_text(store)}. What is committed is safe: "
            "free space, or mend the disk, and run the same command again"
        ) from error


def _free_text(path: StorePath) -> str:
    """' (123 MiB free)', or nothing where nobody knows."""
    try:
        free = storage(path).free_bytes()
    except OSError:  # the disk is gone
        return ""
    return "" if free is None else f" ({free / 2**20:.0f} MiB free)"
