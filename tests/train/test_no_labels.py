"""Data sets without a seen class, and without an unseen one: what both stages make of them."""

import logging
import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest
from helpers.clip_store import CONFIG, content
from helpers.clip_store import run as precompute_tiny
from helpers.drawn_world import draw_world
from helpers.random_store import write_store
from helpers.tiny_training import (
    EVERYTHING,
    Sections,
    metrics_of,
    train_tiny_students,
    what_was_learnt,
    with_changes,
)
from helpers.tiny_training import run as train_tiny
from PIL import Image

from zsseg.pipeline.settings import build, read_experiment
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.spec import FIRST_REGION, load_spec
from zsseg.stages.errors import UserError
from zsseg.stages.precompute.precompute_config import PixelNamesConfig
from zsseg.stages.train.batches.store_check import name_map
from zsseg.stages.train.batches.supervision import check_supervision
from zsseg.stages.train.batches.training_data import TrainingData
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.yaml_files import builtin_names

SMALL: Sections = {"student": {"encoder": "tu-mobilenetv3_small_050"}, "train": {"steps": 4}}
LATENT_FIRST: Sections = {"self_training": {"method": "rst", "source": "teacher"}}
FREE: Sections = {
    "latent": {"enabled": False},
    "self_training": {"method": "st", "source": "teacher", "start": 0.0},
}


def unseen(world: Path, value: str) -> Path:
    """The description with other unseen classes."""
    world.write_text(world.read_text().replace("[ball]", value))
    return world


@pytest.fixture
def tiny_students() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        train_tiny_students(patch)
        yield


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    """A world whose classes are all unseen, with a store of random tokens."""
    return made(tmp_path_factory.mktemp("free"), "all")


def made(folder: Path, value: str) -> TrainingData:
    world = unseen(draw_world(folder / "world"), value)
    return TrainingData(write_store(folder / "store", world), load_spec(str(world)), world.parent)


def config_of(*changes: Sections) -> RunConfig:
    return with_changes(EVERYTHING, SMALL, *changes)


def as_they_are(labels: Path) -> None:
    """The labels of the drawn world."""


def absent(labels: Path) -> None:
    shutil.rmtree(labels)


def as_noise(labels: Path) -> None:
    """Values without a meaning, a label of another size, one that is no image, one too many."""
    rng = np.random.default_rng(0)
    names = sorted(labels.iterdir())
    for path in names[1:]:
        Image.fromarray(rng.integers(0, 256, (48, 64), dtype=np.uint8)).save(path)
    Image.new("L", (7, 5)).save(names[1])
    names[2].write_text("no image")
    names[3].unlink()
    (labels / "of_no_image.png").write_bytes(b"")


@pytest.mark.usefixtures("one_teacher", "tiny_students")
@pytest.mark.parametrize(
    ("method", "names"), [(LATENT_FIRST, False), (FREE, True)], ids=["latent", "free"]
)
def test_labels_change_no_byte(
    tmp_path: Path, tiny_clip: str, method: Sections, names: bool
) -> None:
    """With labels, noise in their place, and without their folder: one store, one run."""
    stores, runs = [], []
    for kind in (as_they_are, as_noise, absent):
        folder = tmp_path / kind.__name__
        world = unseen(draw_world(folder / "world"), "all")
        kind(world.parent / "labels" / "train")
        config = CONFIG.model_copy(update={"pixel_names": PixelNamesConfig(enabled=names)})
        result = precompute_tiny(world, tiny_clip, folder / "cache", config=config)
        store = Store.open(result.path)
        data = TrainingData(store, load_spec(str(world)), world.parent)
        train_tiny(data, folder / "run", config_of(method))
        stores.append((store.fingerprint, content(store.path)))
        runs.append((metrics_of(folder / "run"), what_was_learnt(folder / "run")))
        assert all(entry["label"] is None for entry in store.index)
        assert (store.read_all("regions") > 0).mean() > 0.9  # mined everywhere
        assert ((store.read_all("local_ids") >= FIRST_REGION).sum(1) > 0).all()
    assert stores[0] == stores[1] == stores[2]
    assert runs[0] == runs[1] == runs[2]
    assert np.isfinite([value for line in runs[0][0] for value in line.values()]).all()


def test_labels_and_images_in_one_folder(tmp_path: Path, tiny_clip: str, one_teacher: None) -> None:
    """Labels that are told from images by their ending are no images where none is read."""
    world = draw_world(tmp_path / "world")
    images, labels = (world.parent / kind / "train" for kind in ("images", "labels"))
    for path in labels.iterdir():
        path.rename(images / f"{path.stem}_mask.png")
    patterns = '{images: "images/{split}", labels: "images/{split}", label_suffix: _mask}'
    head = unseen(world, "all").read_text().partition("patterns")[0]
    world.write_text(f"{head}patterns: {patterns}\n")
    store = Store.open(precompute_tiny(world, tiny_clip, tmp_path / "cache").path)
    assert [entry["id"] for entry in store.index] == [f"scene_{i:03d}" for i in range(6)]


