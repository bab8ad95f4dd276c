"""Stores at URLs: a real S3 server on loopback, and fsspec's memory, against stores on the disk."""

import json
import logging
import multiprocessing
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from helpers.seven_row_store import INDEX, artifacts, content, fill, make_store, open_writer, values
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
from typer.testing import CliRunner

from zsseg.pipeline.cli.main import app
from zsseg.stages.cache import shards
from zsseg.stages.cache.catalogue import choose_store, find_stores
from zsseg.stages.cache.disk import remote
from zsseg.stages.cache.disk.lock import HOLDER, holder_of, locked, unlock
from zsseg.stages.cache.disk.remote import check_reachable
from zsseg.stages.cache.disk.store_path import StorePath, store_path
from zsseg.stages.cache.format.arrays import write_shard
from zsseg.stages.cache.format.manifest import CARD, GROUP, HISTORY, SEAL, SOURCES, USED
from zsseg.stages.cache.reader import Store
from zsseg.stages.cache.tools.export_archive import export_store
from zsseg.stages.cache.tools.import_archive import import_store
from zsseg.stages.cache.tools.removal import prune, remove_store
from zsseg.stages.cache.tools.store_differences import compare_stores
from zsseg.stages.cache.tools.uses import find_runs, last_used, note_use, runs_of
from zsseg.stages.cache.verify import verify_store
from zsseg.stages.errors import CacheError, CacheLocked, ResourceError

if TYPE_CHECKING:
    from upath import UPath

_NO_CONTENT = {CARD, HISTORY, SOURCES, USED, HOLDER}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an S3 server; this process's environment leads to it and to nothing else."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    nothing = tmp_path_factory.mktemp("aws") / "none"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_CONFIG_FILE", str(nothing))
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(nothing))
        patch.delenv("AWS_PROFILE", raising=False)
        yield f"http://{host}:{port}"
    running.stop()


def place(url: str) -> "UPath":
    path = store_path(url)
    assert not isinstance(path, Path)
    return path


@pytest.fixture
def bucket(server: str) -> "UPath":
    """A folder in an S3 bucket of its own."""
    folder = place(f"s3://stores-{uuid.uuid4().hex[:12]}/of/tests")
    remote._files(folder).mkdir(folder.path.split("/")[0])
    return folder


@pytest.fixture(params=["s3", "memory"])
def folder(request: pytest.FixtureRequest) -> "UPath":
    """A folder elsewhere: in a bucket, and in memory."""
    if request.param == "s3":
        return request.getfixturevalue("bucket")  # type: ignore[no-any-return]
    return place(f"memory://{uuid.uuid4().hex}/of/tests")


def remote_content(path: "UPath") -> dict[str, bytes]:
    """What `content` of small_store gives for a store on the disk."""
    return {n: remote.get(path / n) for n in remote.sizes(path) if n not in _NO_CONTENT}


