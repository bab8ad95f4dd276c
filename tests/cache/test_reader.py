"""A finished store is read as it was written; what is lost or damaged is an error, never zeros."""

import json
import multiprocessing
import pickle
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from helpers.seven_row_store import (
    IDENTITY,
    INDEX,
    INFO,
    ROWS,
    SHARD_ROWS,
    artifacts,
    fill,
    make_store,
    open_writer,
    values,
)

from zsseg.stages.cache.reader import Store
from zsseg.stages.errors import CacheError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store that no test changes."""
    return make_store(tmp_path_factory.mktemp("made") / "store")


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    """A finished store to damage."""
    return Path(shutil.copytree(made, tmp_path / "store"))


def test_every_row_reads_as_it_was_written(made: Path) -> None:
    store = Store.open(made)
    for artifact in ("index", "dense", "regions"):
        for name, wanted in values(artifact, range(ROWS)).items():
            for row in (6, 0, 4, 2):
                np.testing.assert_array_equal(store.read(name, row), wanted[row])
            np.testing.assert_array_equal(store.read_all(name), wanted)
    np.testing.assert_array_equal(store.read_all("text"), values("text", range(0))["text"])


def test_the_store_explains_itself(made: Path) -> None:
    store = Store.open(made)
    assert (store.identity, store.info, store.rows, store.shard_rows) == (
        IDENTITY,
        INFO,
        ROWS,
        SHARD_ROWS,
    )
    assert store.recipes == {artifact.name: artifact.recipe for artifact in artifacts()}
    assert store.index == [{"row": row} | entry for row, entry in enumerate(INDEX)]
    assert store.history == []
    assert store.has("regions")
    assert not store.has("index")
    assert store.receipt("index", 0)["failed"] == {"4": "cut short"}


def test_rows_outside_and_arrays_without_rows_are_our_own_mistakes(made: Path) -> None:
    store = Store.open(made)
    for array, row in (("dense", ROWS), ("dense", -1), ("text", 0)):
        with pytest.raises(AssertionError):
            store.read(array, row)


def test_the_fingerprint_changes_with_content_only(made: Path, tmp_path: Path) -> None:
    before = Store.open(made).fingerprint
    path = make_store(tmp_path / "elsewhere")
    with open_writer(path) as writer:
        writer.log({"seconds": 1})
        assert Store.open(path).fingerprint == before
        norm = np.ones(3, np.float32)
        writer.write("dense", 0, values("dense", range(3)) | {"norm": norm})
        writer.seal()
    assert Store.open(path).fingerprint != before


def _row_sum(store: Store, row: int) -> float:
    return float(store.read("dense", row).sum(dtype=np.float64))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_through_a_store_that_the_parent_has_used(made: Path, method: str) -> None:
    store = Store.open(made)
    wanted = [_row_sum(store, row) for row in range(ROWS)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside zarr's thread
        with multiprocessing.get_context(method).Pool(2) as pool:
            found = pool.starmap(_row_sum, [(store, row) for row in range(ROWS)])
    assert found == wanted


def test_a_forked_worker_may_use_the_very_object(made: Path) -> None:
    """As a DataLoader does: the open store is inherited, not pickled."""
    program = """
import os, sys, warnings
from pathlib import Path
from zsseg.stages.cache.reader import Store
warnings.simplefilter("ignore", DeprecationWarning)
store = Store.open(Path(sys.argv[1]))
before = store.read("dense", 1).tobytes()
if os.fork() == 0:
    os._exit(0 if store.read("dense", 1).tobytes() == before else 1)
