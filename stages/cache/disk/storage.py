"""Disk or bucket: which of the two classes reads and writes a path."""

from pathlib import Path
from typing import TypeAlias

from zsseg.stages.cache.disk.bucket import BucketStorage
from zsseg.stages.cache.disk.local import LocalStorage
from zsseg.stages.cache.disk.store_path import StorePath

Storage: TypeAlias = LocalStorage | BucketStorage


def storage(path: StorePath) -> Storage:
    """How a file or folder is read and written: by system calls, or by requests to its URL."""
    # The one place where disk or URL is decided for files and folders of a store.
    return LocalStorage(path) if isinstance(path, Path) else BucketStorage(path)
