"""A store that changes while a reader holds it: told, and never read as if it were the old one."""

import multiprocessing
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import dataset_changes, stage_one_faults
from helpers.clip_store import run
from helpers.seven_row_store import artifacts, fill, make_store, open_writer, values
from helpers.tiny_training import config_of, train_tiny_students
from helpers.urls import at_url

from zsseg.stages.cache import reader
from zsseg.stages.cache.disk.bucket import BucketStorage
from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.manifest import SEAL
from zsseg.stages.cache.reader import Store
from zsseg.stages.cache.tools.removal import remove_store
from zsseg.stages.data.spec import load_spec
from zsseg.stages.errors import CacheError
from zsseg.stages.train.batches.training_data import TrainingData
from zsseg.stages.train.loop import TrainProgress, train


@pytest.fixture(params=["disk", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> StorePath:
    """Where a store may lie."""
    if request.param == "disk":
        return tmp_path / "store"
    if request.param == "memory":
        return at_url(f"memory://replaced-{uuid.uuid4().hex}/store")
    bucket: StorePath = request.getfixturevalue("bucket")
    return bucket / "store"


def change(path: StorePath, *, whole: bool) -> None:
    """Make the maps of regions again with another threshold, wholly or until the first shard."""
    with open_writer(path, artifacts=artifacts(threshold=0.5), update=True) as writer:
        if whole:
            fill(writer)
            writer.seal()
        else:
            writer.write("regions", 0, values("regions", writer.rows_of(0)))


@pytest.mark.parametrize("place", ["disk", "memory", "s3"], indirect=True)
@pytest.mark.parametrize("whole", [True, False])
def test_a_reader_notices_at_the_next_look(
    place: StorePath, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BucketStorage, "seconds_between_looks", 0.0)
    store = Store.open(make_store(place))
    store.read("dense", 0)
    change(place, whole=whole)
    told = "another one now" if whole else "being written again"
    with pytest.raises(CacheError, match=rf"{told}.*begin again with the new store"):
        store.read("dense", 1)
    with pytest.raises(CacheError, match=told):
        store.read_all("text")


def test_at_a_url_a_reader_looks_once_a_second(
    place: StorePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, looks = [1000.0], [0]
    kind: Any = type(storage(place))
    state = kind.state

    def counted(file: object) -> object:
        looks[0] += 1
        return state(file)

    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(kind, "state", counted)
    store = Store.open(make_store(place))
    for row in range(7):
        store.read("norm", row)
    assert looks[0] == (7 if isinstance(place, Path) else 1)
    if isinstance(place, Path):
        return
    change(place, whole=True)
    store.read("norm", 3)
    now[0] += 1.1
    with pytest.raises(CacheError, match=r"another one now.*last 1 s may be of the new one"):
        store.read("norm", 3)


def test_a_store_sealed_again_with_the_same_content_is_the_same(place: StorePath) -> None:
    store = Store.open(make_store(place))
    seal = storage(place / SEAL).read()
    before = store.read("dense", 2)
    storage(place / SEAL).remove()
    storage(place / SEAL).write(seal)
    np.testing.assert_array_equal(store.read("dense", 2), before)


def test_a_store_that_was_deleted_and_made_anew_is_another(
    place: StorePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BucketStorage, "seconds_between_looks", 0.0)
    store = Store.open(make_store(place))
    store.read("dense", 0)
    remove_store(place)
    with pytest.raises(CacheError, match=r"the store is gone|missing or empty"):
        store.read("dense", 0)
    with open_writer(place, artifacts=artifacts(threshold=0.1)) as writer:
        fill(writer)
        writer.seal()
    with pytest.raises(CacheError, match="another one now"):
        store.read("dense", 0)


def test_what_is_read_while_a_writer_begins_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shard is replaced between the look at the seal and the read: the look comes after it."""
    path = make_store(tmp_path / "store")
    store = Store.open(path)
    store.read("regions", 0)
    stored = Store._stored

    def late(self: Store, array: str, row: int) -> reader.Values:
        change(path, whole=True)
        return stored(self, array, row)

    monkeypatch.setattr(Store, "_stored", late)
    with pytest.raises(CacheError, match="another one now"):
        store.read("regions", 0)


def test_workers_of_a_loader_notice_it(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    store = Store.open(path)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(store.read, ("dense", 0))
        change(path, whole=True)
        with pytest.raises(CacheError, match="another one now"):
            pool.apply(store.read, ("dense", 1))


# A real training, and a real `precompute --update` beside it


def edit(world: Path, clip: str, cache: Path) -> None:
    dataset_changes.edit(world, 2)
    run(world, clip, cache, update=True)


def remove(world: Path, clip: str, cache: Path) -> None:
    """Rows move: the store is set aside."""
    dataset_changes.remove(world, 5)
    run(world, clip, cache, update=True)


def kill(world: Path, clip: str, cache: Path) -> None:
    """An update that has begun and does not end."""
    dataset_changes.edit(world, 2)
    with pytest.MonkeyPatch.context() as patch:
        stage_one_faults.kill_commit(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            run(world, clip, cache, update=True)


@pytest.mark.usefixtures("one_teacher")
@pytest.mark.parametrize(
    ("update", "workers", "told"),
    [
        (edit, 2, "another one now"),
        (remove, 0, "another one now"),
        (kill, 0, "being written again"),
    ],
)
def test_a_training_stops_when_its_store_is_updated(
    fresh: tuple[Path, Path],
    tiny_clip: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    update: Callable[[Path, str, Path], None],
    workers: int,
    told: str,
) -> None:
    train_tiny_students(monkeypatch)
    world, path = fresh
    done: list[int] = []

    def progress(now: TrainProgress) -> None:
        done.append(now.step)
        if now.step == 2:
            update(world, tiny_clip, path.parent)

    config = config_of(
        train={"steps": 60, "workers": workers, "checkpoint_every": 2},
        self_training={"method": "none"},
    )
    with pytest.raises(CacheError, match=told):
        train(
            config,
            TrainingData(Store.open(path), load_spec(str(world)), world.parent),
            out=tmp_path / "run",
            resume=False,
            experiment="replaced",
            progress=progress,
        )
    # Batches that loader processes have read before the update are of the store that was opened.
    assert max(done) <= (2 if workers == 0 else 20)
