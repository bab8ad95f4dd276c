"""Small files that claim to be endless: refused at once."""

import json
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.seven_row_store import make_store
from numcodecs.zstd import Zstd

from zsseg.stages.cache.format.fast_rows import DirectRows, RowLayout
from zsseg.stages.cache.format.manifest import read_manifest
from zsseg.stages.cache.tools.import_archive import import_store
from zsseg.stages.cache.tools.removal import check_removable, prune
from zsseg.stages.cache.verify import verify_store
from zsseg.stages.errors import CacheError

LAYOUT = RowLayout(np.dtype("u1"), (4, 4), shard_rows=3, sharded=False, compressed=True)


def with_checksum(content: bytes) -> bytes:
    import google_crc32c

    checksum: int = google_crc32c.value(content)
    return content + checksum.to_bytes(4, "little")


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_header_that_claims_gigabytes_is_refused(tmp_path: Path, kind: bytes) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 6 << 30
    archive = tmp_path / "bomb.tar"
    with archive.open("wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        file.truncate(8 << 30)  # sparse: it takes no room, but would be read
    with pytest.raises(CacheError, match="claims 6,442,450,944 bytes"):
        import_store(archive, tmp_path / "cache")


@pytest.mark.parametrize("size", [0, 47, 49, 300, 70_000, 1 << 26])
def test_a_chunk_of_another_size_is_not_unpacked(tmp_path: Path, size: int) -> None:
    (tmp_path / "c.0").write_bytes(with_checksum(bytes(Zstd().encode(np.zeros(size, np.uint8)))))
    rows = DirectRows(tmp_path, LAYOUT)
    for check in (lambda: rows.read("c.0", 1), lambda: rows.check_sizes("c.0", 3)):
        with pytest.raises(CacheError, match=r"zstd|unpacks to|damaged"):
            check()


@pytest.mark.parametrize("shape", [(4, 4), (16, 20), (400, 300)])
def test_a_chunk_of_the_right_size_is(tmp_path: Path, shape: tuple[int, int]) -> None:
    layout = RowLayout(np.dtype("u1"), shape, shard_rows=3, sharded=False, compressed=True)
    values = np.random.default_rng(0).integers(0, 9, (3, *shape), dtype=np.uint8)
    (tmp_path / "c.0").write_bytes(with_checksum(bytes(Zstd().encode(values))))
    rows = DirectRows(tmp_path, layout)
    rows.check_sizes("c.0", 3)
    np.testing.assert_array_equal(rows.read("c.0", 1), values[1])


@pytest.mark.parametrize("rows", [10**15, 10**7])
def test_a_manifest_of_endless_rows_is_refused_by_every_command(tmp_path: Path, rows: int) -> None:
    path = Path(make_store(tmp_path / "cache" / "store"))
    manifest = json.loads((path / "zarr.json").read_text())
    manifest["attributes"]["rows"] = rows
    (path / "zarr.json").write_text(json.dumps(manifest))
    begin = time.monotonic()
    with pytest.raises(CacheError, match=r"more than index\.jsonl has"):
        read_manifest(path)
    assert verify_store(path, read_data=False)
    check_removable(path)
    assert prune(tmp_path / "cache", unfinished=True, dry_run=True) == []
    assert time.monotonic() - begin < 20


def test_a_row_that_no_memory_holds_is_refused(tmp_path: Path) -> None:
    path = Path(make_store(tmp_path / "store"))
    manifest = json.loads((path / "zarr.json").read_text())
    manifest["attributes"]["artifacts"]["text"]["arrays"][0]["shape"] = [10**6, 10**6]
    (path / "zarr.json").write_text(json.dumps(manifest))
    with pytest.raises(CacheError, match="no memory holds"):
        read_manifest(path)
