"""Labels that mean something else than the description says are told by their counts."""

from pathlib import Path

import numpy as np
import pytest
from helpers.clip_store import make, run
from helpers.drawn_world import draw_world
from helpers.zsseg_command import called as zsseg
from PIL import Image

from zsseg.stages.cache.reader import Store
from zsseg.stages.data.label_warning import label_warning, visible_warning
from zsseg.stages.data.spec import DatasetSpec, FolderPatterns, load_spec
from zsseg.stages.train.batches.store_check import warn_of_labels


def _spec(**changes: object) -> DatasetSpec:
    values = {"name": "own", "layout": "folder", "classes": ("a", "b", "c"), "unseen": ("c",)}
    return DatasetSpec.model_validate(values | {"patterns": FolderPatterns()} | changes)


@pytest.mark.parametrize(
    ("changes", "pixels", "said"),
    [
        ({}, [4, 5, 6], None),
        ({}, [4, 0, 6], "as 'b'. If the labels show them, their value may be one that is void"),
        ({"ignore": (0, 255)}, [0, 5, 6], "as 'a'. `ignore` has the value of a"),
        ({"encoding": {1: 0, 2: 2}}, [4, 0, 6], "as 'b'. `encoding` has no value for b"),
        ({}, [0, 0, 0], "the labels are void all over"),
    ],
)
def test_a_class_without_a_pixel_is_named_with_its_cause(
    changes: dict[str, object], pixels: list[int], said: str | None
) -> None:
    told = label_warning(_spec(**changes), "train", pixels=pixels, void=7, classes=range(3))
    if said is None:
        assert told is None
    else:
        assert told is not None
        assert told.startswith("split 'train' of 'own': no pixel is labelled as ")
        assert said in told
        assert "\n" not in told


def test_many_classes_are_counted() -> None:
    spec = load_spec("coco-stuff")
    pixels = [1] + [0] * 170
    told = label_warning(spec, "val", pixels=pixels, void=0, classes=range(171))
    assert told is not None
    assert "'bus' and 165 more" in told


def test_visible_counts_are_of_seen_classes() -> None:
    assert visible_warning(_spec(), "train", {"0": 1, "1": 2, "255": 3}) is None
    assert "as 'b'" in str(visible_warning(_spec(), "train", {"0": 1, "255": 3}))
    assert visible_warning(_spec(), "train", None) is None
    assert visible_warning(_spec(), "train", {}) is None


def _relabel(root: Path, old: int, new: int) -> None:
    for path in (root / "labels/train").iterdir():
        label_HW = np.array(Image.open(path))
        label_HW[label_HW == old] = new
        Image.fromarray(label_HW).save(path)


@pytest.mark.usefixtures("one_teacher")
def test_a_store_that_read_some_labels_again_does_not_know(
    tmp_path: Path, tiny_clip: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = draw_world(tmp_path / "world", images=3)
    path = make(world, tiny_clip, tmp_path / "cache")
    known = Store.open(path).last("visible_pixels")
    assert sum(known.values()) == 3 * 48 * 64
    label = world.parent / "labels/train/scene_001.png"
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(label)
    run(world, tiny_clip, tmp_path / "cache", update=True)
    store = Store.open(path)
    assert store.last("visible_pixels") is None
    caplog.clear()
    warn_of_labels(store, load_spec(str(world)))
    assert not caplog.records


@pytest.mark.usefixtures("one_teacher")
def test_verify_precompute_and_train_tell(
    tmp_path: Path, tiny_clip: str, capsys: pytest.CaptureFixture[str]
) -> None:
    world = draw_world(tmp_path / "world", images=3)
    _relabel(world.parent, 2, 255)
    said = "split 'train' of 'tiny-world': no pixel is labelled as 'box'."
    zsseg("dataset", "verify", world, "--root", world.parent, "-q")
    shown = capsys.readouterr()
    assert f"warning: {said}" in shown.err
    assert "no problems" not in shown.out
    path = make(world, tiny_clip, tmp_path / "cache")
    assert capsys.readouterr().err.count(said) == 1
    store = Store.open(path)
    warn_of_labels(store, load_spec(str(world)))
    assert capsys.readouterr().err.count(said) == 1
    visible = store.last("visible_pixels")
    assert set(visible) == {"0", "1", "255"}
    assert sum(visible.values()) == 3 * 48 * 64
