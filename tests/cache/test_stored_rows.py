"""Rows that are read without zarr are those that zarr reads, and no damage gets through."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from helpers import seven_row_store
from numpy.typing import NDArray

from zsseg.stages.cache.format.manifest import (
    ArraySpec,
    Artifact,
    Manifest,
    read_manifest,
    shard_file,
)
from zsseg.stages.cache.format.stored_rows import StoredRows, stored_rows
from zsseg.stages.cache.reader import Store
from zsseg.stages.errors import CacheError


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seven_row_store.make_store(tmp_path_factory.mktemp("store") / "store")


ARRAYS = ("dense", "norm", "regions", "status")


def rows_of(store: Path, array: str) -> StoredRows:
    return stored_rows(store, read_manifest(store), array)


def test_the_layouts_of_a_store_are_known(path: Path) -> None:
    known = {array: rows_of(path, array).layout for array in ARRAYS}
    assert {array: (each.sharded, each.compressed) for array, each in known.items()} == {
        "dense": (True, False),
        "norm": (False, False),
        "regions": (False, True),
        "status": (False, False),
    }


@pytest.mark.parametrize("array", ARRAYS)
def test_rows_are_those_of_zarr(path: Path, array: str) -> None:
    expected = np.asarray(zarr.open_array(path / array, mode="r")[:])
    store = Store.open(path)
    for row in range(seven_row_store.ROWS):
        values = store.read(array, row)
        assert values.dtype == expected.dtype
        assert np.array_equal(values, expected[row])
        assert values.base is None or values.base.nbytes < 2 * values.nbytes + 64
        assert values.flags.writeable


def written(folder: Path, **options: Any) -> str:
    """An array of 3 rows in one shard, made by zarr; the path of its shard beside the array."""
    array = zarr.create_array(folder, shape=(3, 40, 40), dtype="int16", fill_value=0, **options)
    values = np.random.default_rng(0).integers(-9, 9, (3, 40, 40), dtype=np.int16)
    values[1] = 0
    array[:] = values
    (shard,) = (each for each in folder.rglob("c*/**/*") if each.is_file())
    return shard.relative_to(folder.parent).as_posix()


def rows_of_written(folder: Path) -> StoredRows:
    """The rows of `written`, read as those of a store that should have such an array."""
    spec = ArraySpec("array", (40, 40), "int16")
    made = Manifest({}, {}, (Artifact("array", {}, (spec,)),), rows=3, shard_rows=3)
    return stored_rows(folder, made, "array")


CODECS = (zarr.codecs.ZstdCodec(level=3), zarr.codecs.Crc32cCodec())


def test_sharded_and_compressed_with_a_row_that_was_left_out(tmp_path: Path) -> None:
    """Row 1 is all zeros, and zarr does not write its inner chunk."""
    options = {"chunks": (1, 40, 40), "shards": (3, 40, 40), "compressors": CODECS}
    shard = written(tmp_path / "array", **options)
    rows = rows_of_written(tmp_path)
    assert (rows.layout.sharded, rows.layout.compressed) == (True, True)
    expected = np.asarray(zarr.open_array(tmp_path / "array", mode="r")[:])
    for row in range(3):
        values = rows.read(shard, row)
        assert np.array_equal(values, expected[row])
        assert values.flags.writeable
    assert np.array_equal(rows.read_shard(shard, 3), expected)


@pytest.mark.parametrize(
    "options",
    [
        {"compressors": None},  # no checksum
        {"compressors": (zarr.codecs.GzipCodec(), zarr.codecs.Crc32cCodec())},
        {"compressors": CODECS[1:], "serializer": zarr.codecs.BytesCodec(endian="big")},
        {"compressors": CODECS[1:], "shards": (3, 40, 40), "chunks": (1, 20, 40)},
        {"compressors": CODECS[1:], "fill_value": 3},
    ],
)
def test_other_layouts_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    whole: dict[str, Any] = {"fill_value": 0, "chunks": (3, 40, 40)} | options
    zarr.create_array(tmp_path / "array", shape=(3, 40, 40), dtype="int16", **whole)
    with pytest.raises(CacheError, match=r"array/zarr\.json: missing or damaged \(.*not write"):
        rows_of_written(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda described: described["codecs"][0]["configuration"].update(index_location="start"),
        lambda described: described["chunk_grid"]["configuration"].update(
            chunk_shape=[5, 8, 48, 64]
        ),
        lambda described: described.update(codecs=[]),
        lambda described: described.update(shape=None),
    ],
)
def test_metadata_that_is_not_the_manifest_s_is_refused(
    path: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    described = json.loads((path / "dense" / "zarr.json").read_bytes())
    change(described)
    (tmp_path / "dense").mkdir()
    (tmp_path / "dense" / "zarr.json").write_text(json.dumps(described))
    with pytest.raises(CacheError, match=r"dense/zarr\.json: missing or damaged"):
        stored_rows(tmp_path, read_manifest(path), "dense")


@pytest.mark.parametrize("array", [*ARRAYS, "text"])
def test_whole_arrays_are_those_of_zarr(path: Path, array: str) -> None:
    expected = np.asarray(zarr.open_array(path / array, mode="r")[:])
    values = Store.open(path).read_all(array)
    assert (values.dtype, values.shape) == (expected.dtype, expected.shape)
    assert np.array_equal(values, expected)


def is_right(rows: StoredRows, row: int, values: NDArray[Any]) -> bool:
    """False where damage is told; a wrong value fails the test."""
    try:
        read = rows.read("shard", row)
    except CacheError:
        return False
    assert np.array_equal(read, values)
    return True


@pytest.mark.parametrize("array", ["dense", "regions"])
def test_every_damaged_byte_is_noticed(path: Path, tmp_path: Path, array: str) -> None:
    store = Store.open(path)
    artifact, spec = store.manifest.arrays[array]
    content = (path / shard_file(spec, artifact, 0)).read_bytes()
    rows, shard = StoredRows(tmp_path, rows_of(path, array).layout), tmp_path / "shard"
    whole = [store.read(array, row) for row in range(seven_row_store.SHARD_ROWS)]
    rng = np.random.default_rng(0)
    for place in {0, len(content) - 1, *rng.integers(0, len(content), 60).tolist()}:
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        shard.write_bytes(changed)
        spoilt = [not is_right(rows, row, values) for row, values in enumerate(whole)]
        # A flip in one inner chunk is that row's; in the index or in a small chunk, all rows'.
        assert any(spoilt), place
    for length in (1, len(content) // 2, len(content) - 1):
        shard.write_bytes(content[:length])
        with pytest.raises(CacheError, match="damaged"):
            rows.read("shard", seven_row_store.SHARD_ROWS - 1)


def test_a_shard_that_is_gone_or_empty_is_named(path: Path, tmp_path: Path) -> None:
    rows = StoredRows(tmp_path, rows_of(path, "dense").layout)
    with pytest.raises(CacheError, match=r"c\.0\.0\.0\.0: missing or empty"):
        rows.read("c.0.0.0.0", 0)
    (tmp_path / "c.0.0.0.0").touch()
    with pytest.raises(CacheError, match=r"c\.0\.0\.0\.0: missing or empty"):
        rows.read("c.0.0.0.0", 0)
