"""Stores are written, continued, updated and refused."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from helpers.seven_row_store import (
    IDENTITY,
    INDEX,
    INFO,
    ROWS,
    SHARD_ROWS,
    Arrays,
    artifacts,
    content,
    fill,
    make_store,
    open_writer,
    values,
)

from zsseg.stages.cache.format.manifest import fingerprints
from zsseg.stages.cache.format.recipe import fingerprint
from zsseg.stages.cache.reader import Store
from zsseg.stages.cache.tools.uses import last_used, note_use
from zsseg.stages.cache.verify import verify_store
from zsseg.stages.cache.writer import ArraySpec, Artifact
from zsseg.stages.errors import CacheError, CacheLocked, NonFiniteError, ResourceError


def test_what_is_written_is_read_by_plain_zarr(tmp_path: Path) -> None:
    group = zarr.open_group(make_store(tmp_path / "store"), mode="r")
    for artifact in ("index", "text", "dense", "regions"):
        for name, wanted in values(artifact, range(ROWS)).items():
            array = group[name]
            assert isinstance(array, zarr.Array)
            assert array.dtype == wanted.dtype
            np.testing.assert_array_equal(array[...], wanted)
    assert group.attrs["identity"] == IDENTITY


def test_a_shard_holds_one_raw_chunk_per_image(tmp_path: Path) -> None:
    """Reads the sharding codec's file by hand: chunks of raw float16 + CRC, then the index."""
    path = make_store(tmp_path / "store")
    data = (path / "dense" / "c.1.0.0.0").read_bytes()
    places = np.frombuffer(data[-16 * SHARD_ROWS - 4 : -4], "<u8").reshape(SHARD_ROWS, 2)
    for row, (offset, length) in zip(range(3, 6), places, strict=True):
        chunk = np.frombuffer(data[offset : offset + length - 4], "<f2").reshape(8, 48, 64)
        np.testing.assert_array_equal(chunk, values("dense", range(row, row + 1))["dense"][0])


def test_small_rows_share_one_chunk(tmp_path: Path) -> None:
    data = (make_store(tmp_path / "store") / "norm" / "c.2").read_bytes()
    np.testing.assert_array_equal(np.frombuffer(data[:-4], "<f4"), [6, 0, 0])


def test_two_runs_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = make_store(tmp_path / "a"), make_store(tmp_path / "b" / "c")
    with open_writer(second) as writer:
        writer.log({"seconds": 2.5})
        (second / "sources.jsonl").write_text('{"labels":"x"}\n')
    assert content(first) == content(second)
    assert not any(str(tmp_path).encode() in data for data in content(second).values())


