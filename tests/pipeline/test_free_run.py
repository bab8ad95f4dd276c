"""A run without labels from the first command to the last: scores, guards, comparison."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.drawn_world import draw_world
from helpers.tiny_training import train_tiny_students
from helpers.zsseg_command import called as zsseg

from zsseg.stages.errors import DatasetError

RECIPE = """\
objectives: {sdd: 0.5, local_distillation: 0.5, dense_stride: 8, token: pooled}
self_training: {method: st, source: teacher, start: 0.0}
augmentation: {short_side: 48, crop: [32, 32]}
train: {steps: 2, batch: 2, workers: 0, device: cpu}
evaluate: {short_side: 48, mode: whole}
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_clip: str) -> Iterator[Path]:
    """A folder with a data set whose classes are all unseen, stores of both splits, and a run."""
    folder = tmp_path_factory.mktemp("free")
    world = draw_world(folder / "world", images=4)
    draw_world(folder / "world", split="val", images=2, seed=1)
    world.write_text(world.read_text().replace("[ball]", "all"))
    (folder / "recipe.yaml").write_text(RECIPE)
    for split in ("train", "val"):
        words = ("--dataset", world, "--root", world.parent, "--split", split, "-q")
        sets = ("--set", "dense.size=[64,96]", "--set", "text.templates=single")
        zsseg("precompute", *words, "--teacher", tiny_clip, "--cache", folder / "cache", *sets)
    with pytest.MonkeyPatch.context() as patch:
        train_tiny_students(patch)
        config = ("--config", folder / "recipe.yaml", "--out", folder / "run", "-q")
        zsseg("train", "--cache", folder / "cache", *config)
        yield folder


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")


def test_scores_stand_beside_the_teachers(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zsseg("evaluate", "--run", work / "run", "-q")
    shown = capsys.readouterr().out
    (ours,) = [line for line in shown.splitlines() if line.startswith("student ")]
    (teachers,) = [line for line in shown.splitlines() if line.startswith("teacher ")]
    assert ours.split()[1::2] == teachers.split()[1::2] == ["mIoU", "pAcc"]
    assert "hIoU" not in shown
    assert "trained on" not in shown
    values = {
        subject: json.loads((work / "run" / f"evaluation{subject}-val.json").read_text())
        for subject in ("", "-teacher")
    }
    assert ours.split()[2] == f"{100 * values['']['scores']['mIoU']:.1f}"
    assert teachers.split()[2] == f"{100 * values['-teacher']['scores']['mIoU']:.1f}"
    for each in values.values():
        assert each["scores"]["hIoU"] is each["scores"]["sIoU"] is None

    zsseg("compare", work / "run")
    *_, line, teacher = [
        line for line in capsys.readouterr().out.splitlines() if line and "published" not in line
    ]
    assert line.split()[-5:-2] == teacher.split()[-5:-2] == ["-", "-", "-"]
    assert (line.split()[-2], teacher.split()[-2]) == (ours.split()[2], teachers.split()[2])
    assert teacher.split()[:2] == ["teacher", "alone,"]
    zsseg("compare", work / "run", "--json", "--csv", work / "table.csv")
    compared = json.loads(capsys.readouterr().out)
    assert compared["teachers"][0]["scores"]["mIoU"] == values["-teacher"]["scores"]["mIoU"]
    assert compared["runs"][0]["scores"]["uIoU"] is None
    assert "\nteacher," in (work / "table.csv").read_text()


def test_images_that_were_trained_on_are_told(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The guard needs no labels of the training: images are known by name and content."""
    zsseg("evaluate", "--run", work / "run", "--split", "train", "-q")
    assert "trained on 4 of these 4 images" in capsys.readouterr().out


def test_without_a_store_of_the_split_one_line_says_how_to_get_it(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(work / "world/images/val", work / "world/images/other")
    shutil.copytree(work / "world/labels/val", work / "world/labels/other")
    zsseg("evaluate", "--run", work / "run", "--split", "other", "-q")
    told = capsys.readouterr()
    assert "mIoU" in told.out
    assert "teacher's own scores are not shown" in told.err
    assert "--split other" in told.err


def test_without_labels_evaluate_says_what_is_missing(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(work / "world/images/val", work / "world/images/bare")
    missing = r"none of the 2 images of .bare. has a label.*bare/scene_000.png.*zsseg predict"
    with pytest.raises(DatasetError, match=missing):
        zsseg("evaluate", "--run", work / "run", "--split", "bare", "-q")
    zsseg("predict", work / "world/images/bare", "--run", work / "run", "--out", work / "maps")
    assert len(list((work / "maps").glob("scene_*.png"))) >= 2
    zsseg("dataset", "verify", work / "world/world.yaml", "--root", work / "world")
    assert "bare: 2 images, 2 of them without a label" in capsys.readouterr().out
