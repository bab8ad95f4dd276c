"""What a run is validated by: seen labels only unless asked, and what there is without labels."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.drawn_world import draw_world
from helpers.random_store import write_store
from helpers.several_processes import together
from helpers.tiny_training import (
    World,
    config_of,
    make_world,
    metrics_of,
    run,
    sure_student,
    train_tiny_students,
    what_was_learnt,
)
from numpy.typing import NDArray
from PIL import Image

from zsseg.stages.cache.reader import Store
from zsseg.stages.data.images import read_image
from zsseg.stages.data.spec import load_spec
from zsseg.stages.data.splits import list_samples
from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.hidden_classes import visible_confusions
from zsseg.stages.evaluate.metrics import scores
from zsseg.stages.evaluate.trained_run import load_run
from zsseg.stages.evaluate.validator import make_validator, spread
from zsseg.stages.train.batches.training_data import TrainingData
from zsseg.stages.train.run_config import RunConfig

Label = NDArray[np.uint8]

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture(autouse=True)
def tiny_students() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        train_tiny_students(patch)
        yield


def held_out_world(folder: Path, *, images: int = 3) -> World:
    world = make_world(folder)
    draw_world(world.root, split="val", images=images, seed=1)
    return world


def every(number: int = 2, *, steps: int = 6, **more: Any) -> RunConfig:
    return config_of(
        train={"steps": steps, "checkpoint_every": 100, "learning_rate": 0.05},
        validation={"every": number, **more},
        evaluate={"short_side": 48, "window": 32, "stride": 32, "calibration": 0.02},
    )


def trained(world: World, out: Path, config: RunConfig, **more: Any) -> list[dict[str, Any]]:
    """The log of the validations of a run, less what the clock says."""
    run(world, out, config, validation=make_validator, **more)
    return lines_of(out)


def lines_of(out: Path) -> list[dict[str, Any]]:
    lines = (out / "validation.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if name != "seconds"}
        for line in lines
    ]


def change_labels(root: Path, change: Callable[[Label], Label]) -> None:
    """Change every label of the split val."""
    for path in (root / "labels" / "val").iterdir():
        Image.fromarray(change(np.array(Image.open(path)))).save(path)


def noise(label_HW: Label) -> Label:
    """Pixels of the unseen class and of none get one of both at random."""
    rng = np.random.default_rng(int(label_HW.sum()))
    hidden_HW = (label_HW == 3) | (label_HW == 255)
    return np.where(hidden_HW, rng.choice([3, 255], label_HW.shape), label_HW).astype(np.uint8)


def swapped(label_HW: Label) -> Label:
    """Sky is ground, and ground is sky."""
    table = np.arange(256, dtype=np.uint8)
    table[[0, 1]] = [1, 0]
    exchanged: Label = table[label_HW]
    return exchanged


def test_it_scores_the_weights_that_are_shipped(tmp_path: Path) -> None:
    """The numbers of the log are those of the checkpoint, by a way of its own."""
    world = held_out_world(tmp_path)
    lines = trained(world, tmp_path / "run", every())
    assert [line["step"] for line in lines] == [2, 4, 6]
    student = load_run(tmp_path / "run", checkpoint="last")
    samples = list_samples(world.spec, world.root, "val")
    (counts_CC,) = visible_confusions(
        student, world.spec, samples, [0.02], progress=lambda *_: None
    )
    expected, last = scores(counts_CC, world.spec.unseen_ids), lines[-1]
    assert last["images"] == 3
    assert last["scores"] == {"seen_mIoU": expected.siou, "seen_pAcc": expected.pacc}
    assert list(last["iou"]) == ["box", "ground", "sky"]
    assert last["iou"]["sky"] == expected.iou[0]
    assert 0 < expected.siou < 1


def test_noise_in_place_of_unseen_labels_changes_nothing(tmp_path: Path) -> None:
    """Not the log, not its pictures, nor which checkpoint is best and when the run ends."""
    config = every(1, patience=2, steps=8)
    world = held_out_world(tmp_path / "a")
    lines = trained(world, tmp_path / "one", config)
    noisy = held_out_world(tmp_path / "b")
    change_labels(noisy.root, noise)
    assert trained(noisy, tmp_path / "other", config) == lines
    assert lines[-1]["step"] < 8, "patience should end it"
    assert what_was_learnt(tmp_path / "one") == what_was_learnt(tmp_path / "other")
    for picture in (tmp_path / "one" / "validation").iterdir():
        other = tmp_path / "other" / "validation" / picture.name
        assert picture.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("change", "unseen"), [(swapped, False), (noise, True)], ids=["seen", "unseen-if-asked"]
)
def test_other_labels_do(tmp_path: Path, change: Callable[[Label], Label], unseen: bool) -> None:
    """The test above can fail."""
    config = every(unseen=unseen)
    lines = trained(held_out_world(tmp_path / "a"), tmp_path / "one", config)
    changed = held_out_world(tmp_path / "b")
    change_labels(changed.root, change)
    other = trained(changed, tmp_path / "other", config)
    assert [each["scores"] for each in other] != [each["scores"] for each in lines]
    assert metrics_of(tmp_path / "one") == metrics_of(tmp_path / "other")


def test_unseen_labels_are_looked_at_loudly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        lines = trained(held_out_world(tmp_path), tmp_path / "run", every(unseen=True))
    assert "no zero-shot result" in caplog.text
    assert set(lines[0]["scores"]) == {"hIoU", "sIoU", "uIoU", "mIoU", "pAcc"}
    assert set(lines[0]["iou"]) == {"sky", "ground", "box", "ball"}
    record = json.loads((tmp_path / "run" / "run.json").read_bytes())
    assert record["config"]["validation"]["unseen"] is True


class RenamedStore(Store):
    """A store in which the unseen class has another name: another text embedding."""

    def read_all(self, array: str) -> np.ndarray[Any, Any]:
        values: np.ndarray[Any, Any] = super().read_all(array)
        if array == "text":
            values = values.copy()
            values[3] = values[:3].sum(0) / np.linalg.norm(values[:3].sum(0))
        return values


@pytest.mark.parametrize("protocol", ["inductive", "transductive"])
def test_inductive_validation_knows_no_unseen_name(tmp_path: Path, protocol: str) -> None:
    world = held_out_world(tmp_path)
    values = every().model_dump() | {"protocol": protocol, "self_training": {"method": "none"}}
    values["objectives"] = {"focal": 0.5}
    values["evaluate"]["calibration"] = 0.7  # else the seen classes win every pixel
    config = RunConfig.model_validate(values)
    store, spec, root = world
    renamed = World(RenamedStore(store.path, store.manifest, store.fingerprint), spec, root)
    lines = [(line["scores"], line["best"]) for line in trained(world, tmp_path / "one", config)]
    other = [
        (line["scores"], line["best"]) for line in trained(renamed, tmp_path / "other", config)
    ]
    assert (lines == other) == (protocol == "inductive")


def test_files_that_cannot_be_read_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = held_out_world(tmp_path)
    (world.root / "images" / "val" / "scene_001.png").write_bytes(b"no image")
    with caplog.at_level(logging.WARNING):
        lines = trained(world, tmp_path / "run", every())
    assert [line["images"] for line in lines] == [2, 2, 2]
    assert caplog.text.count("validation: left out") == 1


def test_images_are_spread_over_the_split_and_always_the_same(tmp_path: Path) -> None:
    samples = list_samples(held_out_world(tmp_path, images=5).spec, tmp_path / "world", "val")
    assert [each.id[-1] for each in spread(samples, 2)] == ["0", "2"]
    assert spread(samples, 5) == samples == spread(samples, 9)
    assert spread(samples, 0) == []


@pytest.mark.parametrize("unseen", [False, True])
def test_without_a_held_out_split_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, unseen: bool
) -> None:
    world = make_world(tmp_path)
    with caplog.at_level(logging.INFO):
        result = run(world, tmp_path / "run", every(unseen=unseen), validation=make_validator)
    assert result.validation is None
    assert "nothing is validated, because no split of 'tiny-world' is held out" in caplog.text
    assert not (tmp_path / "run" / "validation.jsonl").exists()


@pytest.mark.parametrize(
    ("split", "text"), [("train", "what the run learns from"), ("night", "no such split")]
)
def test_a_split_that_cannot_be_is_refused(tmp_path: Path, split: str, text: str) -> None:
    world = held_out_world(tmp_path)
    with pytest.raises(UserError, match=text):
        run(world, tmp_path / "run", every(split=split), validation=make_validator)


def test_a_split_by_name(tmp_path: Path) -> None:
    world = held_out_world(tmp_path)
    draw_world(world.root, split="night", images=2, seed=2)
    assert trained(world, tmp_path / "run", every(split="night"))[0]["images"] == 2


def free_world(folder: Path) -> World:
    description = draw_world(folder / "world")
    description.write_text(description.read_text().replace("[ball]", "all"))
    spec = load_spec(str(description))
    return TrainingData(write_store(folder / "store", description), spec, description.parent)


def test_without_labels_it_is_the_teacher_that_is_agreed_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = free_world(tmp_path)
    shutil.rmtree(world.root / "labels")
    config = RunConfig.model_validate(
        every(patience=1).model_dump()
        | {
            "objectives": {"sdd": 1.0, "dense": 1.0, "dense_stride": 8, "cross_entropy": 0.0},
            "self_training": {"method": "none"},
        }
    )
    with caplog.at_level(logging.INFO):
        lines = trained(world, tmp_path / "run", config)
    assert "chooses no checkpoint; patience has nothing to go by" in caplog.text
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert set(lines[0]["scores"]) == {"teacher_pAcc", "teacher_mIoU"}
    assert 0 <= lines[-1]["scores"]["teacher_pAcc"] <= 1
    assert load_run(tmp_path / "run").checkpoint is None


def test_pictures_show_image_prediction_and_label(tmp_path: Path) -> None:
    world = held_out_world(tmp_path)
    lines = trained(world, tmp_path / "run", every(pictures=2, images=3))
    assert list(lines[0]["pictures"]) == ["scene_000", "scene_001"]
    for file in lines[0]["pictures"].values():
        picture_HW3 = read_image(tmp_path / "run" / file).astype(int)
        assert picture_HW3.shape == (48, 3 * 64, 3)
    image_HW3 = read_image(world.root / "images/val/scene_000.png").astype(int)
    first_HW3 = read_image(tmp_path / "run" / lines[0]["pictures"]["scene_000"]).astype(int)
    assert np.abs(first_HW3[:, :64] - image_HW3).mean() < 12  # a JPEG of noise
    label_HW = np.array(Image.open(world.root / "labels/val/scene_000.png"))
    shown = np.abs(first_HW3[:, 128:] - image_HW3).mean(2)
    # The label picture leaves unseen classes and void as they are.
    assert shown[(label_HW == 3) | (label_HW == 255)].mean() < shown[label_HW < 3].mean() / 2


def test_two_processes_find_what_one_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsseg.stages.train.state.build_student", sure_student)
    world, config = held_out_world(tmp_path), every(patience=2, steps=8, number=1)
    expected = trained(world, tmp_path / "one", config)

    def work(_: int) -> None:
        run(world, tmp_path / "two", config, validation=make_validator)

    assert together(2, work, tmp_path / "message") == [(0, ""), (0, "")]
    found = lines_of(tmp_path / "two")
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    assert [line["best"] for line in found] == [line["best"] for line in expected]
    for one, other in zip(found, expected, strict=True):
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-3)
        assert (one["images"], list(one["pictures"])) == (3, list(other["pictures"]))


def test_a_file_that_one_of_two_processes_cannot_read_ends_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zsseg.stages.train.state.build_student", sure_student)
    world = held_out_world(tmp_path)
    (world.root / "images" / "val" / "scene_001.png").write_bytes(b"no image")

    def work(_: int) -> None:
        run(world, tmp_path / "two", every(), validation=make_validator)

    assert [code for code, _ in together(2, work, tmp_path / "message")] == [0, 0]
    assert [line["images"] for line in lines_of(tmp_path / "two")] == [2, 2, 2]