def test_a_finished_store_is_left_alone(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    times = {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.suffix == ".json"}
    with open_writer(path, update=True) as writer:
        assert writer.missing() == {"index": [], "text": [], "dense": [], "regions": []}
        writer.seal()
    assert times == {f: f.stat().st_mtime_ns for f in path.rglob("*") if f.suffix == ".json"}


def test_missing_counts_shards_and_units(tmp_path: Path) -> None:
    with open_writer(tmp_path / "store") as writer:
        assert writer.missing() == {
            "index": [0, 1, 2],
            "text": [0],
            "dense": [0, 1, 2],
            "regions": [0, 1, 2],
        }
        assert [writer.rows_of(shard) for shard in range(3)] == [
            range(3),
            range(3, 6),
            range(6, 7),
        ]
        writer.write("dense", 2, values("dense", range(6, 7)))
        writer.write("text", 0, values("text", range(0)))
        assert writer.missing()["dense"] == [0, 1]
        assert writer.missing()["text"] == []
        np.testing.assert_array_equal(writer.read("norm", 2), [6])
        assert writer.read("text", 0).shape == (2, 8)
        with pytest.raises(AssertionError, match="not to be sealed"):
            writer.seal()


def test_receipts_hold_rows_hashes_and_notes(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    receipt = json.loads((path / "ledger" / "index" / "000001.json").read_text())
    assert receipt.pop("check") == fingerprint(receipt)
    assert receipt["rows"] == [3, 6]
    assert receipt["failed"] == {"4": "cut short"}
    assert receipt["fingerprint"] == fingerprints(artifacts())["index"]
    assert receipt["files"].keys() == {"status/c.1"}
    with open_writer(path) as writer:
        assert writer.receipt("index", 1) == receipt
        assert writer.receipt("text", 0) != receipt
        (path / "ledger" / "text" / "000000.json").write_text("{}")
        assert writer.receipt("text", 0) is None
        assert writer.missing()["text"] == [0]


def test_shards_of_zeros_are_files(tmp_path: Path) -> None:
    with open_writer(tmp_path / "store") as writer:
        shape = (3, 8, 48, 64)
        zeros: Arrays = {"dense": np.zeros(shape, np.float16), "norm": np.zeros(3, np.float32)}
        writer.write("dense", 0, zeros)
    assert (tmp_path / "store" / "dense" / "c.0.0.0.0").stat().st_size > 3 * 8 * 48 * 64 * 2
    assert (tmp_path / "store" / "norm" / "c.0").stat().st_size == 3 * 4 + 4


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_rows_are_named_and_nothing_is_written(tmp_path: Path, bad: float) -> None:
    with open_writer(tmp_path / "store") as writer:
        arrays = values("dense", range(3, 6))
        arrays["dense"][1, 2, 3, 4] = bad
        with pytest.raises(NonFiniteError, match=r"array dense, 1 row: scene 4é"):
            writer.write("dense", 1, arrays)
        assert 1 in writer.missing()["dense"]
        assert not (tmp_path / "store" / "norm" / "c.1").exists()


def test_wrong_shapes_and_types_are_our_own_mistakes(tmp_path: Path) -> None:
    with open_writer(tmp_path / "store") as writer:
        with pytest.raises(AssertionError, match="norm"):
            writer.write("dense", 0, values("dense", range(3)) | {"norm": np.zeros(2, np.float32)})
        with pytest.raises(AssertionError, match="float64"):
            writer.write("dense", 0, values("dense", range(3)) | {"norm": np.zeros(3)})


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        (
            {"artifacts": artifacts(threshold=0.8)},
            ["regions.merge_threshold: stored 0.9, asked 0.8", "recompute regions in place"],
        ),
        (
            {"artifacts": artifacts(dense=64)},
            ["dense.size[0]: stored 96, asked 64", "regions: made from dense, index"],
        ),
        ({"artifacts": artifacts()[:3]}, ["regions: stored, not asked"]),
        ({"info": INFO | {"width": 8}}, ["info.width: stored nothing, asked 8"]),
    ],
)
def test_other_settings_are_refused_field_by_field(
    tmp_path: Path, changes: dict[str, Any], lines: list[str]
) -> None:
    before = content(make_store(tmp_path / "store"))
    with pytest.raises(CacheError) as error:
        open_writer(tmp_path / "store", **changes)
    assert all(line in str(error.value) for line in [*lines, "--update", "--cache"])
    assert content(tmp_path / "store") == before


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"identity": IDENTITY | {"split": "val"}}, 'split: stored "train", asked "val"'),
        ({"shard_rows": 4}, "shard_rows: stored 3, asked 4"),
    ],
)
@pytest.mark.parametrize("update", [False, True])
def test_other_data_is_refused_even_with_update(
    tmp_path: Path, changes: dict[str, Any], line: str, update: bool
) -> None:
    before = content(make_store(tmp_path / "store"))
    with pytest.raises(CacheError) as error:
        open_writer(tmp_path / "store", update=update, **changes)
    assert line in str(error.value)
    assert "--cache" in str(error.value)
    assert content(tmp_path / "store") == before


