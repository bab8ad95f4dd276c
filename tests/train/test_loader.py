"""The loader: the same batches however they are made, and what it says when the store is gone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_training import (
    EVERYTHING,
    World,
    make_world,
    run,
    train_tiny_students,
    with_changes,
)
from torch import Tensor

from zsseg.stages.errors import CacheError
from zsseg.stages.train.batches.batch import Batch
from zsseg.stages.train.batches.crops import CropDataset, cache_bytes
from zsseg.stages.train.batches.loader import Steps, make_loader
from zsseg.stages.train.batches.packing import Packed, packed, unpacked
from zsseg.stages.train.run import checkpoint
from zsseg.stages.train.run_config import RunConfig

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def config_of(**train: Any) -> RunConfig:
    return with_changes(EVERYTHING, {"train": {"batch": 6, "steps": 3} | train})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def fields_of(batch: Batch) -> dict[str, Tensor]:
    return {name: value for name, value in vars(batch).items() if value is not None}


def same(one: Batch, other: Batch) -> bool:
    left, right = fields_of(one), fields_of(other)
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_processes_share_the_batches_of_one(world: World, count: int) -> None:
    config = config_of()
    crops = CropDataset(world, config)
    for step in range(3):
        whole = Steps(crops, 6, number=0, count=1)[step]
        shares = [Steps(crops, 6, number=number, count=count)[step] for number in range(count)]
        assert isinstance(whole, Packed)
        parts = [unpacked(each) for each in shares if isinstance(each, Packed)]
        assert same(unpacked(packed(parts)), unpacked(whole))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_may_be_forked_or_spawned(
    world: World, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """With a store that the training process has read from already."""
    store = world.store
    store.read("dense", 0)
    expected = list(make_loader(world, config_of()))
    before = torch.multiprocessing.get_start_method()
    torch.multiprocessing.set_start_method(method, force=True)
    try:
        found = list(make_loader(world, config_of(workers=1)))
    finally:
        torch.multiprocessing.set_start_method(before, force=True)
    assert len(found) == len(expected) == 3
    assert all(same(one, other) for one, other in zip(found, expected, strict=True))


def test_slots_are_those_that_the_step_needs(world: World) -> None:
    """The last slot of every image is empty, and a store keeps it for the fullest image."""
    store = world.store
    id_NK = store.read_all("local_ids")
    batch = next(make_loader(world, config_of()))
    assert batch.local_id_BK is not None
    assert batch.local_BKD is not None
    used = max(int(np.flatnonzero(id_K >= 0).max()) + 1 for id_K in id_NK)
    assert batch.local_id_BK.shape[1] == batch.local_BKD.shape[1] == used == id_NK.shape[1] - 1


def test_bytes_of_the_cache_are_counted(world: World) -> None:
    store, _, _ = world
    objectives = {
        "global_distillation": 0.0,
        "local_distillation": 0.0,
        "dense": 0.0,
        "dense_relation": 0.0,
    }
    less = {"objectives": objectives, "latent": {"enabled": False}}
    plain = {"objectives": objectives | {"sdd": 0.0}, "self_training": {"method": "none"}}
    dense, cls, regions = 22 * 6 * 8 * 2, 22 * 2, 6 * 8
    local = 7 * (22 * 2 + 2)
    assert cache_bytes(store, config_of()) == dense + cls + regions + local
    assert cache_bytes(store, with_changes(EVERYTHING, less)) == cls + regions
    assert cache_bytes(store, with_changes(EVERYTHING, less, plain)) == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_a_store_that_is_deleted_meanwhile_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """The run stops at once, and goes on when the store is back."""
    train_tiny_students(monkeypatch)
    world = make_world(tmp_path)
    path, out = tmp_path / "store", tmp_path / "run"
    config = config_of(workers=workers, steps=30, checkpoint_every=2, batch=2)

    def delete(step: int) -> None:
        if step == 3:
            path.rename(tmp_path / "moved")

    with pytest.raises(CacheError, match=r"store: the store is gone: .*Put it back.*--resume"):
        run(world, out, config, after_step=delete)
    newest = checkpoint.latest(out)
    assert newest is not None
    assert checkpoint.step_of(newest) >= 2
    (tmp_path / "moved").rename(path)
    assert run(world, out, config, resume=True).steps == 30
