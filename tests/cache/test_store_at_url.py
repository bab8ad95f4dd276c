"""Stores at URLs: a real S3 server on loopback, and fsspec's memory, against stores on the disk."""

import json
import multiprocessing
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from helpers.seven_row_store import INDEX, artifacts, content, fill, make_store, open_writer, values
from helpers.urls import at_url
from helpers.zsseg_command import zsseg
from typer.testing import CliRunner

from zsseg.pipeline.cli.main import app
from zsseg.stages.cache import shards
from zsseg.stages.cache.catalogue import choose_store, find_stores
from zsseg.stages.cache.disk import bucket_requests
from zsseg.stages.cache.disk.bucket import BucketStorage
from zsseg.stages.cache.disk.lock import HOLDER, lock_left_behind
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.arrays import write_shard
from zsseg.stages.cache.format.manifest import CARD, GROUP, HISTORY, SOURCES, USED
from zsseg.stages.cache.reader import Store
from zsseg.stages.cache.tools.export_archive import export_store
from zsseg.stages.cache.tools.import_archive import import_store
from zsseg.stages.cache.tools.removal import prune, remove_store
from zsseg.stages.cache.tools.store_comparison import compare_stores
from zsseg.stages.cache.tools.uses import find_runs, last_used, note_use, runs_of
from zsseg.stages.cache.verify import verify_store
from zsseg.stages.errors import CacheError, ResourceError

if TYPE_CHECKING:
    from upath import UPath

_NO_CONTENT = {CARD, HISTORY, SOURCES, USED, HOLDER}


def remote_content(path: "UPath") -> dict[str, bytes]:
    """What `content` of small_store gives for a store on the disk."""
    return {
        n: BucketStorage(path / n).read()
        for n in BucketStorage(path).sizes()
        if n not in _NO_CONTENT
    }


