"""Labels that mean something else than the description says are told by their counts."""

from pathlib import Path

import numpy as np
import pytest
from helpers.clip_store import make, run
from helpers.drawn_world import draw_world
from helpers.zsseg_command import called as zsseg
from numpy.typing import NDArray
from PIL import Image

from zsseg.stages.cache.reader import Store
from zsseg.stages.data import visible
from zsseg.stages.data.label_warning import label_warning, visible_warning
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec, FolderPatterns, load_spec
from zsseg.stages.data.splits import list_samples
from zsseg.stages.data.visible import read_visible_label
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


def _relabel(root: Path, old: int, new: int, *, only: str = "scene", keep: str = "none") -> None:
    for path in (root / "labels/train").iterdir():
        if only not in path.name or keep in path.name:
            continue
        label_HW = np.array(Image.open(path))
        label_HW[label_HW == old] = new
        Image.fromarray(label_HW).save(path)


SAID = "split 'train' of 'tiny-world': no pixel is labelled as 'box'."


def _told(store: Path, world: Path, caplog: pytest.LogCaptureFixture) -> tuple[int, int]:
    """How often the last run of precompute has said it, and how often a training says it."""
    before = caplog.text.count(SAID)
    caplog.clear()
    warn_of_labels(Store.open(store), load_spec(str(world)), world.parent)
    after = caplog.text.count(SAID)
    caplog.clear()
    return before, after


@pytest.mark.usefixtures("one_teacher")
def test_an_update_that_read_one_label_knows_of_all(
    tmp_path: Path, tiny_clip: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The last box goes, then its label changes again, then a box comes back."""
    world, cache = draw_world(tmp_path / "world", images=3), tmp_path / "cache"
    _relabel(world.parent, 2, 255, keep="scene_001")
    store = make(world, tiny_clip, cache)
    assert _told(store, world, caplog) == (0, 0)
    for old, new, times in ((2, 255, 1), (0, 1, 1), (1, 2, 0)):
        _relabel(world.parent, old, new, only="scene_001")
        run(world, tiny_clip, cache, update=True)
        assert _told(store, world, caplog) == (times, times)
    run(world, tiny_clip, cache)
    assert _told(store, world, caplog) == (0, 0)


@pytest.mark.usefixtures("one_teacher")
@pytest.mark.parametrize("index_lost", [True, False])
def test_a_run_that_goes_on_knows_of_labels_read_before(
    tmp_path: Path, tiny_clip: str, caplog: pytest.LogCaptureFixture, index_lost: bool
) -> None:
    """A killed run leaves no word in the history, even if it had computed everything."""
    world, cache = draw_world(tmp_path / "world", images=6), tmp_path / "cache"
    _relabel(world.parent, 2, 255)
    store = make(world, tiny_clip, cache)
    (store / "history.jsonl").unlink()
    (store / "seal.json").unlink()
    if index_lost:
        sorted((store / "ledger" / "index").iterdir())[-1].unlink()
    caplog.clear()
    run(world, tiny_clip, cache)
    assert _told(store, world, caplog) == (1, 1)
    run(world, tiny_clip, cache)
    assert _told(store, world, caplog) == (1, 1)


@pytest.mark.usefixtures("one_teacher")
def test_training_counts_where_the_store_does_not_know(
    tmp_path: Path, tiny_clip: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = draw_world(tmp_path / "world", images=3)
    _relabel(world.parent, 2, 255)
    store = make(world, tiny_clip, tmp_path / "cache")
    with (store / "history.jsonl").open("a") as history:
        history.write('{"visible_pixels": null}\n')
    assert _told(store, world, caplog) == (1, 1)


@pytest.mark.usefixtures("one_teacher")
def test_labels_void_all_over_are_told_after_an_update_of_one(
    tmp_path: Path, tiny_clip: str, caplog: pytest.LogCaptureFixture
) -> None:
    world, cache = draw_world(tmp_path / "world", images=3), tmp_path / "cache"
    for seen in (0, 1, 2):
        _relabel(world.parent, seen, 255, keep="scene_002")
    make(world, tiny_clip, cache)
    for seen in (0, 1, 2):
        _relabel(world.parent, seen, 255)
    caplog.clear()
    run(world, tiny_clip, cache, update=True)
    assert caplog.text.count("the labels are void all over") == 1


def test_counting_ends_where_every_seen_class_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = draw_world(tmp_path / "world", images=3)
    spec = load_spec(str(world))
    samples = list_samples(spec, world.parent, "train") * 100
    read: list[str] = []

    def noted(spec: DatasetSpec, sample: Sample) -> NDArray[np.uint8]:
        read.append(sample.id)
        return read_visible_label(spec, sample)

    monkeypatch.setattr(visible, "read_visible_label", noted)
    counts = visible.count_visible(spec, samples)
    assert set(counts) == {"0", "1", "2", "255"}
    assert 0 < len(read) <= 100
    assert visible.count_visible(spec, [replace_label(samples[0], None)]) == {}
    (tmp_path / "damaged.png").write_bytes(b"no label")
    assert visible.count_visible(spec, [replace_label(samples[0], tmp_path / "damaged.png")]) == {}


def replace_label(sample: Sample, label: Path | None) -> Sample:
    return Sample(sample.id, sample.image, label)


@pytest.mark.usefixtures("one_teacher")
def test_verify_precompute_and_train_tell(
    tmp_path: Path, tiny_clip: str, capsys: pytest.CaptureFixture[str]
) -> None:
    world = draw_world(tmp_path / "world", images=3)
    _relabel(world.parent, 2, 255)
    zsseg("dataset", "verify", world, "--root", world.parent, "-q")
    shown = capsys.readouterr()
    assert f"warning: {SAID}" in shown.err
    assert "no problems" not in shown.out
    path = make(world, tiny_clip, tmp_path / "cache")
    assert capsys.readouterr().err.count(SAID) == 1
    store = Store.open(path)
    warn_of_labels(store, load_spec(str(world)), world.parent)
    assert capsys.readouterr().err.count(SAID) == 1
    known = store.last("visible_pixels")
    assert set(known) == {"0", "1", "255"}
    assert sum(known.values()) == 3 * 48 * 64
