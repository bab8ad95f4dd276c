"""Evaluation of a run and of a store, the result's files, and runs opened for it."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.colour_run import colour_run, record
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import accuracy_score, jaccard_score

from zsseg.pipeline.tables import score_lines
from zsseg.stages.cache.disk.hashing import hash_file
from zsseg.stages.cache.reader import Store
from zsseg.stages.cache.writer import ArraySpec, Artifact, Writer
from zsseg.stages.data.spec import FolderPatterns, load_spec
from zsseg.stages.errors import CacheError, DatasetError, UserError
from zsseg.stages.evaluate.asked_names import with_text
from zsseg.stages.evaluate.evaluation import evaluate_run
from zsseg.stages.evaluate.inference import predict_scores, prepared
from zsseg.stages.evaluate.labelling import upsampled_argmax
from zsseg.stages.evaluate.metrics import confusion
from zsseg.stages.evaluate.predict import predict_files
from zsseg.stages.evaluate.predictor import Predictor
from zsseg.stages.evaluate.result import save_result, to_json
from zsseg.stages.evaluate.scorer import class_scorer
from zsseg.stages.evaluate.teacher_evaluation import evaluate_teacher
from zsseg.stages.evaluate.trained_run import load_run
from zsseg.stages.evaluate.vocabulary import renamed
from zsseg.stages.train.run import checkpoint
from zsseg.stages.train.run.run_folder import write_record
from zsseg.stages.train.run_config import EvaluateConfig, RunConfig, StudentConfig
from zsseg.stages.train.students.student import build_student


def silent(done: int, total: int) -> None:
    assert 1 <= done <= total


def test_run_against_scikit_learn(tiny_world: Path, tmp_path: Path) -> None:
    run = colour_run(tmp_path / "run", tiny_world)
    root = tiny_world.parent
    steps: list[tuple[int, int]] = []
    (result,) = evaluate_run(
        run, run.spec, root, "val", progress=lambda done, total: steps.append((done, total))
    )

    predictions, labels = [], []
    for path in sorted((root / "images" / "val").iterdir()):
        image_3HW = prepared(np.asarray(Image.open(path)), config=run.evaluate, stride=4)
        score_Chw = predict_scores(
            class_scorer(run.student, run.text_CD), image_3HW, config=run.evaluate, stride=4
        )
        label_HW = np.asarray(Image.open(root / "labels" / "val" / path.name))
        predictions.append(upsampled_argmax(score_Chw, (48, 64))[label_HW != 255])
        labels.append(label_HW[label_HW != 255])
    prediction_P, label_P = np.concatenate(predictions), np.concatenate(labels)
    iou_C = jaccard_score(label_P, prediction_P, average=None)
    np.testing.assert_allclose(result.scores.iou, iou_C)
    assert result.scores.uiou == iou_C[3]  # the ball
    assert result.scores.siou == pytest.approx(iou_C[:3].mean())
    assert result.scores.pacc == pytest.approx(accuracy_score(label_P, prediction_P))
    assert result.confusion_CC.sum() == len(label_P)
    assert min(result.scores.iou) > 0.5  # the student does see colours
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert (result.images, result.left_out) == (3, 0)
    assert result.settings["step"] == 7


def test_other_names_need_other_embeddings(tiny_world: Path, tmp_path: Path) -> None:
    run = colour_run(tmp_path / "run", tiny_world)
    root, spec = tiny_world.parent, run.spec
    other = spec.model_copy(update={"names": {**spec.names, "ball": "planet"}})
    with pytest.raises(UserError, match=r"names\[3\]: stored \"ball\", asked \"planet\""):
        evaluate_run(run, other, root, "val", progress=silent)
    asked: list[str] = []

    def encode(names: Sequence[str]) -> NDArray[np.float32]:
        asked.extend(names)
        return np.stack([run.text_CD[0].numpy(), -run.text_CD[3].numpy()])

    planet = renamed(run, other, encode=encode)
    assert asked == ["sky", "planet"]
    (before,) = evaluate_run(run, spec, root, "val", progress=silent)
    (after,) = evaluate_run(planet, other, root, "val", progress=silent)
    assert before.scores.uiou > 0.5
    assert after.scores.uiou == 0.0
    assert (before.variant, after.variant) == ((), ("renamed",))
    assert after.settings["names"] == ["sky", "ground", "cardboard box", "planet"]
    assert renamed(run, spec, encode=encode) is run
    elsewhere = other.model_copy(update={"classes": ("sky", "ground", "crate", "ball")})
    assert renamed(run, elsewhere, encode=encode) is run


def test_limit_and_images_without_label(tiny_world: Path, tmp_path: Path) -> None:
    run = colour_run(tmp_path, tiny_world)
    labels = tiny_world.parent / "labels" / "val"
    (labels / "scene_001.png").unlink()
    (whole,) = evaluate_run(run, run.spec, tiny_world.parent, "val", progress=silent)
    assert (whole.images, whole.left_out) == (2, 1)
    (first,) = evaluate_run(run, run.spec, tiny_world.parent, "val", limit=1, progress=silent)
    assert (first.images, first.left_out) == (1, 0)
    assert (whole.settings["limit"], first.settings["limit"]) == (None, 1)
    patterns = FolderPatterns(images="images/{split}", labels=None)
    unlabelled = run.spec.model_copy(update={"patterns": patterns})
    with pytest.raises(DatasetError, match=r"has no labels to compare with.*zsseg predict"):
        evaluate_run(run, unlabelled, tiny_world.parent, "val", progress=silent)


def test_image_and_label_of_different_size(tiny_world: Path, tmp_path: Path) -> None:
    run = colour_run(tmp_path, tiny_world)
    image = tiny_world.parent / "images" / "val" / "scene_001.png"
    Image.open(image).rotate(90, expand=True).save(image)
    with pytest.raises(DatasetError, match=r"scene_001.png: 48 x 64 pixels.*has 64 x 48"):
        evaluate_run(run, run.spec, tiny_world.parent, "val", progress=silent)


def test_other_classes_are_refused(tiny_world: Path, tmp_path: Path) -> None:
    run = colour_run(tmp_path, tiny_world)
    spec = run.spec.model_copy(update={"unseen": ("box",)})
    with pytest.raises(UserError, match=r"unseen.*ball.*box"):
        evaluate_run(run, spec, tiny_world.parent, "val", progress=silent)


def test_calibration_moves_pixels_to_unseen_classes(tiny_world: Path, tmp_path: Path) -> None:
    plain = colour_run(tmp_path, tiny_world)
    lowered = replace(plain, evaluate=plain.evaluate.model_copy(update={"calibration": 2.5}))
    results = evaluate_run(lowered, plain.spec, tiny_world.parent, "val", progress=silent)
    without, result = results
    assert result.confusion_CC[:, 3].sum() == result.confusion_CC.sum()
    (plain_result,) = evaluate_run(plain, plain.spec, tiny_world.parent, "val", progress=silent)
    assert to_json(without) == to_json(plain_result)
    names = [save_result(tmp_path, each)[0].name for each in results]
    assert names == ["evaluation-val.json", "evaluation-val-gamma2.5.json"]
    assert [each.settings["calibration"] for each in results] == [0.0, 2.5]


def test_both_gammas_come_from_one_forward_pass_and_gamma_is_as_in_predict(
    tiny_world: Path, tmp_path: Path
) -> None:
    plain = colour_run(tmp_path, tiny_world, EvaluateConfig(short_side=None, mode="whole"))
    run = replace(plain, evaluate=plain.evaluate.model_copy(update={"calibration": 0.1}))
    passes: list[torch.Size] = []
    run.student.register_forward_hook(lambda _, given, made: passes.append(made.shape))
    without, result = evaluate_run(run, run.spec, tiny_world.parent, "val", progress=silent)
    assert len(passes) == 3
    images = sorted((tiny_world.parent / "images" / "val").iterdir())
    for each, compared in ((plain, without), (run, result)):
        out = tmp_path / f"gamma{each.evaluate.calibration}"
        asked = with_text(each, run.spec.classes, [], run.text_CD)
        predict_files(Predictor(each, asked), images, out, progress=silent)
        total_CC = np.zeros((4, 4), np.int64)
        for path in images:
            label_HW = np.asarray(Image.open(tiny_world.parent / "labels" / "val" / path.name))
            total_CC += confusion(np.asarray(Image.open(out / path.name)), label_HW, 4)
        np.testing.assert_array_equal(total_CC, compared.confusion_CC)
    assert (without.confusion_CC != result.confusion_CC).any()


def test_only_the_same_evaluation_is_written_over(tiny_world: Path, tmp_path: Path) -> None:
    run, root = colour_run(tmp_path, tiny_world), tiny_world.parent
    own = run.evaluate.model_dump()
    whole = replace(run, evaluate=EvaluateConfig.model_validate(own | {"mode": "whole"}))
    native = EvaluateConfig.model_validate(own | {"short_side": None, "stride": 32})
    elsewhere = run.spec.model_copy(update={"name": "night"})
    results = [
        *evaluate_run(run, run.spec, root, "val", progress=silent),
        *evaluate_run(run, run.spec, root, "val", limit=2, progress=silent),
        *evaluate_run(whole, run.spec, root, "val", progress=silent),
        *evaluate_run(replace(run, evaluate=native), elsewhere, root, "val", progress=silent),
    ]
    assert [save_result(tmp_path, each)[0].stem for each in results] == [
        "evaluation-val",
        "evaluation-val-first2",
        "evaluation-val-mode-whole",
        "evaluation-val-night-short_side-none-stride-32",
    ]


def test_a_folder_that_is_gone_is_reported_as_the_root(tiny_world: Path, tmp_path: Path) -> None:
    run = colour_run(tmp_path, tiny_world)
    with pytest.raises(DatasetError, match=r"nowhere: there is no such folder.*--root"):
        evaluate_run(run, run.spec, tmp_path / "nowhere", "val", progress=silent)


def test_result_files(tiny_world: Path, tmp_path: Path) -> None:
    run = colour_run(tmp_path, tiny_world)
    (result,) = evaluate_run(run, run.spec, tiny_world.parent, "val", progress=silent)
    absent = replace(
        result, scores=replace(result.scores, iou=(0.25, 0.5, 1.0, math.nan), hiou=math.nan)
    )
    json_path, csv_path = save_result(tmp_path / "run", absent)
    values = json.loads(json_path.read_text())
    assert values["scores"]["sIoU"] == result.scores.siou
    assert values["scores"]["hIoU"] is None
    assert values["classes"][3]["IoU"] is None
    assert values["confusion"] == result.confusion_CC.tolist()
    assert (values["images"], values["settings"]["step"]) == (3, 7)
    with csv_path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["sky", "ground", "box", "ball"]
    assert [row["group"] for row in rows] == ["seen", "seen", "seen", "unseen"]
    assert [row["IoU"] for row in rows] == ["0.2500", "0.5000", "1.0000", ""]
    assert sum(int(row["pixels"]) for row in rows) == result.confusion_CC.sum()


def write_store(
    path: Path,
    description: Path,
    *,
    failed: int | None = None,
    dense: bool = True,
    names: bool = False,
) -> Store:
    """A store whose dense tokens on a 12 x 16 grid are the text rows of the labels' classes.

    `names`: and a map of names, which says "ball" more surely than the labels' classes.
    """
    spec = load_spec(str(description))
    labels = sorted((description.parent / "labels" / "val").iterdir())
    text_CD = np.eye(4, 5, dtype=np.float32)
    tokens = np.stack([text_CD[blocks(label)].transpose(2, 0, 1) for label in labels])
    second = np.stack([blocks(label) for label in labels])
    best = np.where(second == 3, 0, 3).astype(np.uint8)
    status = np.zeros(len(labels), dtype=np.uint8)
    if failed is not None:
        status[failed], tokens[failed] = 1, 0
    artifacts = [
        Artifact("index", {}, (ArraySpec("status", (), "uint8"),)),
        Artifact("text", {}, (ArraySpec("text", (4, 5), "float32"),), per_row=False),
    ]
    of_tokens = ArraySpec("dense", (5, 12, 16), "float16")
    of_map = ArraySpec("pixel_names", (4, 12, 16), "uint8")
    artifacts += [Artifact("dense", {}, (of_tokens,), depends=("index",))] if dense else []
    artifacts += [Artifact("pixel_names", {}, (of_map,))] if names else []
    identity = {"dataset": spec.name, "split": "val", "classes": spec.classes}
    with Writer.open(
        path,
        identity={**identity, "unseen": spec.unseen},
        artifacts=artifacts,
        index=[{"id": p.stem, "image": f"images/val/{p.name}", "label": None} for p in labels],
        shard_rows=8,
        info={"teacher": "by hand"},
    ) as writer:
        writer.write("index", 0, {"status": status})
        writer.write("text", 0, {"text": text_CD})
        # A token's length must not matter.
        if dense:
            writer.write("dense", 0, {"dense": (3 * tokens).astype(np.float16)})
        if names:
            codes = (np.full_like(best, 128), np.full_like(best, 120))
            maps = np.stack([best, second, *codes], axis=1)
            writer.write("pixel_names", 0, {"pixel_names": maps})
        writer.seal()
    return Store.open(path)


def blocks(label: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(label))[::4, ::4]


@pytest.fixture
def blocky_world(tiny_world: Path) -> Path:
    """The tiny world with straight borders: each label is split left and right at a cell edge."""
    for number, path in enumerate(sorted((tiny_world.parent / "labels" / "val").iterdir())):
        label_HW = np.full((48, 64), number, dtype=np.uint8)
        label_HW[:, 24:] = 3
        Image.fromarray(label_HW).save(path)
    return tiny_world


def test_teacher_with_tokens_of_the_labels_is_perfect(blocky_world: Path, tmp_path: Path) -> None:
    spec = load_spec(str(blocky_world))
    store = write_store(tmp_path / "store", blocky_world)
    (result,) = evaluate_teacher(store, spec, blocky_world.parent, progress=silent, device="cpu")
    assert result.scores.iou == (1.0, 1.0, 1.0, 1.0)
    assert result.confusion_CC.sum() == 3 * 48 * 64
    assert save_result(tmp_path, result)[0].name == "evaluation-teacher-val.json"
    # With gamma = 0.5 < 1 only pixels near a border change: cosines are equal on the border itself.
    without, lowered = evaluate_teacher(
        store, spec, blocky_world.parent, calibration=0.5, progress=silent, device="cpu"
    )
    assert to_json(without) == to_json(result)
    assert save_result(tmp_path, lowered)[0].name == "evaluation-teacher-val-gamma0.5.json"
    assert lowered.scores.accuracy[3] == 1.0
    assert 0.8 < lowered.scores.accuracy[0] < 1.0


@pytest.mark.parametrize("dense", [True, False])
def test_the_map_of_names_is_scored_beside_the_tokens(
    dense: bool, blocky_world: Path, tmp_path: Path
) -> None:
    """It is wrong nearly everywhere here: its second best classes are those of the labels."""
    spec = load_spec(str(blocky_world))
    store = write_store(tmp_path / "store", blocky_world, dense=dense, names=True)
    *tokens, of_map = evaluate_teacher(
        store, spec, blocky_world.parent, calibration=0.5, progress=silent, device="cpu"
    )
    assert [each.settings["from"] for each in tokens] == ["dense tokens"] * (2 if dense else 0)
    assert all(each.scores.miou > 0.9 for each in tokens)
    assert of_map.settings["from"] == "map of names"
    assert of_map.settings["calibration"] == 0
    assert of_map.scores.miou < 0.01
    assert save_result(tmp_path, of_map)[0].name == "evaluation-teacher-val-names.json"
    labels = ["dense tokens, gamma 0", "dense tokens, gamma 0.5", "map of names, gamma 0"]
    lines = score_lines([*tokens, of_map])
    assert [line.split("  ")[0] for line in lines] == (labels if dense else ["map of names"])


def test_failed_rows_are_left_out(blocky_world: Path, tmp_path: Path) -> None:
    spec = load_spec(str(blocky_world))
    store = write_store(tmp_path / "store", blocky_world, failed=0)
    (result,) = evaluate_teacher(store, spec, blocky_world.parent, progress=silent, device="cpu")
    assert (result.images, result.left_out) == (2, 1)
    assert math.isnan(result.scores.iou[0])
    assert result.scores.miou == 1.0


def test_store_of_other_classes_or_images_is_refused(blocky_world: Path, tmp_path: Path) -> None:
    spec = load_spec(str(blocky_world))
    store = write_store(tmp_path / "store", blocky_world)
    other = spec.model_copy(update={"classes": ("sky", "ground", "crate", "ball")})
    with pytest.raises(CacheError, match=r"classes\[2\]: stored \"?'?box"):
        evaluate_teacher(store, other, blocky_world.parent, progress=silent)
    (blocky_world.parent / "images" / "val" / "scene_002.png").unlink()
    with pytest.raises(DatasetError, match="1 of the 3 images"):
        evaluate_teacher(store, spec, blocky_world.parent, progress=silent)


def test_load_run(tiny_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = load_spec(str(tiny_world))
    config = RunConfig(
        student=StudentConfig(architecture="fpn", encoder="resnet18", weights="none")
    )
    student = build_student(config.student, 8).eval()
    text_CD = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)
    out = tmp_path / "run"
    write_record(out, record(spec, config), text_CD)
    with pytest.raises(UserError, match="holds no complete checkpoint"):
        load_run(out)
    checkpoint.save(out, 12, student=student, training={})

    run = load_run(out, device="cpu", evaluate=EvaluateConfig(short_side=None, mode="whole"))

    assert (run.step, run.stride, run.spec.classes) == (12, 4, spec.classes)
    read: list[Path] = []

    def counted(path: Path) -> str:
        read.append(path)
        return hash_file(path)

    monkeypatch.setattr(checkpoint, "hash_file", counted)
    load_run(out, device="cpu")
    assert len(read) == 2  # weights and training state, each once
    assert run.evaluate.mode == "whole"
    assert load_run(out, device="cpu").evaluate == config.evaluate
    assert not run.student.training
    image_13HW = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(run.student(image_13HW), student(image_13HW))
    torch.testing.assert_close(run.text_CD, text_CD)


def test_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run\.json: the file is missing"):
        load_run(tmp_path)
