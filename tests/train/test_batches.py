"""Batches: what lands where, what is read, and that nothing depends on workers or resumption."""

import multiprocessing
import os
import pickle
import signal
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.drawn_world import draw_world
from helpers.random_store import GRID, write_store
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image

from zsseg.stages.cache.reader import Store
from zsseg.stages.data.geometry import crop_tokens, pool_tokens
from zsseg.stages.data.spec import VOID, load_spec
from zsseg.stages.errors import CacheError, DatasetError, ResourceError
from zsseg.stages.train.batches import crops as crops_module
from zsseg.stages.train.batches.batch import Batch, cut_to_crops
from zsseg.stages.train.batches.crops import CropDataset
from zsseg.stages.train.batches.loader import make_loader
from zsseg.stages.train.batches.packing import packed, unpacked
from zsseg.stages.train.batches.sampling import random_view, view_rng
from zsseg.stages.train.batches.store_check import check_store
from zsseg.stages.train.batches.training_data import TrainingData
from zsseg.stages.train.resource_errors import explained
from zsseg.stages.train.run_config import RunConfig

WHOLE: dict[str, Any] = {
    "short_side": None,
    "scale": (1.0, 1.0),
    "crop": (48, 64),
    "flip": 0.0,
    "photometric": False,
}

EVERYTHING: dict[str, dict[str, Any]] = {
    "objectives": {"sdd": 1.0},
    "self_training": {"method": "rst"},
}


def config_of(augmentation: dict[str, Any] | None = None, **sections: dict[str, Any]) -> RunConfig:
    base: dict[str, dict[str, Any]] = {
        "augmentation": {"short_side": 48, "crop": (32, 32)} | (augmentation or {}),
        "train": {"steps": 5, "batch": 3, "workers": 0, "warmup_steps": 0},
    }
    for name, section in sections.items():
        base[name] = base.get(name, {}) | section
    return RunConfig.model_validate(base)


@pytest.fixture
def world(tmp_path: Path) -> TrainingData:
    description = draw_world(tmp_path / "world", images=6)
    store = write_store(tmp_path / "store", description)
    return TrainingData(store, load_spec(str(description)), description.parent)


def same(left: Batch, right: Batch) -> bool:
    pairs = ((getattr(left, f.name), getattr(right, f.name)) for f in fields(Batch))
    return all((a is None and b is None) or torch.equal(a, b) for a, b in pairs)


