"""The commands as a person types them, from images to predictions."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.drawn_world import draw_world
from helpers.random_clip import write_clip
from helpers.zsseg_command import zsseg
from PIL import Image

EXPERIMENT = {
    "student": {"encoder": "tu-resnet10t", "weights": "none"},
    "objectives": {"sdd": 1.0, "token": "pooled"},
    "self_training": {"method": "rst"},
    "augmentation": {"short_side": None, "scale": [0.8, 1.5], "crop": [32, 32]},
    "train": {"steps": 4, "batch": 2, "workers": 0, "log_every": 1, "checkpoint_every": 2},
    "evaluate": {"short_side": None, "mode": "whole"},
}
SMALL = ("--set", "dense.size=[64, 64]", "--set", "shard_images=4")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a world, a CLIP, the stores of both splits and a trained run."""
    here = tmp_path_factory.mktemp("cli")
    draw_world(here / "world", split="train", images=6)
    spec = draw_world(here / "world", split="val", images=3, seed=1)
    write_clip(here / "clip")
    (here / "mine.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    for split in ("train", "val"):
        store = ("--split", split, "--cache", here / "cache", *SMALL)
        teacher = f"local-dir:{here / 'clip'}"
        data = ("--dataset", spec, "--root", here / "world", "--teacher", teacher)
        assert zsseg("precompute", *data, *store, "-q") == 0
    out = ("--out", here / "run", "-q")
    assert zsseg("train", "--cache", here / "cache", "--config", here / "mine.yaml", *out) == 0
    return here


def test_train_takes_the_store_of_train_and_leaves_a_run(place: Path) -> None:
    record = json.loads((place / "run" / "run.json").read_text())
    assert record["split"] == "train"
    assert record["experiment"] == "mine"
    steps = [
        json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert all(np.isfinite(line["sdd"]) for line in steps)


def test_evaluate_prints_json_that_is_also_written(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert zsseg("evaluate", "--run", place / "run", "--split", "val", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((place / "run" / "evaluation-val.json").read_text())
    assert [row["name"] for row in printed["classes"]] == ["sky", "ground", "box", "ball"]
    assert printed["images"] == 3
    assert (place / "run" / "evaluation-val.csv").read_text().count("\n") == 5


def test_evaluate_shows_a_table(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--split", "train", "--limit", 2, "--calibration", 0.05, "-q")
    assert zsseg("evaluate", "--run", place / "run", *options) == 0
    shown = capsys.readouterr().out
    for word in ("hIoU", "sIoU", "uIoU", "ball", "unseen", "2 images of tiny-world train"):
        assert word in shown
    lines = [line for line in shown.splitlines() if "hIoU" in line]
    assert [line.split("  ")[0] for line in lines] == ["gamma 0", "gamma 0.05"]
    assert "trained on 2 of these 2 images" in shown


def test_a_gamma_is_reported_with_and_without(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_run = ("--run", place / "run", "--calibration", 0.02, "--out", tmp_path)
    of_teacher = ("--teacher", "--cache", place / "cache", "--calibration", 0.02, "--out", tmp_path)
    for subject, options in (("", of_run), ("teacher-", of_teacher)):
        assert zsseg("evaluate", *options, "--json") == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["settings"]["calibration"] for line in lines] == [0.0, 0.02]
        stem = f"evaluation-{subject}val"
        for name, line in zip((stem, f"{stem}-gamma0.02"), lines, strict=True):
            assert json.loads((tmp_path / f"{name}.json").read_text()) == line
            assert (tmp_path / f"{name}.csv").is_file()


def test_the_teacher_is_scored_from_the_store_of_the_split(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert zsseg("evaluate", "--teacher", "--cache", place / "cache", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["subject"], printed["split"], printed["images"]) == ("teacher", "val", 3)


def test_a_store_of_another_split_is_not_scored_as_the_one_asked_for(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (train,) = (place / "cache").glob("*-train-*")
    for options in ((), ("--split", "val")):
        assert zsseg("evaluate", "--teacher", "--cache", train, *options) == 2
        assert "store of split 'train'" in capsys.readouterr().err
    assert zsseg("evaluate", "--teacher", "--cache", train, "--split", "train", "-q") == 0


def test_predict_needs_clip_for_new_names_only_and_only_once(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = place / "world" / "images" / "val" / "scene_000.png"
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    record = json.loads((run / "run.json").read_text())
    gone = {"teacher": f"local-dir:{tmp_path / 'gone'}", "check": None}
    (run / "run.json").write_text(json.dumps(record | gone))
    names = ("--classes", "sky, cardboard box, unicorn")
    first, second = tmp_path / "first", tmp_path / "second"
    moved = f"local-dir:{place / 'clip'}"
    predict = ("predict", image, "--run", run, *names, "-q", "--out")
    assert zsseg(*predict, first, "--teacher", moved) == 0
    # The run's teacher is gone, its embedding of 'unicorn' is kept.
    assert zsseg(*predict, second) == 0
    label = Image.open(second / "scene_000.png")
    assert label.mode == "P"
    assert label.size == (64, 48)
    assert set(np.unique(np.asarray(label))) <= {0, 1, 2}
    assert (first / "scene_000.png").read_bytes() == (second / "scene_000.png").read_bytes()
    assert (second / "scene_000_overlay.png").is_file()
    # One that is given and is not there is a mistake, also where no name needs it.
    capsys.readouterr()
    assert zsseg(*predict, tmp_path / "third", "--teacher", "local-dir:nowhere") == 7
    assert "nowhere" in capsys.readouterr().err
    # Without it the run's own is asked for a name that is new, and the message says what helps.
    new = ("predict", image, "--run", run, "--classes", "sky, griffin", "--out", tmp_path / "new")
    assert zsseg(*new) == 7
    said = capsys.readouterr().err
    assert "'griffin': new to the run" in said
    assert "--teacher" in said
    assert "`zsseg names`" in said


def test_switches_of_predictions(place: Path, tmp_path: Path) -> None:
    image = place / "world" / "images" / "val" / "scene_000.png"
    moved = ("--teacher", f"local-dir:{place / 'clip'}")
    words = ("predict", image, "--run", place / "run", "-q", "--out")
    chosen = tmp_path / "colours.yaml"
    chosen.write_text("sky: '#010203'\nUnicorn: [4, 5, 6]\n")
    added = (*moved, "--add", "unicorn", "--palette", chosen)
    assert zsseg(*words, tmp_path / "a", *added, "--unsure", 1, "--legend", "--alpha", 0.2) == 0
    first = json.loads((tmp_path / "a" / "classes.json").read_text())
    assert [each["name"] for each in first][-2:] == ["ball", "unicorn"]
    assert (first[0]["colour"], first[-1]["colour"]) == ([1, 2, 3], [4, 5, 6])
    assert (np.asarray(Image.open(tmp_path / "a" / "scene_000.png")) == 255).mean() > 0.9
    # The colours of one prediction for another.
    again = ("--palette", tmp_path / "a" / "classes.json", "--confidence-map")
    assert zsseg(*words, tmp_path / "b", *again, "--confidence", "cosine") == 0
    second = json.loads((tmp_path / "b" / "classes.json").read_text())
    assert second == first[:-1]
    with Image.open(tmp_path / "b" / "scene_000_confidence.png") as grey:
        assert (grey.mode, grey.size) == ("L", (64, 48))
    assert zsseg(*words, tmp_path / "c", "--unsure", "nan") == 2


def test_a_folder_with_a_broken_image_is_predicted_but_for_it(place: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(place / "world" / "images" / "val", photos / "deep")
    (photos / "broken.png").write_bytes(b"<html>not found</html>")
    assert zsseg("predict", photos, "--run", place / "run", "--out", tmp_path / "out", "-q") == 3
    assert len(list((tmp_path / "out" / "deep").glob("*_overlay.png"))) == 3


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("train", "--cache", "{empty}"), 5, "zsseg precompute"),
        (("train", "--cache", "{here}/cache", "--config", "sdd-rst"), 2, "did you mean 'sdd_rst'"),
        (("train", "--cache", "{here}/cache", "--set", "train.stepz=1"), 2, "train.stepz"),
        (
            (
                "train",
                "--cache",
                "{here}/cache",
                "--config",
                "{here}/mine.yaml",
                "--out",
                "{here}/run",
            ),
            2,
            "--resume",
        ),
        (("evaluate", "--split", "val"), 2, "either --run RUN"),
        (("evaluate", "--run", "{empty}"), 2, "{empty}"),
        (("evaluate", "--run", "{here}/run", "--split", "night"), 4, "night"),
        (("evaluate", "--run", "{here}/run", "--set", "train.steps=1"), 2, "only evaluate.*"),
        (("dataset", "info", "imagenet"), 4, "Built in: ade20k"),
        (("cache", "verify", "{empty}"), 5, "no store"),
        (("config", "show", "nothing"), 2, "unknown experiment"),
    ],
)
def test_a_mistake_is_one_message_and_its_exit_code(
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    names = {"empty": str(tmp_path), "here": str(place)}
    assert zsseg(*(word.format(**names) for word in words)) == code
    shown = capsys.readouterr().err
    assert [line for line in shown.splitlines() if line.startswith("error: ")]
    assert message.format(**names) in shown
    assert "Traceback" not in shown


def test_an_interrupt_says_how_to_go_on(
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("zsseg.stages.train.step.batch_losses", interrupted)
    options = ("--config", place / "mine.yaml", "--out", tmp_path / "run", "-q")
    assert zsseg("train", "--cache", place / "cache", *options) == 130
    assert "--resume" in capsys.readouterr().err


def test_val_is_never_trained_on_unasked(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (val,) = (place / "cache").glob("tiny-world-val-*")
    shutil.copytree(val, tmp_path / "cache" / val.name)
    assert zsseg("train", "--cache", tmp_path / "cache", "--out", tmp_path / "run") == 5
    assert "--split train" in capsys.readouterr().err


def test_several_stores_of_train_are_listed(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    both = tmp_path / "cache"
    for number in (1, 2):
        (train,) = (place / "cache").glob("tiny-world-train-*")
        shutil.copytree(train, both / f"{train.name}-{number}")
    assert zsseg("train", "--cache", both, "--out", tmp_path / "run") == 5
    shown = capsys.readouterr().err
    assert shown.count("tiny-world-train-") == 2
    assert "give the path of one" in shown


def test_dataset_cache_and_config_commands(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    description = place / "world" / "world.yaml"
    assert zsseg("dataset", "ls") == 0
    assert "coco-stuff" in capsys.readouterr().out
    assert zsseg("dataset", "info", description, "--root", place / "world") == 0
    assert "train: 6 images, 6 with a label" in capsys.readouterr().out
    assert zsseg("dataset", "verify", description, "--root", place / "world", "-q") == 0
    assert "no problems" in capsys.readouterr().out
    assert zsseg("cache", "ls", place / "cache") == 0
    assert capsys.readouterr().out.count("complete") == 2
    (store,) = (place / "cache").glob("tiny-world-val-*")
    assert zsseg("cache", "info", store) == 0
    assert json.loads(capsys.readouterr().out)["identity"]["split"] == "val"
    assert zsseg("cache", "verify", store, "--read-data") == 0
    assert "every byte compared" in capsys.readouterr().out
    assert zsseg("config", "ls") == 0
    assert "sdd_rst" in capsys.readouterr().out.split()
    assert zsseg("config", "show", "sdd_rst", "--set", "train.steps=7") == 0
    assert yaml.safe_load(capsys.readouterr().out)["train"]["steps"] == 7


def test_a_wrong_label_is_named_by_dataset_verify(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = draw_world(tmp_path, images=2)
    label = tmp_path / "labels" / "train" / "scene_001.png"
    Image.fromarray(np.full((48, 64), 77, np.uint8)).save(label)
    assert zsseg("dataset", "verify", spec, "--root", tmp_path, "-q") == 4
    shown = capsys.readouterr()
    assert str(label) in shown.out
    assert "77" in shown.out
    assert "1 problem with its files" in shown.err


def test_the_command_finds_the_gap_and_views_close_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = draw_world(tmp_path / "world", images=5)
    clip = write_clip(tmp_path / "clip")
    base = ("precompute", "--dataset", world, "--root", world.parent, "--teacher", clip)
    make_store = (*base, "--cache", tmp_path / "cache", "--set", "dense.size=[64, 64]", "-q")
    assert zsseg(*make_store) == 0
    capsys.readouterr()
    assert zsseg("cache", "gap", tmp_path / "cache", "--images", 3, "-q") == 0
    shown = capsys.readouterr().out
    assert "12 crops of 3 images" in shown
    assert (
        len(
            re.findall(
                r"^ *(?:crop|mirrored image), (?:dense|CLS).* -?\d\.\d{3} ", shown, re.MULTILINE
            )
        )
        == 6
    )
    # As the command advises. Of the store nothing else is made again.
    assert zsseg(*make_store, "--update", "--views", 2) == 0
    assert "computed: cls 5\n" in capsys.readouterr().out
    assert zsseg("cache", "gap", tmp_path / "cache", "--images", 3, "-q") == 0
    assert "6 crops of 3 images" in capsys.readouterr().out
    values = EXPERIMENT | {"objectives": {"sdd": 1.0}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    train = ("train", "--cache", tmp_path / "cache", "--config", tmp_path / "mine.yaml")
    recorded = ("--set", "augmentation.views=recorded", "--out", tmp_path / "run", "-q")
    assert zsseg(*train, *recorded) == 0
    other = write_clip(tmp_path / "other", seed=1)
    assert zsseg("cache", "gap", tmp_path / "cache", "--teacher", other, "-q") == 5
    assert "was made with another teacher" in " ".join(capsys.readouterr().err.split())
    # Without crops once more, training on them is refused.
    assert zsseg(*make_store, "--update") == 0
    assert zsseg(*train, "--set", "augmentation.views=recorded", "--out", tmp_path / "b", "-q") == 5