_, status = os.wait()
sys.exit(os.waitstatus_to_exitcode(status))
"""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program, str(made)], cwd=root, check=True, timeout=60)


def test_pickling_is_small_and_leaves_the_index_behind(made: Path) -> None:
    store = Store.open(made)
    assert len(store.index) == ROWS
    store.read("dense", 0)
    data = pickle.dumps(store)
    assert b"scene" not in data
    again = pickle.loads(data)
    assert again.fingerprint == store.fingerprint
    np.testing.assert_array_equal(again.read("dense", 0), store.read("dense", 0))


def test_reading_needs_no_torch(made: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from zsseg.stages.cache.reader import Store\n"
        "import zsseg.stages.cache.writer, zsseg.stages.cache.catalogue\n"
        "import zsseg.stages.cache.verify\n"
        "Store.open(Path(sys.argv[1])).read('dense', 0)\n"
        "assert not {'torch', 'open_clip', 'PIL', 'dask', 'sklearn'} & set(sys.modules)"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program, str(made)], cwd=root, check=True, timeout=60)


def test_no_store_says_which_command_makes_one(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(CacheError, match=r"no store here .*`zsseg precompute` makes one"):
            Store.open(path)


def test_an_unfinished_store_says_which_command_finishes_it(tmp_path: Path) -> None:
    with open_writer(tmp_path / "store") as writer:
        fill(writer)
    with pytest.raises(CacheError, match=r"not finished.*same `zsseg precompute` command again"):
        Store.open(tmp_path / "store")


@pytest.mark.parametrize("kept", [0, 1, 200])
def test_a_cut_manifest_is_named(path: Path, kept: int) -> None:
    file = path / "zarr.json"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(CacheError, match=r"zarr\.json: damaged, not valid JSON .*zsseg precompute"):
        Store.open(path)


def _edit(path: Path, **attributes: object) -> None:
    group = json.loads((path / "zarr.json").read_text())
    group["attributes"] |= attributes
    (path / "zarr.json").write_text(json.dumps(group))


def test_foreign_and_newer_stores_are_refused(path: Path) -> None:
    _edit(path, zsseg_format=2)
    with pytest.raises(CacheError, match="format 2, this version of zsseg reads format 1"):
        Store.open(path)
    (path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    with pytest.raises(CacheError, match="not one that `zsseg precompute` wrote"):
        Store.open(path)


def test_a_manifest_that_contradicts_itself_is_refused(path: Path) -> None:
    described = json.loads((path / "zarr.json").read_text())["attributes"]["artifacts"]
    described["regions"]["recipe"]["merge_threshold"] = 0.1
    _edit(path, artifacts=described)
    with pytest.raises(CacheError, match="the fingerprint of regions is wrong"):
        Store.open(path)
    described["regions"]["arrays"][0]["name"] = "../../outside"
    _edit(path, artifacts=described)
    with pytest.raises(CacheError, match=r"not a name for an array: '\.\./\.\./outside'"):
        Store.open(path)
    described["regions"] = None
    _edit(path, artifacts=described)
    with pytest.raises(CacheError, match=r"zarr\.json: damaged"):
        Store.open(path)


@pytest.mark.parametrize(
    "file",
    ["dense/c.1.0.0.0", "norm/c.2", "regions/c.0.0.0", "text/c.0.0"],
)
@pytest.mark.parametrize("harm", ["empty", "cut", "gone"])
def test_lost_data_is_an_error_and_never_zeros(path: Path, file: str, harm: str) -> None:
    store = Store.open(path)
    _harm(path / file, harm)
    with pytest.raises(CacheError, match=file):
        Store.open(path)
    with pytest.raises(CacheError, match=r"`zsseg cache verify .*--repair` "):
        store.read_all(file.split("/")[0])


@pytest.mark.parametrize("harm", ["empty", "cut", "gone"])
def test_a_row_lost_after_opening_is_named(path: Path, harm: str) -> None:
    store = Store.open(path)
    store.read("dense", 3)
    _harm(path / "dense" / "c.1.0.0.0", harm)
    with pytest.raises(CacheError, match=r"dense/c\.1\.0\.0\.0: (damaged|missing or empty)"):
        store.read("dense", 3)
    np.testing.assert_array_equal(store.read("dense", 0), values("dense", range(1))["dense"][0])


def _harm(file: Path, harm: str) -> None:
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes(b"" if harm == "empty" else file.read_bytes()[:-3])


@pytest.mark.parametrize("file", ["dense/c.0.0.0.0", "status/c.0", "regions/c.2.0.0"])
def test_no_flipped_bit_is_read(path: Path, file: str) -> None:
    store = Store.open(path)
    array, data = file.split("/")[0], (path / file).read_bytes()
    wanted = store.read_all(array)
    for place in np.linspace(0, len(data) - 1, 40).astype(int):
        (path / file).write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with pytest.raises(CacheError, match=rf"{re.escape(file)}: damaged"):
            store.read_all(array)
    (path / file).write_bytes(data)
    np.testing.assert_array_equal(store.read_all(array), wanted)


def test_a_missing_receipt_is_named(path: Path) -> None:
    (path / "ledger" / "regions" / "000001.json").unlink()
    with pytest.raises(CacheError, match=r"ledger/regions/000001\.json: missing"):
        Store.open(path)


def test_array_metadata_that_disagrees_is_refused(path: Path) -> None:
    store = Store.open(path)
    file = path / "norm" / "zarr.json"
    file.write_text(file.read_text().replace("float32", "int32"))
    with pytest.raises(CacheError, match=r"norm/zarr\.json: int32"):
        store.read("norm", 0)
    file.write_text("{")
    with pytest.raises(CacheError, match=r"norm/zarr\.json: missing or damaged"):
        Store.__reduce__(store)[0](*Store.__reduce__(store)[1]).read("norm", 0)
