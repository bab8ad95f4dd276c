"""One writer per store at a URL; a store on the disk is in test_writer."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from helpers.seven_row_store import fill, open_writer
from helpers.urls import at_url

from zsseg.stages.cache.disk.bucket import BucketStorage
from zsseg.stages.cache.disk.lock import HOLDER, lock_left_behind, locked, unlock
from zsseg.stages.cache.format.manifest import SEAL
from zsseg.stages.errors import CacheError, CacheLocked

if TYPE_CHECKING:
    from upath import UPath


def test_a_second_writer_is_refused_and_told_who_writes(url_folder: "UPath") -> None:
    with (
        open_writer(url_folder),
        pytest.raises(CacheLocked, match=rf"process {os.getpid()} on .* \(since 20"),
    ):
        open_writer(url_folder)
    with open_writer(url_folder):
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
    assert BucketStorage(bucket / HOLDER).size()
    with open_writer(bucket):
        pass


def test_another_machines_lock_stays_until_it_is_taken_away(url_folder: "UPath") -> None:
    other = {"pid": 1, "host": "elsewhere", "since": "2026-01-02T03:04:05+00:00"}
    BucketStorage(url_folder / HOLDER).write(json.dumps(other).encode())
    with pytest.raises(CacheLocked, match=r"1 on elsewhere \(since 2026-01-02.*cache unlock"):
        open_writer(url_folder)
    assert (
        lock_left_behind(url_folder) == "process 1 on elsewhere (since 2026-01-02T03:04:05+00:00)"
    )
    unlock(url_folder)
    assert lock_left_behind(url_folder) is None
    with open_writer(url_folder):
        assert lock_left_behind(url_folder) is not None


@pytest.mark.parametrize("what", ["processes", "boot", "host"])
def test_a_writer_elsewhere_is_not_taken_for_dead(bucket: "UPath", what: str) -> None:
    """In another container of this host name its process number says nothing here."""
    with open_writer(bucket):
        holder = json.loads(BucketStorage(bucket / HOLDER).read())
    ended = holder | {"pid": 2**22 + 1}
    BucketStorage(bucket / HOLDER).write(json.dumps(ended | {what: "another"}).encode())
    with pytest.raises(CacheLocked, match="cache unlock"):
        open_writer(bucket)
    BucketStorage(bucket / HOLDER).write(json.dumps(ended).encode())
    with open_writer(bucket):  # here it is known to be gone
        pass


def test_a_number_that_was_given_anew_is_another_process(bucket: "UPath") -> None:
    with open_writer(bucket):
        holder = json.loads(BucketStorage(bucket / HOLDER).read())
    older = holder | {"pid": os.getppid(), "started": "1"}
    BucketStorage(bucket / HOLDER).write(json.dumps(older).encode())
    with open_writer(bucket):
        pass


def test_who_has_lost_the_lock_does_not_seal_and_leaves_the_new_one(url_folder: "UPath") -> None:
    with open_writer(url_folder) as writer:
        fill(writer)
        BucketStorage(url_folder / HOLDER).write(b'{"pid": 1, "host": "elsewhere", "since": "now"}')
        with pytest.raises(CacheError, match="taken away while it wrote"):
            writer.seal()
    assert BucketStorage(url_folder / SEAL).size() is None
    assert lock_left_behind(url_folder) == "process 1 on elsewhere (since now)"


def test_two_creations_at_once_have_one_winner(bucket: "UPath") -> None:
    def create(number: int) -> bool:
        try:
            BucketStorage(bucket / HOLDER).create(str(number).encode())
        except FileExistsError:
            return False
        return True

    won = BucketStorage(bucket).map(create, range(16))
    assert sum(won) == 1
    assert BucketStorage(bucket / HOLDER).read() == str(won.index(True)).encode()


@pytest.mark.filterwarnings("ignore:UPath 'unknown' filesystem")
def test_a_file_system_that_may_not_create_exclusively_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One of which zsseg knows nothing."""

    class Unknown(MemoryFileSystem):  # type: ignore[misc]
        protocol = "unknown"

    fsspec.register_implementation("unknown", Unknown, clobber=True)
    with locked(at_url(f"unknown://{uuid.uuid4().hex}/store")):
        assert "two writers that begin at the same moment are not kept apart" in caplog.text