def flip(file: "UPath") -> None:
    data = bytearray(BucketStorage(file).read())
    data[len(data) // 2] ^= 1
    BucketStorage(file).write(bytes(data))


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requests that are made from now on, by name."""
    made: list[str] = []
    original = bucket_requests.file_system

    class Counting:
        def __init__(self, path: "UPath") -> None:
            self._files = original(path)

        def __getattr__(self, name: str) -> Any:
            made.append(name)
            return getattr(self._files, name)

    monkeypatch.setattr(bucket_requests, "file_system", Counting)
    return made


# Whole stores


def test_a_store_has_the_bytes_that_it_has_on_the_disk(url_folder: "UPath", tmp_path: Path) -> None:
    path = url_folder / "store"
    make_store(path)
    here = make_store(tmp_path / "store")
    assert remote_content(path) == content(here)
    assert verify_store(path, read_data=True) == []
    assert HOLDER not in BucketStorage(path).sizes()
    store, local = Store.open(path), Store.open(here)
    assert store.fingerprint == local.fingerprint
    assert store.index == local.index
    for row in range(store.rows):
        for array in ("dense", "norm", "regions", "status"):
            np.testing.assert_array_equal(store.read(array, row), local.read(array, row))
    np.testing.assert_array_equal(store.read_all("text"), local.read_all("text"))
    assert compare_stores(path, here).fields == ()
    assert [each.differing for each in compare_stores(path, here).artifacts] == [0, 0, 0, 0]


def test_an_interrupted_run_goes_on_where_it_stopped(
    url_folder: "UPath", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = url_folder / "store"
    done: list[object] = []

    def stopping(*arguments: Any, **options: Any) -> Any:
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(arguments)
        return write_shard(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_shard", stopping)
        with pytest.raises(KeyboardInterrupt), open_writer(path) as writer:
            fill(writer)
    with pytest.raises(CacheError, match="not finished"):
        Store.open(path)
    with open_writer(path) as writer:
        assert sum(map(len, writer.missing().values())) == 10 - 4
        fill(writer)
        writer.seal()
    assert remote_content(path) == content(make_store(tmp_path / "store"))


def test_settings_can_be_changed_in_place(url_folder: "UPath", tmp_path: Path) -> None:
    path, changed = url_folder / "store", {"artifacts": artifacts(threshold=0.5)}
    make_store(path)
    with pytest.raises(CacheError, match=r"regions.merge_threshold"), open_writer(path, **changed):
        pass
    for store in (path, make_store(tmp_path / "store")):
        with open_writer(store, update=True, **changed) as writer:
            assert [name for name, lost in writer.missing().items() if lost] == ["regions"]
            fill(writer)
            writer.seal()
    assert remote_content(path) == content(tmp_path / "store")


def test_images_that_came_are_refused_and_leave_the_store_whole(url_folder: "UPath") -> None:
    path = make_store(url_folder / "store")
    with pytest.raises(CacheError, match=r"objects cannot be moved\. .*`zsseg cache export`"):
        open_writer(path, index=INDEX[:5], update=True)
    assert verify_store(path, read_data=True) == []
    with open_writer(path):  # the lock was given back
        pass


def test_what_is_elsewhere_already_is_no_store(url_folder: "UPath") -> None:
    BucketStorage(url_folder / "store" / "holiday.jpg").write(b"x")
    with pytest.raises(CacheError, match=r"neither empty nor a store .*holiday\.jpg"):
        open_writer(url_folder / "store")


# Damage


@pytest.mark.parametrize(
    ("file", "read_data"),
    [("dense/c.1.0.0.0", True), ("ledger/dense/000001.json", False), (GROUP, False)],
)
def test_a_flipped_byte_is_found(bucket: "UPath", file: str, read_data: bool) -> None:
    make_store(bucket)
    flip(bucket / file)
    assert file in [problem.file for problem in verify_store(bucket, read_data=read_data)]


def test_a_lost_file_is_found_and_made_again(url_folder: "UPath") -> None:
    make_store(url_folder)
    whole = remote_content(url_folder)
    store = Store.open(url_folder)
    BucketStorage(url_folder / "dense/c.1.0.0.0").remove()
    with pytest.raises(CacheError, match=r"dense/c\.1\.0\.0\.0: missing or empty"):
        store.read("dense", 4)
    with pytest.raises(CacheError, match="missing"):
        Store.open(url_folder)
    with open_writer(url_folder) as writer:
        assert fill(writer) == {"dense": [1]}
        writer.seal()
    assert remote_content(url_folder) == whole


# Round trips


def test_opening_a_store_of_many_receipts_takes_few_round_trips(
    bucket: "UPath", monkeypatch: pytest.MonkeyPatch
) -> None:
    many = {"index": [INDEX[0] | {"id": f"scene {n}"} for n in range(60)], "shard_rows": 1}
    small = {"artifacts": artifacts()[:2]}
    with open_writer(bucket, **many, **small) as writer:
        writer.write("text", 0, values("text", range(0)))
        BucketStorage(bucket).map(
            lambda n: writer.write("index", n, {"status": np.zeros(1, np.uint8)}), range(60)
        )
        made = counted(monkeypatch)
        writer.seal()
        # The card reads the 60 shards of `status`, many at a time.
        assert len(made) < 60 + 20
        made.clear()
        writer.missing()
        assert made == ["find", "cat_ranges"]
    made.clear()
    Store.open(bucket)
    assert made == ["find", "cat_ranges", "cat_file", "cat_file"]  # the index: hash, and lines


# Folders of stores


def test_stores_are_listed_chosen_used_and_removed(url_folder: "UPath") -> None:
    make_store(url_folder / "one")
    with open_writer(url_folder / "two"):
        pass
    found = find_stores(url_folder)
    assert [(store.path, store.sealed) for store in found] == [
        (url_folder / "one", True),
        (url_folder / "two", False),
    ]
    size = sum(BucketStorage(url_folder / "one").sizes().values())
    assert found[0].bytes == size
    with pytest.raises(CacheError, match="several stores fit"):
        choose_store(url_folder)
    assert choose_store(url_folder / "one") == url_folder / "one"
    assert last_used(url_folder / "one") is None
    note_use(url_folder / "one")
    assert last_used(url_folder / "one") is not None
    assert remove_store(url_folder / "one") == size
    assert choose_store(url_folder) == url_folder / "two"
    assert [each.path for each in prune(url_folder, unfinished=True, dry_run=False)] == [
        url_folder / "two"
    ]
    assert find_stores(url_folder) == []
    assert BucketStorage(url_folder).sizes() == {}


def test_nothing_that_zsseg_did_not_write_is_removed(url_folder: "UPath") -> None:
    make_store(url_folder)
    BucketStorage(url_folder / "notes.txt").write(b"mine")
    with pytest.raises(CacheError, match=r"did not write \(notes\.txt\)"):
        remove_store(url_folder)
    assert Store.open(url_folder)


def test_a_killed_removal_leaves_what_can_be_removed(
    url_folder: "UPath", monkeypatch: pytest.MonkeyPatch
) -> None:
    make_store(url_folder)

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(BucketStorage, "remove_files", killed)
        with pytest.raises(Killed):
            remove_store(url_folder)
    with pytest.raises(CacheError, match="not finished"):
        Store.open(url_folder)
    remove_store(url_folder)
    assert BucketStorage(url_folder).sizes() == {}


def test_orphans_are_pruned(url_folder: "UPath") -> None:
    make_store(url_folder)
    BucketStorage(url_folder / "gone" / "c.0").write(b"12345")
    assert [
        (each.path, each.bytes) for each in prune(url_folder, unfinished=False, dry_run=False)
    ] == [(url_folder / "gone" / "c.0", 5)]
    assert verify_store(url_folder, read_data=True) == []


def test_a_store_is_carried_here_and_back(url_folder: "UPath", tmp_path: Path) -> None:
    make_store(url_folder / "store")
    export_store(url_folder / "store", tmp_path / "remote.tar")
    here = make_store(tmp_path / "store")
    export_store(here, tmp_path / "local.tar")
    assert (tmp_path / "remote.tar").read_bytes() == (tmp_path / "local.tar").read_bytes()
    imported = import_store(tmp_path / "local.tar", url_folder / "more")
    assert imported.new
    assert not isinstance(imported.path, Path)
    assert remote_content(imported.path) == content(here)
    assert verify_store(imported.path, read_data=True) == []
    assert not import_store(tmp_path / "local.tar", url_folder / "more").new
    assert [store.path for store in find_stores(url_folder / "more")] == [imported.path]


# What a person meets


def test_a_missing_bucket_is_named(s3_server: str) -> None:
    with pytest.raises(ResourceError, match="there is no bucket nobody-made-this"):
        find_stores(at_url("s3://nobody-made-this/stores"))


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (PermissionError("Access Denied"), "no permission: s3://b/x: Access Denied. Set"),
        (TimeoutError("timed out"), "cannot be reached: s3://b/x: timed out. Set credentials"),
        (RuntimeError("no credentials"), "cannot be reached: s3://b/x: RuntimeError: no cred"),
    ],
)
def test_what_the_server_refuses_is_said(
    raised: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing:
        def info(self, path: str) -> None:
            raise raised

    monkeypatch.setattr(bucket_requests, "file_system", lambda path: Refusing())
    with pytest.raises(ResourceError, match=message):
        find_stores(at_url("s3://b/x"))


@pytest.mark.parametrize("url", ["ftp://127.0.0.1:9/x", "http://127.0.0.1:9/x"])
@pytest.mark.parametrize("command", ["ls", "verify", "export"])
def test_a_host_that_cannot_be_reached_is_a_message_for_every_protocol(
    url: str,
    command: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    more = [tmp_path / "a.tar"] if command == "export" else []
    assert zsseg("cache", command, url, *more) == 7
    assert "Traceback" not in capsys.readouterr().err


def test_commands_take_urls(
    bucket: "UPath", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zsseg.pipeline.console.configure_logging", lambda *, quiet: None)
    make_store(bucket / "store")
    runs = ("--runs", str(tmp_path))
    listed = CliRunner().invoke(app, ["cache", "ls", str(bucket), *runs, "--json"])
    assert json.loads(listed.stdout)["path"] == str(bucket / "store")
    verified = CliRunner().invoke(app, ["cache", "verify", str(bucket), "--read-data"])
    assert verified.exit_code == 0, verified.output
    refused = CliRunner().invoke(app, ["cache", "ls", "s3://nobody-made-this", *runs])
    assert isinstance(refused.exception, ResourceError)
    BucketStorage(bucket / "store" / HOLDER).write(
        b'{"pid": 1, "host": "elsewhere", "since": "now"}'
    )
    unlocked = CliRunner().invoke(app, ["cache", "unlock", str(bucket / "store")], input="y\n")
    assert unlocked.exit_code == 0, unlocked.output
    assert lock_left_behind(bucket / "store") is None
    assert CliRunner().invoke(app, ["cache", "rm", str(bucket / "store"), "--yes"]).exit_code == 0
    assert BucketStorage(bucket).sizes() == {}


# Both stages


def test_stage_two_trains_from_the_store_that_stage_one_wrote(
    bucket: "UPath", tiny_world: Path, tiny_clip: str, tmp_path: Path
) -> None:
    from helpers.clip_store import run
    from helpers.tiny_training import FROM_THE_CLOCK, config_of

    from zsseg.stages.data.spec import load_spec
    from zsseg.stages.train.batches.training_data import TrainingData
    from zsseg.stages.train.loop import train

    there, here = (run(tiny_world, tiny_clip, cache).path for cache in (bucket, tmp_path))
    assert not isinstance(there, Path)
    assert isinstance(here, Path)
    assert there.name == here.name
    assert remote_content(there) == content(here)
    assert run(tiny_world, tiny_clip, bucket).written == {}
    assert verify_store(there, read_data=True) == []

    def metrics(store: StorePath, workers: int) -> list[dict[str, Any]]:
        out = tmp_path / f"run-{uuid.uuid4().hex}"
        train(
            config_of(train={"steps": 2, "workers": workers}),
            TrainingData(Store.open(store), load_spec(str(tiny_world)), tiny_world.parent),
            out=out,
            resume=False,
            experiment="small",
            progress=lambda now: None,
        )
        assert json.loads((out / "run.json").read_text())["store"] == str(store.resolve())
        return _without_times(out, FROM_THE_CLOCK)

    expected = metrics(here, 0)
    assert len(expected) == 2
    assert metrics(there, 0) == expected
    assert metrics(there, 2) == expected
    runs = find_runs(tmp_path)
    assert len(runs) == 3
    assert sum(use.store == str(there) for use in runs) == 2
    assert len(runs_of(there, runs)) == 3  # the same content


def _without_times(out: Path, times: Sequence[str] | set[str]) -> list[dict[str, Any]]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in times} for line in lines]


def test_a_store_crosses_processes(bucket: "UPath") -> None:
    """Forked and spawned readers connect anew: fsspec's connections do not survive a fork."""
    make_store(bucket)
    store = Store.open(bucket)
    expected = [store.read("dense", row) for row in range(store.rows)]
    for method, processes in (("fork", 2), ("spawn", 1)):
        with multiprocessing.get_context(method).Pool(processes) as pool:
            found = pool.starmap(store.read, [("dense", row) for row in range(store.rows)])
        np.testing.assert_array_equal(found, expected)
