"""Self-training from a store's map of names: how it is cut, which labels it gives, what is read."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from helpers.drawn_world import draw_world
from helpers.random_store import MAP_GRID, write_store
from helpers.tiny_training import config_of as tiny_config
from helpers.tiny_training import metrics_of, run, train_tiny_students, what_was_learnt
from numpy.typing import NDArray
from PIL import Image
from test_batch_losses import GRID, UNSEEN, inputs, slow_pseudo_labels
from test_batch_losses import config_of as losses_config
from test_batches import config_of

from zsseg.stages.cache.reader import Store
from zsseg.stages.data.geometry import cell_centres
from zsseg.stages.data.spec import VOID, load_spec
from zsseg.stages.errors import CacheError
from zsseg.stages.train.batches.batch import Batch
from zsseg.stages.train.batches.crops import CropDataset, cache_bytes
from zsseg.stages.train.batches.loader import make_loader
from zsseg.stages.train.batches.sampling import random_view, view_rng
from zsseg.stages.train.batches.store_check import check_store
from zsseg.stages.train.batches.training_data import TrainingData
from zsseg.stages.train.losses.loss_inputs import labels_of_map
from zsseg.stages.train.run_config import RunConfig

TEACHER: dict[str, Any] = {"method": "st", "source": "teacher", "start": 0.0}


def make_world(folder: Path, **store: Any) -> TrainingData:
    description = draw_world(folder / "world", images=6)
    made = write_store(folder / "store", description, **store)
    return TrainingData(made, load_spec(str(description)), description.parent)


@pytest.fixture
def world(tmp_path: Path) -> TrainingData:
    return make_world(tmp_path, names=True)


def test_the_map_is_cut_as_the_image_is(world: TrainingData) -> None:
    """Each cell of 4 pixels shows the cell of the map that its centre falls into."""
    store, _, root = world
    config = config_of({"scale": (0.3, 2.0), "crop": (32, 48)}, self_training=TEACHER)
    crops, flips, padded = CropDataset(world, config), set(), 0
    for position in range(12):
        item = crops[position]
        assert item.names_B3qr is not None
        row = int(item.row_B)
        label_HW = np.array(Image.open(root / store.index[row]["label"]))
        label_HW[label_HW == 3] = VOID
        view = random_view(
            view_rng(0, position), (48, 64), config.augmentation, visible_HW=label_HW
        )
        map_4yx = store.read("unseen_names", row)
        y_q, x_r = cell_centres(view, 8, 12)
        for q, r in np.ndindex(8, 12):
            y, x = math.floor(y_q[q] * MAP_GRID[0]), math.floor(x_r[r] * MAP_GRID[1])
            if not (0 <= y_q[q] < 1 and 0 <= x_r[r] < 1):
                padded += 1
                assert not item.names_B3qr[0, :, q, r].any()
                continue
            assert item.names_B3qr[0, :, q, r].tolist() == map_4yx[[0, 2, 3], y, x].tolist()
        flips.add(view.flip)
    assert flips == {True, False}
    assert padded


def with_map(batch: Batch, best: NDArray[Any], codes: NDArray[Any]) -> Batch:
    """A batch with what is cut of a map of names."""
    planes = np.concatenate([best[:, None], codes], axis=1)
    return replace(batch, names_B3qr=torch.from_numpy(planes.astype(np.uint8)))


@pytest.mark.parametrize("confidence", ["score", "margin"])
@pytest.mark.parametrize("method", ["st", "rst"])
def test_labels_of_the_map_against_loops(
    method: Literal["st", "rst"], confidence: Literal["score", "margin"]
) -> None:
    """They are those of scores that have the map's best class first, by the same confidence."""
    _, batch = inputs(seed=4)
    rng = np.random.default_rng(5)
    best = rng.choice(UNSEEN, (2, *GRID))
    codes = np.sort(rng.integers(1, 256, (2, 2, *GRID)), axis=1)[:, ::-1]
    codes[:, 1, 0] = 0  # no second class
    batch = with_map(batch, best, codes)
    settings = {"method": method, "source": "teacher", "confidence": confidence}
    config = losses_config(self_training=settings | {"top_percent": 50.0})
    found = labels_of_map(batch, config, GRID)
    as_scores = np.zeros((2, 5, *GRID))
    score = np.where(codes > 0, 1 / (1 + np.exp((128 - codes) / 10)), 0)
    sure = score[:, 0] - score[:, 1] if confidence == "margin" else score[:, 0]
    np.put_along_axis(as_scores, best[:, None], sure[:, None], 1)
    expected = slow_pseudo_labels(as_scores, batch, method == "rst", 0.5)
    assert (found.numpy() == expected).all()
    assert (found.numpy() != batch.label_BHW.numpy()).any()


