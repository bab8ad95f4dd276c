"""Requests to a URL that fail for a moment are made again; what goes on failing names the URL."""

import errno
import os
import uuid
from typing import Any

import pytest
from helpers.seven_row_store import content, make_store
from helpers.urls import at_url

from zsseg.stages import file_bytes
from zsseg.stages.cache.disk import bucket_requests
from zsseg.stages.cache.disk.bucket import BucketStorage
from zsseg.stages.cache.disk.hashing import hash_file
from zsseg.stages.cache.reader import Store
from zsseg.stages.cache.verify import verify_store


class Failing:
    """A file system of which each `every`-th request for content, and the next `more`, fail."""

    def __init__(self, files: Any, *, number: int, every: int, more: int = 0) -> None:
        self._files, self._number, self._every, self._more = files, number, every, more
        self.requests = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        self._count()
        found: bytes = self._files.cat_file(path, start=start, end=end)
        return found

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite") -> None:
        if mode != "create":  # the lock's: whether it was made could not be told
            self._count()
        self._files.pipe_file(path, value, mode=mode)

    def _count(self) -> None:
        self.requests += 1
        if self.requests % self._every <= self._more:
            raise OSError(self._number, os.strerror(self._number))


@pytest.fixture
def url() -> Any:
    return at_url(f"memory://passing-{uuid.uuid4().hex}/store")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_bytes, "_PAUSES", (0.0, 0.0, 0.0))


def fail(patch: pytest.MonkeyPatch, url: Any, number: int, *, every: int, more: int = 0) -> Failing:
    files = Failing(bucket_requests.file_system(url), number=number, every=every, more=more)
    patch.setattr(bucket_requests, "file_system", lambda path: files)
    return files


@pytest.mark.parametrize("number", [errno.EIO, errno.ETIMEDOUT, errno.EAGAIN])
def test_a_store_is_written_and_read_all_the_same(
    url: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    made = content(make_store(tmp_path / "store"))
    failing = fail(monkeypatch, url, number, every=5, more=1)  # two in a row
    make_store(url)
    store = Store.open(url)
    assert verify_store(url, read_data=True) == []
    for array in ("dense", "regions", "text"):
        store.read_all(array)
    assert failing.requests > 50
    for name, wanted in made.items():
        assert BucketStorage(url / name).read() == wanted, name


def test_an_error_that_stays_names_the_url(url: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = url / "index.jsonl"
    BucketStorage(file).write(b"{}")
    failing = fail(monkeypatch, url, errno.EIO, every=1)

    def part() -> None:
        with BucketStorage(file).parts() as read:
            read(0, 1)

    reads = (BucketStorage(file).read, part, lambda: BucketStorage(file).write(b"x"))
    for attempt in (*reads, lambda: hash_file(file)):
        with pytest.raises(OSError, match=r"memory://.*/index\.jsonl"):
            attempt()
    assert failing.requests == 3 * 4 + 4 * 4


def test_an_error_that_does_not_pass_is_not_tried_again(
    url: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = fail(monkeypatch, url, errno.ENOSPC, every=1)
    with pytest.raises(OSError, match="No space left"):
        BucketStorage(url / "index.jsonl").write(b"x")
    assert failing.requests == 1
