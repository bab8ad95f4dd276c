"""Small files that claim to be endless: refused at once."""

import json
import resource
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from helpers.seven_row_store import make_store, values
from helpers.urls import at_url
from numcodecs.zstd import Zstd

from zsseg.stages.cache.disk.hashing import hash_file
from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.ledger import make_seal, read_receipt, write_receipt
from zsseg.stages.cache.format.manifest import GROUP, SEAL, fingerprints, group_json, read_manifest
from zsseg.stages.cache.format.row_layout import RowLayout
from zsseg.stages.cache.format.stored_rows import StoredRows
from zsseg.stages.cache.reader import Store
from zsseg.stages.cache.shards import load_shard
from zsseg.stages.cache.tools.export_archive import export_store
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
    rows = StoredRows(tmp_path, LAYOUT)
    for check in (lambda: rows.read("c.0", 1), lambda: rows.check_sizes("c.0")):
        with pytest.raises(CacheError, match=r"zstd|unpacks to|damaged"):
            check()


@pytest.mark.parametrize("shape", [(4, 4), (16, 20), (400, 300)])
def test_a_chunk_of_the_right_size_is(tmp_path: Path, shape: tuple[int, int]) -> None:
    layout = RowLayout(np.dtype("u1"), shape, shard_rows=3, sharded=False, compressed=True)
    values = np.random.default_rng(0).integers(0, 9, (3, *shape), dtype=np.uint8)
    (tmp_path / "c.0").write_bytes(with_checksum(bytes(Zstd().encode(values))))
    rows = StoredRows(tmp_path, layout)
    rows.check_sizes("c.0")
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


# A store whose chunks unpack to gigabytes, though its hashes are right


GIB = 1 << 30


def zeros_of(size: int) -> bytes:
    """A zstd frame of so many zeros, made without the memory for them: a block repeats a byte."""
    frame = b"\x28\xb5\x2f\xfd" + b"\xe0" + size.to_bytes(8, "little")  # one segment
    block = 1 << 17
    for place in range(0, size, block):
        length = min(block, size - place)
        last = place + length == size
        frame += (int(last) | 1 << 1 | length << 3).to_bytes(3, "little") + b"\0"
    return frame


def reseal(store: StorePath) -> None:
    """Make receipts and seal right for the files that are there."""
    manifest = read_manifest(store)
    prints = fingerprints(manifest.artifacts)
    for artifact in manifest.artifacts:
        for shard in manifest.shards(artifact):
            receipt = read_receipt(store, artifact, shard) or {}
            files = {
                file: {"bytes": storage(store / file).size(), "xxh3_128": hash_file(store / file)}
                for file in receipt["files"]
            }
            known = ("artifact", "fingerprint", "shard", "rows", "files")
            notes = {key: value for key, value in receipt.items() if key not in known}
            write_receipt(
                store,
                manifest,
                artifact,
                shard,
                artifact_fingerprint=prints[artifact.name],
                files=files,
                notes=notes,
            )
    storage(store / SEAL).write(make_seal(store, manifest))


@contextmanager
def bounded() -> Iterator[None]:
    """Fails where the block takes more than 10 s or 100 MiB of memory more than before."""
    begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.monotonic() - begin < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


EVERYWHERE = pytest.mark.parametrize("hostile", ["disk", "memory", "s3"], indirect=True)


@pytest.fixture(params=["disk", "memory"])
def hostile(request: pytest.FixtureRequest, tmp_path: Path) -> StorePath:
    """A store, sealed anew, whose maps of regions unpack to 4 GiB in shard 1."""
    if request.param == "disk":
        store: StorePath = tmp_path / "store"
    elif request.param == "memory":
        store = at_url(f"memory://bombs-{uuid.uuid4().hex}/store")
    else:
        store = request.getfixturevalue("bucket") / "store"
    make_store(store)
    storage(store / "regions" / "c.1.0.0").write(with_checksum(zeros_of(4 * GIB)))
    reseal(store)
    return store