def test_a_whole_unchanged_image(world: TrainingData) -> None:
    store, _, root = world
    crops = CropDataset(world, config_of(WHOLE))
    rows = []
    for position in range(6):
        item = crops[position]
        row = int(item.row_B)
        rows.append(row)
        image_HW3 = np.asarray(Image.open(root / store.index[row]["image"]), np.float64) / 255
        expected = (image_HW3 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        assert np.allclose(item.image_B3HW[0].permute(1, 2, 0), expected, atol=1e-5)
        label_HW = np.array(Image.open(root / store.index[row]["label"]))
        label_HW[label_HW == 3] = VOID  # the unseen class
        assert (item.label_BHW[0].numpy() == label_HW).all()
        assert item.inside_BHW.all()
        assert item.region_BHW is None
        assert item.token_BD is None
    assert sorted(rows) == list(range(6))


def test_image_label_and_region_land_at_the_same_place(tmp_path: Path) -> None:
    """Images of flat tiles, one per token; grey and label of each follow from its region."""
    description = draw_world(tmp_path / "world", images=4)
    store, root = write_store(tmp_path / "store", description), description.parent
    for row, entry in enumerate(store.index):
        tile_HW = np.kron(store.read("regions", row), np.ones((8, 8), np.uint8))
        Image.fromarray(np.repeat(60 * tile_HW[:, :, None], 3, axis=2)).save(root / entry["image"])
        Image.fromarray(np.minimum(tile_HW, 2)).save(root / entry["label"])
    augmentation = {"short_side": 96, "crop": (80, 80), "photometric": False}
    config = config_of(augmentation, self_training={"method": "rst"})
    crops = CropDataset(TrainingData(store, load_spec(str(description)), root), config)
    flips, padded = set(), False
    for position in range(40):
        item = cut_to_crops(crops[position])
        assert item.region_BHW is not None
        region_HW, inside_HW = item.region_BHW[0].numpy(), item.inside_BHW[0].numpy()
        grey_HW = (item.image_B3HW[0, 0].numpy() * 0.229 + 0.485) * 255
        right_HW = np.abs(grey_HW - 60.0 * region_HW) < 1
        assert right_HW[inside_HW].mean() > 0.6
        # Where tiles meet, bilinear resampling mixes their colours.
        around_HWkk = sliding_window_view(np.pad(region_HW, 3, constant_values=9), (7, 7))
        flat_HW = around_HWkk.max((2, 3)) == around_HWkk.min((2, 3))
        assert flat_HW.any()
        assert right_HW[inside_HW & flat_HW].all()
        label_HW = item.label_BHW[0].numpy()
        assert (label_HW == np.where(inside_HW, np.minimum(region_HW, 2), VOID)).all()
        view = random_view(view_rng(0, position), (48, 64), config.augmentation)
        flips.add(view.flip)
        padded |= not inside_HW.all()
    assert flips == {False, True}
    assert padded


def test_outside_the_image_nothing_is_shown(world: TrainingData) -> None:
    config = config_of(
        WHOLE | {"crop": (56, 80), "photometric": True}, self_training={"method": "rst"}
    )
    item = cut_to_crops(CropDataset(world, config)[1])
    assert item.region_BHW is not None
    for map_BHW, outside in ((item.inside_BHW, 0), (item.label_BHW, VOID), (item.region_BHW, 0)):
        assert (map_BHW[0, 48:] == outside).all()
        assert (map_BHW[0, :, 64:] == outside).all()
    assert (item.image_B3HW[0, :, 48:] == 0).all()
    assert (item.image_B3HW[0, :, :, 64:] == 0).all()
    assert item.inside_BHW.sum() == 48 * 64
    assert (item.image_B3HW[0, :, :48, :64] != 0).float().mean() > 0.9


@pytest.mark.parametrize(
    ("sections", "arrays"),
    [
        ({}, set()),
        ({"self_training": {"method": "st"}}, set()),
        ({"self_training": {"method": "rst"}}, {"regions"}),
        ({"objectives": {"sdd": 1.0}}, {"cls"}),
        ({"objectives": {"sdd": 1.0, "token": "pooled"}}, {"dense"}),
    ],
)
def test_only_what_the_objectives_need_is_read(
    world: TrainingData,
    monkeypatch: pytest.MonkeyPatch,
    sections: dict[str, dict[str, Any]],
    arrays: set[str],
) -> None:
    crops = CropDataset(world, config_of(**sections))
    seen: set[str] = set()
    read = Store.read

    def recorded(self: Store, array: str, row: int) -> NDArray[Any]:
        seen.add(array)
        return read(self, array, row)

    monkeypatch.setattr(Store, "read", recorded)
    item = crops[0]
    assert seen == arrays
    assert (cut_to_crops(item).region_BHW is not None) == ("regions" in arrays)
    assert (item.token_BD is not None) == bool(arrays & {"cls", "dense"})


def test_tokens_of_the_image_and_of_the_crop(world: TrainingData) -> None:
    store, _, root = world
    image = config_of(objectives={"sdd": 1.0})
    pooled = config_of(objectives={"sdd": 1.0, "token": "pooled"})
    item, cropped = (CropDataset(world, each)[2] for each in (image, pooled))
    row = int(item.row_B)
    assert item.token_BD is not None
    assert cropped.token_BD is not None
    assert (item.token_BD[0].numpy() == store.read("cls", row)[0].astype(np.float32)).all()
    label_HW = np.array(Image.open(root / store.index[row]["label"]))
    label_HW[label_HW == 3] = VOID
    view = random_view(view_rng(0, 2), (48, 64), pooled.augmentation, visible_HW=label_HW)
    expected_D = pool_tokens(store.read("dense", row), view)
    assert (cropped.token_BD[0].numpy() == expected_D).all()
    assert store.read("dense", row).shape[1:] == GRID


def test_dense_tokens_are_those_of_the_crop_and_zero_outside(
    world: TrainingData,
) -> None:
    store, _, root = world
    settings = {"scale": (0.3, 2.0), "crop": (32, 48)}
    config = config_of(settings, objectives={"dense": 1.0, "dense_stride": 8})
    crops, views = CropDataset(world, config), []
    batch = cut_to_crops(unpacked(packed([crops[position] for position in range(12)])))
    assert batch.dense_BDyx is not None
    for position, row in enumerate(batch.row_B.tolist()):
        label_HW = np.array(Image.open(root / store.index[row]["label"]))
        label_HW[label_HW == 3] = VOID
        rng = view_rng(0, position)
        view = random_view(rng, (48, 64), config.augmentation, visible_HW=label_HW)
        dense_Dhw = store.read("dense", row).astype(np.float64)
        dense_Dhw /= np.linalg.norm(dense_Dhw, axis=0)
        expected_Dyx = crop_tokens(dense_Dhw, view, (4, 6))
        np.testing.assert_allclose(batch.dense_BDyx[position], expected_Dyx, atol=1e-6)
        views.append(view)
    assert {view.flip for view in views} == {True, False}
    padded_B = (batch.dense_BDyx == 0).all(1).flatten(1).any(1)
    assert padded_B.any()
    assert not padded_B.all()


def test_batches_do_not_depend_on_workers(world: TrainingData) -> None:
    alone, with_two = (
        list(make_loader(world, config_of(train={"workers": workers}, **EVERYTHING)))
        for workers in (0, 2)
    )
    assert len(alone) == len(with_two) == 5
    assert all(same(left, right) for left, right in zip(alone, with_two, strict=True))
    assert alone[0].image_B3HW.shape == (3, 3, 32, 32)
    assert not torch.equal(alone[0].image_B3HW, alone[2].image_B3HW)  # one epoch later


def test_a_later_start_gives_the_same_batches(world: TrainingData) -> None:
    whole = list(make_loader(world, config_of()))
    rest = list(make_loader(world, config_of(), start_step=3))
    assert all(same(left, right) for left, right in zip(whole[3:], rest, strict=True))


def test_the_loader_leaves_torch_s_generator_alone(world: TrainingData) -> None:
    before = torch.get_rng_state()
    next(make_loader(world, config_of()))
    assert torch.equal(torch.get_rng_state(), before)


def test_another_seed_gives_other_batches(world: TrainingData) -> None:
    first, other = (next(make_loader(world, config_of(train={"seed": seed}))) for seed in (0, 1))
    assert not torch.equal(first.image_B3HW, other.image_B3HW)


def test_the_data_set_survives_pickling(world: TrainingData) -> None:
    """Workers that are spawned, not forked, get it so."""
    crops = CropDataset(world, config_of(objectives={"sdd": 1.0}))
    copy = pickle.loads(pickle.dumps(crops))
    assert same(crops[7], copy[7])


def test_labels_of_unseen_classes_change_nothing(world: TrainingData) -> None:
    store, _, root = world
    before = list(make_loader(world, config_of()))
    assert any((batch.label_BHW == VOID).any() for batch in before)
    rng, changed = np.random.default_rng(0), 0
    for entry in store.index:
        label_HW = np.array(Image.open(root / entry["label"]))
        hidden_HW = (label_HW == 3) | (label_HW == VOID)
        label_HW[hidden_HW] = rng.choice([3, VOID], hidden_HW.sum())
        changed += hidden_HW.sum()
        Image.fromarray(label_HW).save(root / entry["label"])
    assert changed > 0
    after = list(make_loader(world, config_of()))
    assert all(same(left, right) for left, right in zip(before, after, strict=True))


def test_failed_rows_are_never_drawn(tmp_path: Path) -> None:
    description = draw_world(tmp_path / "world", images=6)
    store = write_store(tmp_path / "store", description, failed=(1, 4))
    spec, root = load_spec(str(description)), description.parent
    (root / store.index[1]["image"]).write_bytes(b"")
    config = config_of(train={"steps": 4, "batch": 4})
    rows = torch.cat(
        [batch.row_B for batch in make_loader(TrainingData(store, spec, root), config)]
    )
    assert torch.bincount(rows, minlength=6).tolist() == [4, 0, 4, 4, 0, 4]


def test_a_store_without_a_readable_image(tmp_path: Path) -> None:
    description = draw_world(tmp_path / "world", images=2)
    store = write_store(tmp_path / "store", description, failed=(0, 1))
    with pytest.raises(DatasetError, match="no image of it could be read"):
        make_loader(
            TrainingData(store, load_spec(str(description)), description.parent), config_of()
        )


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named(world: TrainingData, workers: int) -> None:
    store, _, root = world
    loader = make_loader(world, config_of(train={"workers": workers}))
    (root / store.index[3]["image"]).write_bytes(b"no image")  # once the start has looked at it
    with pytest.raises(DatasetError, match=r"scene_003\.png") as caught:
        list(loader)
    assert "Traceback" not in str(caught.value)


def test_a_label_of_another_size_is_named(world: TrainingData) -> None:
    store, _, root = world
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(root / store.index[2]["label"])
    with pytest.raises(DatasetError, match=r"scene_002.*\(20, 30\).*\(48, 64\)"):
        list(make_loader(world, config_of()))


def test_a_killed_worker_is_explained(world: TrainingData, monkeypatch: pytest.MonkeyPatch) -> None:

    def die(_: Path) -> NDArray[np.uint8]:
        os._exit(1)

    monkeypatch.setattr(crops_module, "read_image", die)
    config = config_of(train={"workers": 1})
    loader: Iterator[Batch] = make_loader(world, config)
    with pytest.raises(ResourceError, match=r"train\.workers=0"), explained(config):
        next(loader)


def test_workers_outlive_the_signals_of_their_group(
    world: TrainingData,
) -> None:
    loader = make_loader(world, config_of(train={"workers": 1, "steps": 6}))
    next(loader)
    for kind in (signal.SIGTERM, signal.SIGINT):
        for child in multiprocessing.active_children():
            assert child.pid is not None
            os.kill(child.pid, kind)
    assert len(list(loader)) == 5


def test_an_error_of_ours_in_a_worker_is_not_a_killed_worker(
    world: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:

    def wrong(_: Path) -> NDArray[np.uint8]:
        raise RuntimeError("our own mistake")

    monkeypatch.setattr(crops_module, "read_image", wrong)
    config = config_of(train={"workers": 2})
    others = set(multiprocessing.active_children())
    with pytest.raises(RuntimeError, match="our own mistake") as caught, explained(config):
        next(make_loader(world, config))
    # Though the error is still held, and with it the frames of torch's loader.
    assert caught.value.__traceback__ is not None
    assert set(multiprocessing.active_children()) <= others


def test_images_that_are_gone_are_named(world: TrainingData) -> None:
    store, _, root = world
    (root / store.index[5]["image"]).unlink()
    with pytest.raises(DatasetError, match=r"1 of the 6 images.*'scene_005'"):
        make_loader(world, config_of())


def test_labels_that_are_gone_are_named(world: TrainingData) -> None:
    store, _, root = world
    for row in (2, 4):
        (root / store.index[row]["label"]).unlink()
    with pytest.raises(DatasetError, match=r"labels of 2 of the 6 labelled.*'scene_002'"):
        make_loader(world, config_of())


def test_images_that_never_had_a_label_are_welcome(tmp_path: Path) -> None:
    description = draw_world(tmp_path / "world", images=3)
    (description.parent / "labels" / "train" / "scene_001.png").unlink()
    store = write_store(tmp_path / "store", description)
    spec = load_spec(str(description))
    batch = next(make_loader(TrainingData(store, spec, description.parent), config_of()))
    assert (batch.label_BHW[batch.row_B == 1] == VOID).all()


def test_a_store_of_other_classes_is_refused(world: TrainingData) -> None:
    store, spec, _ = world
    check_store(store, spec, config_of())
    with pytest.raises(CacheError, match=r'unseen\[0\]: stored "ball", asked "box"'):
        check_store(store, spec.model_copy(update={"unseen": ("box",)}), config_of())


@pytest.mark.parametrize(
    ("sections", "lacking"),
    [
        ({"self_training": {"method": "rst"}}, "regions"),
        ({"objectives": {"sdd": 1.0, "token": "pooled"}}, "dense"),
    ],
)
def test_a_store_that_lacks_something_is_refused_only_if_it_is_needed(
    tmp_path: Path, sections: dict[str, dict[str, Any]], lacking: str
) -> None:
    description = draw_world(tmp_path / "world", images=3)
    store = write_store(tmp_path / "store", description, dense=False, regions=False)
    spec = load_spec(str(description))
    check_store(store, spec, config_of(self_training={"method": "st"}, objectives={"sdd": 1.0}))
    with pytest.raises(CacheError, match=f"holds no {lacking}"):
        check_store(store, spec, config_of(**sections))