@pytest.mark.usefixtures("tiny_students")
@pytest.mark.parametrize(
    "change",
    [
        {"self_training": {"start": 0.5}, "latent": {"enabled": False}},
        {"self_training": {"method": "none"}, "latent": {"enabled": False}},
        {"self_training": {"method": "none"}, "objectives": {"unseen_logits": "competing"}},
        {"protocol": "inductive", "self_training": {"method": "none"}, "objectives": {"sdd": 0.0}},
    ],
)
def test_losses_without_labels_are_finite_or_left_out(
    tmp_path: Path, free: TrainingData, change: Sections
) -> None:
    """Cross-entropy, focal loss and NEL are no part of a step at which no pixel has a label."""
    config = config_of(change)
    train_tiny(free, tmp_path / "run", config)
    for number, line in enumerate(metrics_of(tmp_path / "run")):
        assert np.isfinite(list(line.values())).all()
        trains = config.self_training
        named = trains.method != "none" and number >= trains.start * config.train.steps
        for name in ("cross_entropy", "focal", "nel"):
            assert (name in line) == (named or config.latent.enabled)
        assert "tie" not in line
        assert line["local_distillation"] > 0


@pytest.mark.parametrize("name", builtin_names("experiments"))
def test_every_experiment_is_told_what_has_nothing_to_do(free: TrainingData, name: str) -> None:
    """Either all of it learns from the first step on, or one line says what does not."""
    config = build(RunConfig, read_experiment(name), where=name)
    learns_at_once = config.self_training.method != "none" and config.self_training.start == 0
    kind = name.rpartition("_")[2]
    if kind in {"baseline", "rst", "st", "full"} and "sdd" not in name:
        with pytest.raises(UserError, match=r"no pixel has a label.*`free` does"):
            check_supervision(free.spec, config)
    else:
        told = check_supervision(free.spec, config)
        assert bool(told) == (not learns_at_once and not config.latent.enabled)
        assert all("no pixel has a label" in line and "\n" not in line for line in told)


def test_class_names_are_needed_by_sdd(free: TrainingData) -> None:
    config = config_of({"protocol": "inductive", "self_training": {"method": "none"}})
    with pytest.raises(UserError, match=r"objectives.sdd.*protocol=transductive"):
        check_supervision(free.spec, config)


@pytest.mark.usefixtures("tiny_students")
def test_self_training_without_an_unseen_class_does_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It says so, and the run is that without self-training; distillation goes on."""
    world = made(tmp_path, "[]")
    learnt: dict[str, Any] = {}
    for method in ("none", "st"):
        change = {"latent": {"enabled": False}, "self_training": {"method": method}}
        with caplog.at_level(logging.WARNING):
            train_tiny(world, tmp_path / method, config_of(change))
        learnt[method] = metrics_of(tmp_path / method)
        for line in learnt[method]:
            line.pop("pseudo_label_share", None)
    told = [each.getMessage() for each in caplog.records if "nothing to do" in each.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("self_training.method st")
    assert learnt["st"] == learnt["none"]


@pytest.mark.usefixtures("one_teacher", "tiny_students")
def test_an_image_without_a_label_is_one_whose_label_is_void(
    tmp_path: Path, tiny_clip: str
) -> None:
    """Part labelled, part not: arrays of the store and every byte learnt are the same."""
    arrays, runs = [], []
    for kind in ("missing", "void"):
        folder = tmp_path / kind
        world = draw_world(folder / "world")
        world.write_text(world.read_text() + "labelled: some\n")
        for path in sorted((world.parent / "labels/train").iterdir())[:4]:
            path.unlink()
            if kind == "void":
                Image.new("L", (64, 48), 255).save(path)
        store = Store.open(precompute_tiny(world, tiny_clip, folder / "cache").path)
        train_tiny(
            TrainingData(store, load_spec(str(world)), world.parent),
            folder / "run",
            config_of(LATENT_FIRST),
        )
        stored = content(store.path).items()
        arrays.append({name: value for name, value in stored if "/c." in name})
        runs.append((metrics_of(folder / "run"), what_was_learnt(folder / "run")))
    assert arrays[0]
    assert arrays[0] == arrays[1]
    assert runs[0] == runs[1]
    assert runs[0][0][0]["cross_entropy"] > 0


@pytest.mark.parametrize(("unseen_classes", "expected"), [([], None), (["ball"], "pixel_names")])
def test_a_map_of_all_classes_names_no_seen_ones(
    unseen_classes: list[str], expected: str | None
) -> None:
    class OneMap:
        identity: ClassVar = {"unseen": unseen_classes}

        def has(self, name: str) -> bool:
            return name == "pixel_names"

    assert name_map(cast(Store, OneMap()), config_of(FREE)) == expected


def test_both_stages_list_images_through_one_door() -> None:
    """`list_samples` finds labels that no stage may see where no class is seen."""
    stages = Path(str(files("zsseg.stages")))
    for stage in ("precompute", "train"):
        for path in (stages / stage).rglob("*.py"):
            assert "list_samples" not in path.read_text(encoding="utf-8"), path
