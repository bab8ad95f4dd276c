"""Prediction of files and folders with any class names."""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.colour_run import colour_run
from numpy.typing import NDArray
from PIL import Image

from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.asked_names import with_text
from zsseg.stages.evaluate.colours import name_colours
from zsseg.stages.evaluate.predict import predict_files
from zsseg.stages.evaluate.prediction import Look
from zsseg.stages.evaluate.prediction_results import Predictions
from zsseg.stages.evaluate.predictor import Predictor
from zsseg.stages.evaluate.trained_run import TrainedRun
from zsseg.stages.evaluate.vocabulary import checked_names, class_text


@pytest.fixture
def run(tiny_world: Path, tmp_path: Path) -> TrainedRun:
    folder = tmp_path / "run"
    folder.mkdir()
    return colour_run(folder, tiny_world)


@pytest.fixture
def photos(tiny_world: Path) -> Path:
    """photos/scene_000.png and photos/old/trip/scene_001.jpg, upright and with EXIF."""
    folder = tiny_world.parent / "photos"
    (folder / "old" / "trip").mkdir(parents=True)
    source = tiny_world.parent / "images" / "val"
    Image.open(source / "scene_000.png").save(folder / "scene_000.png")
    sideways = Image.open(source / "scene_001.png").rotate(90, expand=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    sideways.save(folder / "old" / "trip" / "scene_001.jpg", quality=95, exif=exif)
    (folder / "notes.txt").write_text("not an image")
    return folder


def predict(run: TrainedRun, inputs: list[Path], out: Path) -> Predictions:
    return predict_files(own_names(run), inputs, out, progress=lambda *_: None)


def own_names(run: TrainedRun) -> Predictor:
    return Predictor(run, with_text(run, run.spec.classes, [], run.text_CD))


def tree(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_folder_keeps_its_sub_folders(run: TrainedRun, photos: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    predictions = predict_files(
        own_names(run),
        [photos],
        tmp_path / "out",
        progress=lambda done, total: steps.append((done, total)),
    )
    assert tree(tmp_path / "out") == [
        "classes.json",
        "old/trip/scene_001.png",
        "old/trip/scene_001_overlay.png",
        "results.jsonl",
        "scene_000.png",
        "scene_000_overlay.png",
    ]
    assert steps == [(1, 2), (2, 2)]
    assert predictions.failures == ()
    assert set(predictions.labels) == {
        tmp_path / "out" / "scene_000.png",
        tmp_path / "out" / "old" / "trip" / "scene_001.png",
    }


def test_label_maps_and_overlays(run: TrainedRun, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict(run, [photos], out)
    colours = name_colours(run.spec.classes, run.spec)
    labels = photos.parent / "labels" / "val"
    for name, image in (("scene_000", "scene_000"), ("scene_001", "old/trip/scene_001")):
        with Image.open(out / f"{image}.png") as file:
            assert file.mode == "P"
            stored = np.array(file.getpalette()).reshape(-1, 3)
            label_HW = np.asarray(file)
        np.testing.assert_array_equal(stored[:4], colours[:4])
        truth_HW = np.asarray(Image.open(labels / f"{name}.png"))
        assert label_HW.shape == (48, 64)  # upright
        assert (label_HW == truth_HW)[2:].mean() > 0.9
        overlay = np.asarray(Image.open(out / f"{image}_overlay.png"))
        assert overlay.shape == (48, 64, 3)
    classes = json.loads((out / "classes.json").read_text())
    assert [entry["name"] for entry in classes] == ["sky", "ground", "box", "ball"]
    assert classes[2] == {"id": 2, "name": "box", "colour": colours[2].tolist()}


def test_results_say_what_was_found(run: TrainedRun, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (photos / "a_broken.jpg").write_bytes(b"no image")
    found = predict_files(
        own_names(run), [photos], out, look=Look(confidence=True), progress=lambda *_: None
    )
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    broken, trip, scene = lines
    assert broken.keys() == {"file", "error"}
    assert broken["error"] == found.failures[0].reason
    assert [line["file"] for line in lines] == [
        str(photos / name) for name in ("a_broken.jpg", "old/trip/scene_001.jpg", "scene_000.png")
    ]
    assert (trip["width"], trip["height"]) == (64, 48)
    for line in (trip, scene):
        label_HW = np.asarray(Image.open(out / line["labels"]))
        ids = [run.spec.classes.index(each["name"]) for each in line["classes"]]
        shares = [each["share"] for each in line["classes"]]
        assert shares == sorted(shares, reverse=True)
        np.testing.assert_allclose(shares, [(label_HW == i).mean() for i in ids], atol=1e-6)
        assert sorted(ids) == np.unique(label_HW).tolist()
        assert line["void"] == 0
        grey_HW = np.asarray(Image.open(out / line["confidence_map"]))
        assert line["confidence"] == pytest.approx(grey_HW.mean() / 255, abs=0.05)
        assert line["measure"] == "margin"
        assert (out / line["overlay"]).is_file()


def test_a_file_of_results_of_another_maker_is_kept(
    run: TrainedRun, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for content in (b"mine", b'{"score": 1}\n'):
        (out / "results.jsonl").write_bytes(content)
        with pytest.raises(UserError, match=r"results\.jsonl: is there, and not from zsseg"):
            predict(run, [photos], out)
        assert tree(out) == ["results.jsonl"]
        assert (out / "results.jsonl").read_bytes() == content
    (out / "results.jsonl").write_bytes(b"")  # of a run that was killed at once
    predict(run, [photos], out)
    predict(run, [photos / "scene_000.png"], out)
    assert len((out / "results.jsonl").read_text().splitlines()) == 1


def test_background_becomes_void(run: TrainedRun, photos: Path, tmp_path: Path) -> None:
    order = [3, 0, 1, 2]
    asked = with_text(run, ["ball"], ["sky", "ground", "box"], run.text_CD[order])
    predict_files(
        Predictor(run, asked),
        [photos / "scene_000.png"],
        tmp_path / "out",
        progress=lambda *_: None,
    )
    label_HW = np.asarray(Image.open(tmp_path / "out" / "scene_000.png"))
    truth_HW = np.asarray(Image.open(photos.parent / "labels" / "val" / "scene_000.png"))
    assert set(np.unique(label_HW)) == {0, 255}
    assert ((label_HW == 0) == (truth_HW == 3)).mean() > 0.95


def test_calibration_follows_the_names(run: TrainedRun, photos: Path, tmp_path: Path) -> None:
    # The classes in another order: only `ball` was unseen in training, so it wins everywhere.
    lowered = replace(run, evaluate=run.evaluate.model_copy(update={"calibration": 2.5}))
    asked = with_text(run, ["ball", "box", "ground", "sky"], [], run.text_CD[[3, 2, 1, 0]])
    predict_files(
        Predictor(lowered, asked),
        [photos / "scene_000.png"],
        tmp_path / "out",
        progress=lambda *_: None,
    )
    assert (np.asarray(Image.open(tmp_path / "out" / "scene_000.png")) == 0).all()


def test_calibration_knows_seen_classes_by_their_prompt_names(
    run: TrainedRun, photos: Path, tmp_path: Path
) -> None:
    # `cardboard box` is the prompt name of the seen class `box`.
    lowered = replace(run, evaluate=run.evaluate.model_copy(update={"calibration": 2.5}))
    asked = with_text(run, ["cardboard box", "ball"], [], run.text_CD[[2, 3]])
    predict_files(
        Predictor(lowered, asked),
        [photos / "scene_000.png"],
        tmp_path / "out",
        progress=lambda *_: None,
    )
    assert (np.asarray(Image.open(tmp_path / "out" / "scene_000.png")) == 1).all()


def test_unreadable_file_is_reported_and_the_rest_go_on(
    run: TrainedRun, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    with caplog.at_level(logging.WARNING):
        predictions = predict(run, [photos], tmp_path / "out")
    (failure,) = predictions.failures
    assert failure.path == photos / "broken.jpg"
    assert "broken.jpg" in failure.reason
    assert "broken.jpg" in caplog.text
    assert len(predictions.labels) == 2


def test_predicting_again_does_not_take_predictions_for_images(
    run: TrainedRun, photos: Path
) -> None:
    out = photos / "predictions"
    predict(run, [photos], out)
    before = tree(photos)
    predict(run, [photos], out)
    assert tree(photos) == before


def test_inputs_are_never_written_over(run: TrainedRun, photos: Path) -> None:
    image = photos / "scene_000.png"
    content = image.read_bytes()
    with pytest.raises(UserError, match=r"scene_000\.png is one of the images to predict"):
        predict(run, [image], photos)
    with pytest.raises(UserError, match="both input and output"):
        predict(run, [photos], photos)
    assert image.read_bytes() == content
    assert not (photos / "classes.json").exists()


def test_two_images_of_one_name_are_refused(run: TrainedRun, photos: Path, tmp_path: Path) -> None:
    Image.open(photos / "scene_000.png").save(photos / "scene_000.jpg")
    with pytest.raises(UserError, match=r"scene_000\.jpg and .*scene_000\.png would both"):
        predict(run, [photos], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_and_empty_inputs(run: TrainedRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.jpg: there is no such image"):
        predict(run, [tmp_path / "nowhere.jpg"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no image below this folder"):
        predict(run, [tmp_path / "empty"], tmp_path / "out")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("car", r"must be a list.*write \['car'\]"),
        ([], "must not be empty"),
        (["car", " "], "must not be empty"),
        (["car", "tree", "car "], "given twice.*'car' and 'car'"),
        (["Bus", "tree", "bus"], "given twice.*'Bus' and 'bus'"),
        (["car", "a\x00b"], "no text"),
        (["car|van", "tree", "Van"], "given twice.*'van' and 'Van'"),
        (["car||van", "tree"], "'' is empty"),
        ([f"class {i}" for i in range(256)], "at most 255"),
    ],
)
def test_class_names_that_are_refused(names: Sequence[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        checked_names(names)


def test_each_name_is_embedded_once(run: TrainedRun) -> None:
    asked: list[list[str]] = []

    def encode(names: Sequence[str]) -> NDArray[np.float32]:
        # One class of the run is always asked for, to know its teacher again.
        assert names[0] == "sky"
        asked.append(list(names[1:]))
        new = [np.array([len(name), 1.0, 0.0]) for name in names[1:]]
        return np.array([3 * run.text_CD[0].numpy(), *new], dtype=np.float32)

    # `cardboard box` is the prompt name of the run's class `box`.
    first = class_text(run, ["balloon", "cardboard box", "sky"], encode=encode)
    assert asked == [["balloon"]]
    torch.testing.assert_close(first[0], torch.tensor([7.0, 1.0, 0.0]) / 50**0.5)
    torch.testing.assert_close(first[1:], run.text_CD[[2, 0]])

    torch.testing.assert_close(class_text(run, ["SKY"], encode=encode)[0], run.text_CD[0])

    again = class_text(run, ["kite", "balloon"], encode=encode)
    assert asked == [["balloon"], ["kite"]]
    torch.testing.assert_close(again[1], first[0])

    other = replace(run, record=run.record.model_copy(update={"templates": "coco15"}))
    class_text(other, ["kite"], encode=encode)
    assert asked[2:] == [["kite"]]


def test_two_names_with_one_embedding_are_refused(
    run: TrainedRun, caplog: pytest.LogCaptureFixture
) -> None:
    def encode(names: Sequence[str]) -> NDArray[np.float32]:
        new_D = np.array([1.0, 2.0, 3.0], dtype=np.float32)
        return np.stack([run.text_CD[0].numpy(), *(new_D for _ in names[1:])])

    for names in (["kite", "balloon"], ["box", "cardboard box"]):
        with pytest.raises(UserError, match=f"'{names[0]}' and '{names[1]}'"):
            class_text(run, names, encode=encode)
    doubled = replace(run, text_CD=run.text_CD[[0, 0, 2, 3]])
    class_text(doubled, run.spec.classes, encode=encode)
    assert "'sky' and 'ground'" in caplog.text


def test_damaged_embedding_is_computed_again(
    run: TrainedRun, caplog: pytest.LogCaptureFixture
) -> None:
    def encode(names: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([run.text_CD[0].numpy(), np.eye(1, 3, dtype=np.float32)[0]])

    class_text(run, ["kite"], encode=encode)
    (kept,) = (run.path / "text_cache").iterdir()
    kept.write_bytes(kept.read_bytes()[:-3])
    text_CD = class_text(run, ["kite"], encode=encode)
    torch.testing.assert_close(text_CD, torch.eye(1, 3))
    assert "damaged" in caplog.text


def test_embedding_of_another_width_is_refused(run: TrainedRun) -> None:
    with pytest.raises(UserError, match=r"'sky' has 5 values there and 3 in the run"):
        class_text(run, ["kite"], encode=lambda names: np.ones((len(names), 5), dtype=np.float32))


@pytest.mark.parametrize("cosine", [0.98, -1.0, float("nan")])
def test_embeddings_of_another_teacher_are_refused_and_not_kept(
    run: TrainedRun, cosine: float
) -> None:
    own_D = run.text_CD[0].numpy().astype(np.float64)
    across_D = np.cross(own_D, [1.0, 2.0, 3.0])
    across_D /= np.linalg.norm(across_D)
    turned_D = cosine * own_D + np.sqrt(1 - cosine**2) * across_D

    def encode(names: Sequence[str]) -> NDArray[np.float32]:
        return np.array([turned_D for _ in names], dtype=np.float32)

    with pytest.raises(UserError, match="teacher local-dir:clip, and local-dir:other is another"):
        class_text(run, ["kite"], encode=encode, teacher="local-dir:other")
    with pytest.raises(UserError, match="teacher local-dir:clip, and local-dir:clip is another"):
        class_text(run, ["kite"], encode=encode)
    assert not (run.path / "text_cache").exists()
