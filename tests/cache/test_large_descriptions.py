"""Files that describe a store are read whole, and so only up to a size."""

import resource
import uuid
from pathlib import Path

import pytest
from helpers.seven_row_store import ROWS, make_store
from helpers.urls import at_url

from zsseg.stages.cache.disk import bucket, json_files
from zsseg.stages.cache.disk.bucket_ahead import ahead_of
from zsseg.stages.cache.disk.json_files import (
    read_bounded,
    read_json,
    read_json_lines,
    sound_json_lines,
)
from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.format.manifest import INDEX, read_manifest
from zsseg.stages.cache.reader import Store
from zsseg.stages.errors import CacheError


@pytest.mark.parametrize(
    "name", ["zarr.json", "seal.json", "dense/zarr.json", "ledger/dense/000001.json", "index.jsonl"]
)
def test_a_description_of_gigabytes_is_refused_unread(tmp_path: Path, name: str) -> None:
    """Also where nothing says how large it is: the file itself is sparse and takes no room."""
    path = Path(make_store(tmp_path / "store"))
    with (path / name).open("r+b") as file:
        file.truncate(6 << 30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (read_json_lines, read_json, read_bounded, sound_json_lines):
        with pytest.raises(CacheError, match=r"it has 6,442,450,944 bytes, and at most"):
            read(path / name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def test_an_index_is_no_larger_than_the_images_allow(tmp_path: Path) -> None:
    path = Path(make_store(tmp_path / "store"))
    (path / INDEX).write_bytes(b"x" * (ROWS * (1 << 14) + 1))
    store = Store(path, read_manifest(path), "")
    with pytest.raises(CacheError, match=r"index\.jsonl: .* it has 114,689 bytes, and at most"):
        _ = store.index


def test_large_files_at_urls_are_not_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    path = at_url(f"memory://large-{uuid.uuid4().hex}/store")
    make_store(path)
    monkeypatch.setattr(bucket, "_MOST_AHEAD", 1000)
    monkeypatch.setattr(json_files, "_LARGEST", 1000)
    with storage(path).read_ahead():
        ahead = ahead_of(path)
        assert ahead is not None
        assert 0 < sum(map(len, ahead.content.values())) <= 1000
        with pytest.raises(CacheError, match="and at most 1,000 of such a file are read"):
            read_manifest(path)