def test_a_coarser_feature_takes_the_nearest_cells() -> None:
    _, batch = inputs(seed=4)
    rng = np.random.default_rng(6)
    fine = (8, 10)
    best, codes = rng.choice(UNSEEN, (2, *fine)), rng.integers(0, 256, (2, 2, *fine))
    of_fine = with_map(batch, best, codes)
    coarse = with_map(batch, best[:, 1::2, 1::2], codes[:, :, 1::2, 1::2])
    config = losses_config(self_training={"method": "st", "source": "teacher"})
    left, right = (labels_of_map(each, config, GRID) for each in (of_fine, coarse))
    assert torch.equal(left, right)


def test_dense_tokens_are_read_only_for_what_distils_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a store that keeps none serves self-training too."""
    read: list[str] = []
    whole = Store.read

    def noted(self: Store, array: str, row: int) -> Any:
        read.append(array)
        return whole(self, array, row)

    monkeypatch.setattr(Store, "read", noted)
    without_dense = make_world(tmp_path / "none", names=True, dense=False)
    both = make_world(tmp_path / "both", names=True)
    tokens = make_world(tmp_path / "tokens")
    maps = {"unseen_names"}
    names = config_of(self_training=TEACHER)
    distils = config_of(self_training=TEACHER, objectives={"dense": 1.0})
    cases: tuple[tuple[TrainingData, RunConfig, set[str]], ...] = (
        (without_dense, names, maps),
        (both, names, maps),
        (both, distils, maps | {"dense"}),
        (tokens, names, {"dense"}),
        (both, config_of(self_training={"method": "st"}), set()),
    )
    for data, config, expected in cases:
        check_store(data.store, data.spec, config)
        read.clear()
        batch = next(make_loader(data, config))
        assert set(read) == expected
        assert (batch.names_B3qr is not None) == ("unseen_names" in expected)
        assert (batch.image_dense_BDhw is not None) == ("dense" in expected)
        bytes_of = {"dense": 2 * 22 * 6 * 8} | {"unseen_names": 4 * 11 * 17}
        assert cache_bytes(data.store, config) == sum(bytes_of[name] for name in expected)
    with pytest.raises(CacheError, match="holds no dense"):
        check_store(without_dense.store, without_dense.spec, distils)


def test_a_run_learns_from_the_map_and_nothing_from_hidden_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_tiny_students(monkeypatch)
    world = make_world(tmp_path, names=True, dense=False)
    config = tiny_config(objectives={"sdd": 0.0}, self_training=TEACHER)
    run(world, tmp_path / "run", config)
    shares = [line["pseudo_label_share"] for line in metrics_of(tmp_path / "run")]
    assert max(shares) > 0.5  # a crop may show no unlabelled pixel
    rng, changed = np.random.default_rng(0), 0
    for entry in world.store.index:
        label_HW = np.array(Image.open(world.root / entry["label"]))
        hidden_HW = (label_HW == 3) | (label_HW == VOID)
        label_HW[hidden_HW] = rng.choice([3, VOID], hidden_HW.sum())
        changed += int(hidden_HW.sum())
        Image.fromarray(label_HW).save(world.root / entry["label"])
    assert changed
    run(world, tmp_path / "noise", config)
    assert what_was_learnt(tmp_path / "noise") == what_was_learnt(tmp_path / "run")
