"""What `zsseg dataset verify` says of each kind of problem, and what would mend it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.drawn_world import draw_world
from helpers.zsseg_command import zsseg
from PIL import Image

from zsseg.stages.data.dataset_check import verify_split
from zsseg.stages.data.problem_summary import ProblemSummary, summarised
from zsseg.stages.data.spec import DatasetSpec, load_spec


def summaries_of(spec: DatasetSpec, root: Path, split: str = "train") -> list[ProblemSummary]:
    return summarised(spec, verify_split(spec, root, split, progress=lambda done, total: None))


def set_values(folder: Path, value: int, *, labels: int) -> None:
    """Give the first pixels of the first labels a value."""
    for path in sorted(folder.iterdir())[:labels]:
        label_HW = np.array(Image.open(path))
        label_HW[0, :5] = value
        Image.fromarray(label_HW).save(path)


@pytest.fixture
def world(tiny_world: Path) -> tuple[DatasetSpec, Path]:
    return load_spec(str(tiny_world)), tiny_world.parent


def test_nothing_wrong_is_nothing_said(world: tuple[DatasetSpec, Path]) -> None:
    assert summaries_of(*world) == []


@pytest.mark.parametrize(
    ("labels", "value", "text"),
    [
        (6, 11, "11 in all labels: void? Write `ignore: [11, 255]`"),
        (2, 11, "11 in 2 of 6 labels: void? Write `ignore: [11, 255]`"),
        (6, 4, "Write `encoding: {1: 0, 2: 1, 3: 2, 4: 3}` and `ignore: [0, 255]`"),
    ],
)
def test_the_line_that_would_mend_values(
    world: tuple[DatasetSpec, Path], labels: int, value: int, text: str
) -> None:
    spec, root = world
    set_values(root / "labels/train", value, labels=labels)
    (summary,) = summaries_of(spec, root)
    assert (summary.kind, len(summary.problems), summary.allowed) == ("values", labels, False)
    assert text in summary.advice


def test_the_line_mends_it(tiny_world: Path) -> None:
    set_values(tiny_world.parent / "labels/train", 11, labels=3)
    assert zsseg("dataset", "verify", tiny_world, "--root", tiny_world.parent, "-q") == 4
    text = tiny_world.read_text()
    assert "ignore: [255]" in text
    tiny_world.write_text(text.replace("ignore: [255]", "ignore: [11, 255]"))
    assert zsseg("dataset", "verify", tiny_world, "--root", tiny_world.parent, "-q") == 0


def test_values_beside_an_encoding_may_be_a_class(world: tuple[DatasetSpec, Path]) -> None:
    spec, root = world
    encoded = spec.model_copy(update={"encoding": {i: i for i in range(4)}})
    set_values(root / "labels/train", 9, labels=1)
    (summary,) = summaries_of(encoded, root)
    assert summary.advice.endswith("A class? Add `value: class id` to `encoding`")


def test_many_values_are_not_listed(world: tuple[DatasetSpec, Path]) -> None:
    spec, root = world
    path = root / "labels/train/scene_000.png"
    Image.fromarray(np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)).save(path)
    (summary,) = summaries_of(spec, root)
    assert "and 3059 more. List them under `encoding`" in summary.advice


def test_every_kind_once_the_allowed_last(world: tuple[DatasetSpec, Path]) -> None:
    spec, root = world
    images, labels = root / "images/train", root / "labels/train"
    (images / "scene_000.png").write_bytes(b"no image")
    Image.new("RGB", (64, 48)).save(labels / "scene_001.png")
    set_values(labels, 11, labels=1)
    Image.new("L", (9, 9)).save(labels / "scene_002.png")
    (labels / "scene_003.png").unlink()
    shutil.copy(labels / "scene_004.png", labels / "stray.png")
    found = summaries_of(spec, root)
    assert [each.title for each in found] == [
        "1 image that cannot be read",
        "1 label that cannot be read",
        "1 label with values that have no meaning",
        "1 label of another size than its image",
        "1 label without an image",
        "1 image without a label",
    ]
    assert [each.allowed for each in found] == [False] * 5 + [True]
    assert "zsseg init" in found[1].advice
    assert "labelled: some" in found[5].advice


def test_a_data_set_that_promises_labels_misses_them(tmp_path: Path) -> None:
    for i in range(2):
        for folder in ("train", "trainannot"):
            path = tmp_path / folder / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("L", (8, 8)).save(path)
    (tmp_path / "trainannot" / "1.png").unlink()
    (summary,) = summaries_of(load_spec("camvid"), tmp_path)
    assert not summary.allowed
    assert "is the download complete?" in summary.advice


def test_the_command_shows_a_few_files_or_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    description = draw_world(tmp_path, images=6)
    for path in (tmp_path / "labels/train").iterdir():
        path.rename(path.with_name(f"x{path.name}"))
    shutil.copy(tmp_path / "labels/train/xscene_000.png", tmp_path / "labels/train/scene_000.png")
    call = ("dataset", "verify", description, "--root", tmp_path, "-q")
    assert zsseg(*call) == 4
    shown = capsys.readouterr()
    assert "6 labels without an image. Put their images back" in shown.out
    assert shown.out.count("xscene_") == 3
    assert "  and 3 more" in shown.out
    assert "6 problems with its files" in shown.err
    assert zsseg(*call, "--all") == 4
    assert capsys.readouterr().out.count("xscene_") == 6


def test_images_without_a_label_are_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    description = draw_world(tmp_path, images=4)
    (tmp_path / "labels/train/scene_001.png").unlink()
    assert zsseg("dataset", "verify", description, "--root", tmp_path, "-q") == 0
    shown = capsys.readouterr().out
    assert "1 image without a label. They count as unlabelled." in shown
    assert "no file is wrong, but 1 warning (above)" in shown


def test_json_has_every_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    description = draw_world(tmp_path, images=5)
    set_values(tmp_path / "labels/train", 11, labels=5)
    assert zsseg("dataset", "verify", description, "--root", tmp_path, "--json") == 4
    (split,) = json.loads(capsys.readouterr().out)["splits"]
    assert (split["split"], split["images"], split["unlabelled"]) == ("train", 5, 0)
    (problem,) = split["problems"]
    assert (problem["kind"], len(problem["files"])) == ("values", 5)
    assert sum(split["pixels"].values()) + split["void"] == 0  # no label could be read