@pytest.mark.parametrize(
    ("index", "line"),
    [
        (INDEX[:-1], "index: 1 image no longer there: scene 6é"),
        ([*INDEX, {"id": "new", "image": "new.png"}], "index: 1 image new: new"),
        (INDEX[::-1], "index: the images in another order"),
        (
            [INDEX[0] | {"image": "elsewhere.png"}, *INDEX[1:]],
            "index: 1 image at another path: scene 0é",
        ),
    ],
)
def test_other_images_are_refused_and_update_sets_the_store_aside(
    tmp_path: Path, index: list[dict[str, Any]], line: str
) -> None:
    path = make_store(tmp_path / "store")
    before = content(path)
    with pytest.raises(CacheError) as error:
        open_writer(path, index=index)
    for part in (line, "--update to compute the new images' rows", "--dry-run", "--cache"):
        assert part in str(error.value)
    assert content(path) == before
    with open_writer(path, index=index, update=True) as writer:
        shards = -(-len(index) // SHARD_ROWS)
        assert {len(missing) for missing in writer.missing().values()} == {1, shards}
        aside = content(path / ".previous")
        assert aside == {name: data for name, data in before.items() if name != "seal.json"}
        fill(writer)
        with pytest.raises(CacheError, match="not finished"):
            Store.open(path)
        writer.seal()
    assert [entry["id"] for entry in Store.open(path).index] == [entry["id"] for entry in index]
    assert not (path / ".previous").exists()
    assert verify_store(path, read_data=True) == []


def test_what_else_lies_in_a_store_does_not_hinder_an_update_of_its_images(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    note_use(path)
    (path / "notes.txt").write_text("mine")
    with open_writer(path, index=INDEX[:2], update=True) as writer:
        assert (path / ".previous" / "zarr.json").exists()
        fill(writer)
        writer.seal()
    assert last_used(path) is not None
    assert (path / "notes.txt").read_text() == "mine"
    assert len(Store.open(path).index) == 2


def test_a_finished_store_is_set_aside_though_an_older_one_was_not_wholly_deleted(
    tmp_path: Path,
) -> None:
    path = make_store(tmp_path / "store")
    before = content(path)
    (path / ".previous").mkdir()
    shutil.copy(path / "zarr.json", path / ".previous" / "zarr.json")
    with open_writer(path, index=INDEX[:2], update=True):
        aside = content(path / ".previous")
    assert aside == {name: data for name, data in before.items() if name != "seal.json"}


def test_update_recomputes_what_differs_and_what_is_made_from_it(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    with open_writer(path, artifacts=artifacts(threshold=0.8), update=True) as writer:
        assert fill(writer) == {"regions": [0, 1, 2]}
        with pytest.raises(CacheError, match="not finished"):
            Store.open(path)
        writer.seal()
    with open_writer(path, artifacts=artifacts(threshold=0.8, dense=64), update=True) as writer:
        assert fill(writer) == {"dense": [0, 1, 2], "regions": [0, 1, 2]}
        writer.seal()
    assert Store.open(path).recipes["regions"] == {"merge_threshold": 0.8}


@pytest.mark.parametrize("label", [None, "labels_converted/4.png"])
def test_update_follows_labels_to_other_files(tmp_path: Path, label: str | None) -> None:
    path = make_store(tmp_path / "store")
    before = content(path)
    index = [entry | {"label": label} if n == 4 else entry for n, entry in enumerate(INDEX)]
    with pytest.raises(CacheError, match="1 image with another label file: scene 4é") as error:
        open_writer(path, index=index)
    assert "--update to recompute what depends on changed labels" in str(error.value)
    assert content(path) == before
    with open_writer(path, index=index, update=True) as writer:
        assert not (path / "seal.json").exists()
        assert fill(writer) == {}
        writer.seal()
    assert [entry["label"] for entry in Store.open(path).index] == [e["label"] for e in index]
    with open_writer(path, update=True) as writer:
        writer.seal()
    assert content(path) == before


def test_the_name_of_the_teacher_is_no_difference(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    before = content(path)
    with open_writer(path, info=INFO | {"teacher": "renamed"}) as writer:
        assert fill(writer) == {}
        writer.seal()
    assert content(path) == before


def test_update_adds_and_removes_artifacts(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    depth = Artifact("depth", {}, (ArraySpec("depth", (2,), "float32"),), ("dense",))
    with open_writer(path, artifacts=(*artifacts()[:3], depth), update=True) as writer:
        assert {name for name, shards in writer.missing().items() if shards} == {"depth"}
    assert not (path / "regions").exists()
    assert not (path / "ledger" / "regions").exists()


def test_update_of_the_description_keeps_all_data(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    with open_writer(path, info={"teacher": "other"}, update=True) as writer:
        assert fill(writer) == {}
        writer.seal()
    assert Store.open(path).info == {"teacher": "other"}


def test_fingerprints_follow_dependencies_but_not_the_order() -> None:
    before, after = fingerprints(artifacts()), fingerprints(artifacts(dense=64))
    assert {name for name in before if before[name] != after[name]} == {"dense", "regions"}
    assert fingerprints(artifacts()[::-1]) == before


def test_withdrawn_shards_are_missing(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    before = content(path)
    with open_writer(path) as writer:
        for name in ("regions", "index"):
            writer.withdraw(name, 1)
        assert writer.missing() == {"index": [1], "text": [], "dense": [], "regions": [1]}
        assert fill(writer) == {"index": [1], "regions": [1]}
        writer.seal()
    assert content(path) == before


def test_a_full_disk_is_said_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = content(make_store(tmp_path / "whole"))
    path = tmp_path / "store"
    with open_writer(path) as writer:
        writer.write("dense", 0, values("dense", range(3)))

        def full(_: Path, __: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", full)
            with pytest.raises(ResourceError, match=r"shard 1 of dense: .*No space left.*MiB free"):
                writer.write("dense", 1, values("dense", range(3, 6)))
        assert writer.missing()["dense"] == [1, 2]
        fill(writer)
        writer.seal()
    with open_writer(path):
        assert content(path) == whole


def test_a_second_writer_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    path = tmp_path / "store"
    program = (
        "import sys, time; from pathlib import Path\n"
        "from helpers.seven_row_store import open_writer\n"
        "with open_writer(Path(sys.argv[1])): print('open', flush=True); time.sleep(60)"
    )
    search = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": search},
    ) as other:
        assert other.stdout is not None
        try:
            assert other.stdout.readline() == b"open\n"
            with pytest.raises(CacheLocked, match=rf"process {other.pid} on .*since 20"):
                open_writer(path)
        finally:
            other.kill()
    with open_writer(path) as writer, pytest.raises(CacheLocked, match=f"process {os.getpid()}"):
        open_writer(writer.path)
    with open_writer(path):
        pass


@pytest.mark.parametrize("damaged", [b"", b'{"shape": [7', b'{"shape": [6]}'])
def test_a_damaged_description_of_an_array_is_not_sealed(tmp_path: Path, damaged: bytes) -> None:
    """Of an unfinished store, where no seal tells; shards are written without reading it."""
    wanted = make_store(tmp_path / "wanted")
    store = tmp_path / "store"
    open_writer(store).close()
    (store / "dense" / "zarr.json").write_bytes(damaged)
    with open_writer(store) as writer:
        fill(writer)
        writer.seal()
    assert content(store) == content(wanted)


@pytest.mark.parametrize("damaged", [b"{", b'{"id": "scene 0\xff"}', b'{"row": 0, "id": "x"}\n'])
def test_a_damaged_index_of_an_unfinished_store_is_an_update(
    tmp_path: Path, damaged: bytes
) -> None:
    wanted = make_store(tmp_path / "wanted")
    store = tmp_path / "store"
    open_writer(store).close()
    (store / "index.jsonl").write_bytes(damaged)
    with pytest.raises(CacheError, match=r"(?s)index: .*Add --update"):
        open_writer(store)
    with open_writer(store, update=True) as writer:
        fill(writer)
        writer.seal()
    assert content(store) == content(wanted)


def test_orphans_of_a_killed_run_are_swept(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    orphan = path / "dense" / "c.0.0.0.0.1234.partial"
    orphan.write_bytes(b"half")
    with open_writer(path):
        assert not orphan.exists()


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(CacheError, match=r"neither empty nor a store .*thesis\.tex"):
        open_writer(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match=r"file.store: cannot make this folder"):
        open_writer(tmp_path / "file" / "store")


def test_names_that_would_leave_the_store_are_refused() -> None:
    for name in ("../x", "", "Dense", "a/b", "ledger"):
        with pytest.raises(ValueError, match="not a name for an array"):
            ArraySpec(name, (1,), "uint8")


def test_the_history_is_appended_to(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    with open_writer(path) as writer:
        writer.log({"seconds": 1.5})
        writer.log({"seconds": 2.5})
        assert writer.last("seconds") == 2.5
        assert writer.last("minutes") is None
    assert Store.open(path).history == [{"seconds": 1.5}, {"seconds": 2.5}]


def test_a_damaged_line_of_the_history_stops_no_writer(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    (path / "history.jsonl").write_bytes(b'{"seconds": 1.5}\n\xff\n{"seconds"')
    with open_writer(path) as writer:
        assert writer.last("seconds") == 1.5
        writer.log({"seconds": 2.5})
        assert writer.last("seconds") == 2.5