@EVERYWHERE
@pytest.mark.parametrize("stored", [100, None])
def test_every_way_of_reading_refuses_a_bomb(
    hostile: StorePath, tmp_path: Path, stored: int | None
) -> None:
    """Also one that is cut short: as long in the file as a real one."""
    storage(hostile / "regions" / "c.1.0.0").write(with_checksum(zeros_of(4 * GIB)[:stored]))
    reseal(hostile)
    with bounded():
        store = Store.open(hostile)
        assert np.array_equal(store.read("regions", 0), values("regions", range(1))["regions"][0])
        readers: list[Callable[[], object]] = [
            lambda: store.read("regions", 4),
            lambda: store.read_all("regions"),
            lambda: load_shard(hostile, store.manifest, "regions", 1),
        ]
        for read in readers:
            with pytest.raises(
                CacheError, match=r"regions/c\.1\.0\.0: damaged \((unpacks to|a chunk of)"
            ):
                read()
        export_store(hostile, tmp_path / "bomb.tar")
        with pytest.raises(CacheError, match=r"not imported: .*regions/c\.1\.0\.0: damaged"):
            import_store(tmp_path / "bomb.tar", tmp_path / "cache")


def test_a_shard_that_is_longer_than_its_rows_is_refused(hostile: StorePath) -> None:
    """Its own size and hash are right; only the manifest says that rows take less."""
    for file in ("regions/c.1.0.0", "dense/c.1.0.0.0", "norm/c.1", "text/c.0.0"):
        storage(hostile / file).write(bytes(1 << 23))
    reseal(hostile)
    with bounded():
        store = Store.open(hostile)
        for array in ("regions", "dense", "norm", "text"):
            with pytest.raises(CacheError, match=rf"{array}/c\.[01].*: damaged"):
                store.read_all(array)
        for array in ("regions", "norm"):
            with pytest.raises(CacheError, match=rf"{array}/c\.1.*: damaged"):
                store.read(array, 4)


def test_a_chunk_that_its_index_says_is_endless_is_refused(hostile: StorePath) -> None:
    """The index of a shard is right by its checksum, and names chunks that are no row's."""
    index = np.array([[0, 1 << 40], [1 << 62, 98308], [2**64 - 2, 2**63]], "<u8").tobytes()
    storage(hostile / "dense" / "c.1.0.0.0").write(bytes(64) + with_checksum(index))
    reseal(hostile)
    with bounded():
        store = Store.open(hostile)
        for row in (3, 4, 5):
            with pytest.raises(CacheError, match=r"dense/c\.1\.0\.0\.0: damaged"):
                store.read("dense", row)
        with pytest.raises(CacheError, match=r"dense/c\.1\.0\.0\.0: damaged"):
            store.read_all("dense")


def test_another_codec_in_an_array_s_description_is_refused(hostile: StorePath) -> None:
    described = json.loads(storage(hostile / "regions" / "zarr.json").read())
    described["codecs"][1] = {"name": "gzip", "configuration": {"level": 9}}
    storage(hostile / "regions" / "zarr.json").write(json.dumps(described).encode())
    # As 0.1 wrote it: the list of arrays would have to follow the array's description.
    storage(hostile / GROUP).write(group_json(read_manifest(hostile)))
    reseal(hostile)
    with pytest.raises(CacheError, match=r"regions/zarr\.json: .*does not write: bytes, gzip"):
        Store.open(hostile).read_all("regions")


def test_shards_of_endless_rows_are_refused(tmp_path: Path) -> None:
    path = Path(make_store(tmp_path / "store"))
    manifest = json.loads((path / "zarr.json").read_text())
    manifest["attributes"]["shard_rows"] = 10**12
    (path / "zarr.json").write_text(json.dumps(manifest))
    with pytest.raises(CacheError, match=r"1,000,000,000,000 rows in a shard"):
        read_manifest(path)