def flip(file: "UPath") -> None:
    data = bytearray(remote.get(file))
    data[len(data) // 2] ^= 1
    remote.put(file, bytes(data))


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requests that are made from now on, by name."""
    made: list[str] = []
    original = remote._told

    def told(path: Any, call: Any, /, *arguments: Any, **options: Any) -> Any:
        made.append(call.__name__.removeprefix("_"))
        return original(path, call, *arguments, **options)

    monkeypatch.setattr(remote, "_told", told)
    return made


# Whole stores


def test_a_store_has_the_bytes_that_it_has_on_the_disk(folder: "UPath", tmp_path: Path) -> None:
    path = folder / "store"
    make_store(path)
    here = make_store(tmp_path / "store")
    assert remote_content(path) == content(here)
    assert verify_store(path, read_data=True) == []
    assert HOLDER not in remote.sizes(path)
    store, local = Store.open(path), Store.open(here)
    assert store.fingerprint == local.fingerprint
    assert store.index == local.index
    for row in range(store.rows):
        for array in ("dense", "norm", "regions", "status"):
            np.testing.assert_array_equal(store.read(array, row), local.read(array, row))
    np.testing.assert_array_equal(store.read_all("text"), local.read_all("text"))
    assert store.bytes() == sum(remote.sizes(path).values())
    assert compare_stores(path, here).fields == ()
    assert [each.differing for each in compare_stores(path, here).artifacts] == [0, 0, 0, 0]


def test_an_interrupted_run_goes_on_where_it_stopped(
    folder: "UPath", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "store"
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


def test_settings_can_be_changed_in_place(folder: "UPath", tmp_path: Path) -> None:
    path, changed = folder / "store", {"artifacts": artifacts(threshold=0.5)}
    make_store(path)
    with pytest.raises(CacheError, match=r"regions.merge_threshold"), open_writer(path, **changed):
        pass
    for store in (path, make_store(tmp_path / "store")):
        with open_writer(store, update=True, **changed) as writer:
            assert [name for name, lost in writer.missing().items() if lost] == ["regions"]
            fill(writer)
            writer.seal()
    assert remote_content(path) == content(tmp_path / "store")


def test_images_that_came_are_refused_and_leave_the_store_whole(folder: "UPath") -> None:
    path = make_store(folder / "store")
    with pytest.raises(CacheError, match=r"objects cannot be moved\. .*`zsseg cache export`"):
        open_writer(path, index=INDEX[:5], update=True)
    assert verify_store(path, read_data=True) == []
    with open_writer(path):  # the lock was given back
        pass


def test_what_is_elsewhere_already_is_no_store(folder: "UPath") -> None:
    remote.put(folder / "store" / "holiday.jpg", b"x")
    with pytest.raises(CacheError, match=r"neither empty nor a store .*holiday\.jpg"):
        open_writer(folder / "store")


# Damage


@pytest.mark.parametrize(
    ("file", "read_data"),
    [("dense/c.1.0.0.0", True), ("ledger/dense/000001.json", False), (GROUP, False)],
)
def test_a_flipped_byte_is_found(bucket: "UPath", file: str, read_data: bool) -> None:
    make_store(bucket)
    flip(bucket / file)
    assert file in [problem.file for problem in verify_store(bucket, read_data=read_data)]


def test_a_lost_file_is_found_and_made_again(folder: "UPath") -> None:
    make_store(folder)
    whole = remote_content(folder)
    store = Store.open(folder)
    remote.delete(folder / "dense/c.1.0.0.0")
    with pytest.raises(CacheError, match=r"dense/c\.1\.0\.0\.0: missing or empty"):
        store.read("dense", 4)
    with pytest.raises(CacheError, match="missing"):
        Store.open(folder)
    with open_writer(folder) as writer:
        assert fill(writer) == {"dense": [1]}
        writer.seal()
    assert remote_content(folder) == whole


def test_large_files_are_hashed_piece_by_piece(
    folder: "UPath", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_BLOCK", 1000)
    data = np.random.default_rng(0).bytes(2500)
    remote.put(folder / "file", data)
    assert [len(block) for block in remote.blocks(folder / "file")] == [1000, 1000, 500]
    assert b"".join(remote.blocks(folder / "file")) == data


# The lock


def test_a_second_writer_is_refused_and_told_who_writes(folder: "UPath") -> None:
    with (
        open_writer(folder),
        pytest.raises(CacheLocked, match=rf"process {os.getpid()} on .* \(since 20"),
    ):
        open_writer(folder)
    with open_writer(folder):
        pass


def test_a_second_process_is_refused(bucket: "UPath") -> None:
    program = (
        "import sys; from helpers.seven_row_store import open_writer\n"
        "from zsseg.stages.cache.disk.store_path import store_path\n"
        "with open_writer(store_path(sys.argv[1])): print('open', flush=True); sys.stdin.read()"
    )
    search = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])
    with subprocess.Popen(
        [sys.executable, "-c", program, str(bucket)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": search},
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(CacheLocked, match=rf"process {other.pid} on "):
            open_writer(bucket)
        other.kill()
        other.wait()
    # It is gone, and has left its lock.
    assert remote.size(bucket / HOLDER)
    with open_writer(bucket):
        pass


def test_another_machines_lock_stays_until_it_is_taken_away(folder: "UPath") -> None:
    other = {"pid": 1, "host": "elsewhere", "since": "2026-01-02T03:04:05+00:00"}
    remote.put(folder / HOLDER, json.dumps(other).encode())
    with pytest.raises(CacheLocked, match=r"1 on elsewhere \(since 2026-01-02.*cache unlock"):
        open_writer(folder)
    assert holder_of(folder) == "process 1 on elsewhere (since 2026-01-02T03:04:05+00:00)"
    unlock(folder)
    assert holder_of(folder) is None
    with open_writer(folder):
        assert holder_of(folder) is not None


def test_who_has_lost_the_lock_does_not_seal_and_leaves_the_new_one(folder: "UPath") -> None:
    with open_writer(folder) as writer:
        fill(writer)
        remote.put(folder / HOLDER, b'{"pid": 1, "host": "elsewhere", "since": "now"}')
        with pytest.raises(CacheError, match="taken away while it wrote"):
            writer.seal()
    assert remote.size(folder / SEAL) is None
    assert holder_of(folder) == "process 1 on elsewhere (since now)"


def test_two_creations_at_once_have_one_winner(bucket: "UPath") -> None:
    def create(number: int) -> bool:
        try:
            remote.create(bucket / HOLDER, str(number).encode())
        except FileExistsError:
            return False
        return True

    won = remote.in_threads(create, list(range(16)))
    assert sum(won) == 1
    assert remote.get(bucket / HOLDER) == str(won.index(True)).encode()


def test_a_file_system_that_cannot_create_exclusively_is_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zsseg.stages.cache.disk.lock._EXCLUSIVE", frozenset({"s3"}))
    with locked(place(f"memory://{uuid.uuid4().hex}")):
        assert "two writers that begin at the same moment are not kept apart" in caplog.text


# Round trips


def test_opening_a_store_of_many_receipts_takes_few_round_trips(
    bucket: "UPath", monkeypatch: pytest.MonkeyPatch
) -> None:
    many = {"index": [INDEX[0] | {"id": f"scene {n}"} for n in range(60)], "shard_rows": 1}
    small = {"artifacts": artifacts()[:2]}
    with open_writer(bucket, **many, **small) as writer:
        writer.write("text", 0, values("text", range(0)))
        remote.in_threads(
            lambda n: writer.write("index", n, {"status": np.zeros(1, np.uint8)}), list(range(60))
        )
        made = counted(monkeypatch)
        writer.seal()
        assert len(made) < 20
        made.clear()
        writer.missing()
        assert made == ["find", "cat_ranges"]
    made.clear()
    Store.open(bucket)
    assert made == ["find", "cat_ranges", "cat_file", "cat_file"]  # the index: hash, and lines


def test_what_is_written_while_read_ahead_is_seen(folder: "UPath") -> None:
    remote.put(folder / "a.json", b"1")
    remote.put(folder / "c.0", b"old")
    with remote.read_ahead(folder):
        remote.put(folder / "a.json", b"22")
        remote.put(folder / "b.json", b"333")
        remote.delete(folder / "c.0")
        assert remote.get(folder / "a.json") == b"22"
        assert remote.sizes(folder) == {"a.json": 2, "b.json": 3}
        with pytest.raises(FileNotFoundError):
            remote.get(folder / "c.0")
    assert remote.sizes(folder) == {"a.json": 2, "b.json": 3}


# Folders of stores


def test_stores_are_listed_chosen_used_and_removed(folder: "UPath") -> None:
    make_store(folder / "one")
    with open_writer(folder / "two"):
        pass
    found = find_stores(folder)
    assert [(store.path, store.sealed) for store in found] == [
        (folder / "one", True),
        (folder / "two", False),
    ]
    size = sum(remote.sizes(folder / "one").values())
    assert found[0].bytes == size
    with pytest.raises(CacheError, match="several stores fit"):
        choose_store(folder)
    assert choose_store(folder / "one") == folder / "one"
    assert last_used(folder / "one") is None
    note_use(folder / "one")
    assert last_used(folder / "one") is not None
    assert remove_store(folder / "one") == size
    assert choose_store(folder) == folder / "two"
    assert [each.path for each in prune(folder, unfinished=True, dry_run=False)] == [folder / "two"]
    assert find_stores(folder) == []
    assert remote.sizes(folder) == {}


def test_nothing_that_zsseg_did_not_write_is_removed(folder: "UPath") -> None:
    make_store(folder)
    remote.put(folder / "notes.txt", b"mine")
    with pytest.raises(CacheError, match=r"did not write \(notes\.txt\)"):
        remove_store(folder)
    assert Store.open(folder)


def test_a_killed_removal_leaves_what_can_be_removed(
    folder: "UPath", monkeypatch: pytest.MonkeyPatch
) -> None:
    make_store(folder)

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(remote, "delete_files", killed)
        with pytest.raises(Killed):
            remove_store(folder)
    with pytest.raises(CacheError, match="not finished"):
        Store.open(folder)
    remove_store(folder)
    assert remote.sizes(folder) == {}


def test_orphans_are_pruned(folder: "UPath") -> None:
    make_store(folder)
    remote.put(folder / "gone" / "c.0", b"12345")
    assert [(each.path, each.bytes) for each in prune(folder, unfinished=False, dry_run=False)] == [
        (folder / "gone" / "c.0", 5)
    ]
    assert verify_store(folder, read_data=True) == []


def test_a_store_is_carried_here_and_back(folder: "UPath", tmp_path: Path) -> None:
    make_store(folder / "store")
    export_store(folder / "store", tmp_path / "remote.tar")
    here = make_store(tmp_path / "store")
    export_store(here, tmp_path / "local.tar")
    assert (tmp_path / "remote.tar").read_bytes() == (tmp_path / "local.tar").read_bytes()
    imported = import_store(tmp_path / "local.tar", folder / "more")
    assert imported.new
    assert not isinstance(imported.path, Path)
    assert remote_content(imported.path) == content(here)
    assert verify_store(imported.path, read_data=True) == []
    assert not import_store(tmp_path / "local.tar", folder / "more").new
    assert [store.path for store in find_stores(folder / "more")] == [imported.path]


# What a person meets


def test_a_missing_bucket_is_named(server: str) -> None:
    with pytest.raises(ResourceError, match="there is no bucket nobody-made-this"):
        find_stores(place("s3://nobody-made-this/stores"))


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (PermissionError("Access Denied"), "no permission: s3://b/x: Access Denied. Credentials"),
        (TimeoutError("timed out"), "cannot be reached: s3://b/x: timed out. Credentials"),
        (RuntimeError("no credentials"), "cannot be reached: s3://b/x: RuntimeError: no cred"),
    ],
)
def test_what_the_server_refuses_is_said(
    raised: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing:
        def info(self, path: str) -> None:
            raise raised

    monkeypatch.setattr(remote, "_files", lambda path: Refusing())
    with pytest.raises(ResourceError, match=message):
        check_reachable(place("s3://b/x"))


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
    remote.put(bucket / "store" / HOLDER, b'{"pid": 1, "host": "elsewhere", "since": "now"}')
    unlocked = CliRunner().invoke(app, ["cache", "unlock", str(bucket / "store")], input="y\n")
    assert unlocked.exit_code == 0, unlocked.output
    assert holder_of(bucket / "store") is None
    assert CliRunner().invoke(app, ["cache", "rm", str(bucket / "store"), "--yes"]).exit_code == 0
    assert remote.sizes(bucket) == {}


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
