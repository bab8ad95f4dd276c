"""The check of a data set finds every problem, and only problems."""

import shutil
from pathlib import Path

import numpy as np
from helpers.drawn_world import draw_world
from PIL import Image

from zsseg.stages.data.dataset_check import VerifyReport, verify_split
from zsseg.stages.data.spec import DatasetSpec, load_spec


def _verify(spec: DatasetSpec, root: Path, split: str = "train") -> VerifyReport:
    return verify_split(spec, root, split, progress=lambda done, total: None)


def _listed(report: VerifyReport, root: Path) -> list[tuple[str, str]]:
    return [
        (problem.path.relative_to(root).as_posix(), problem.reason) for problem in report.problems
    ]


def test_sound_data_set(tiny_world: Path) -> None:
    spec, root = load_spec(str(tiny_world)), tiny_world.parent
    report = _verify(spec, root)
    assert (report.samples, report.problems) == (6, ())
    counts = np.zeros(256, dtype=int)
    for path in (root / "labels/train").iterdir():
        for value in np.asarray(Image.open(path)).ravel():
            counts[value] += 1
    np.testing.assert_array_equal(report.pixels, counts[:4])
    assert report.void == counts[255] == 6 * 2 * 64
    assert counts[3] > 0  # unseen classes are counted here


def test_progress_is_reported_on_the_way_and_at_the_end(tmp_path: Path) -> None:
    spec = load_spec(str(draw_world(tmp_path, images=70)))
    seen: list[tuple[int, int]] = []
    report = verify_split(
        spec, tmp_path, "train", progress=lambda done, total: seen.append((done, total))
    )
    assert report.problems == ()
    assert len(seen) > 1
    assert seen == sorted(seen)
    assert seen[-1] == (70, 70)


def test_every_problem_is_found_and_nothing_written(tiny_world: Path) -> None:
    spec, root = load_spec(str(tiny_world)), tiny_world.parent
    images, labels = root / "images/train", root / "labels/train"
    # 0: label gone; 1: label without image; 2: image truncated and label damaged; 3: unknown value;
    # 4: label of another size; 5: an image that EXIF turns, its label not turned.
    (labels / "scene_000.png").unlink()
    shutil.copy(labels / "scene_003.png", labels / "stray.png")
    for path in (images / "scene_002.png", labels / "scene_002.png"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    label_HW = np.array(Image.open(labels / "scene_003.png"))
    label_HW[0, :7] = 77
    Image.fromarray(label_HW).save(labels / "scene_003.png")
    Image.fromarray(label_HW[:40, :50] * 0).save(labels / "scene_004.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(images / "scene_005.png") as image:
        image.load()
    image.save(images / "scene_005.png", exif=exif)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}

    report = _verify(spec, root)

    assert report.samples == 6
    found = _listed(report, root)
    assert [path for path, _ in found] == [
        "images/train/scene_000.png",
        "images/train/scene_002.png",
        "labels/train/scene_002.png",
        "labels/train/scene_003.png",
        "labels/train/scene_004.png",
        "labels/train/scene_005.png",
        "labels/train/stray.png",
    ]
    reasons = [reason for _, reason in found]
    assert reasons[0] == "an image without a label"
    assert reasons[1].startswith("cannot be read as an image (")
    assert reasons[2].startswith("cannot be read as an image (")
    assert "'tiny-world': 77 (7 px). List" in reasons[3]
    assert reasons[4].endswith("has 40 x 50 pixels (rows x columns), its image 48 x 64")
    assert "its image 64 x 48; one of them lies on its side" in reasons[5]
    assert reasons[6] == "a label without an image of the same name"
    # Labels that could be read are counted: scene_001, _004 and _005.
    assert int(report.pixels.sum()) + report.void == 48 * 64 + 40 * 50 + 48 * 64
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_images_meant_to_be_unlabelled_are_no_problem(tiny_world: Path) -> None:
    spec = load_spec(str(tiny_world))
    assert spec.patterns is not None
    unlabelled = spec.model_copy(
        update={"patterns": spec.patterns.model_copy(update={"labels": None})}
    )
    report = _verify(unlabelled, tiny_world.parent)
    assert (report.samples, report.problems, report.void) == (6, (), 0)


def test_listed_image_that_is_missing(tmp_path: Path) -> None:
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("2007_000033\n")
    for folder in ("JPEGImages", "SegmentationClass"):
        (tmp_path / folder).mkdir()
    Image.new("L", (3, 2)).save(tmp_path / "SegmentationClass" / "2007_000033.png")
    report = _verify(load_spec("pascal-voc"), tmp_path, "val")
    ((path, reason),) = _listed(report, tmp_path)
    assert path == "JPEGImages/2007_000033.jpg"
    assert "No such file" in reason


def test_real_camvid_is_sound(shared_data: Path) -> None:
    report = _verify(load_spec("camvid"), shared_data / "camvid", "val")
    assert (report.samples, report.problems) == (101, ())
    assert int(report.pixels.sum()) + report.void == 101 * 480 * 360


def test_labels_that_may_be_missing_are_counted(tiny_world: Path) -> None:
    """Some where the description says so, all where no class is seen; a stray label stays wrong."""
    root = tiny_world.parent
    (root / "labels/train/scene_000.png").unlink()
    spec = load_spec(str(tiny_world))
    for changes, problems in (
        ({}, 1),
        ({"labelled": "some"}, 0),
        ({"unseen": spec.classes}, 0),
    ):
        report = _verify(spec.model_copy(update=changes), root)
        assert (report.unlabelled, len(report.problems)) == (1, problems)
    (root / "labels/train/scene_001.png").rename(root / "labels/train/scene_x.png")
    report = _verify(spec.model_copy(update={"labelled": "some"}), root)
    assert (report.unlabelled, len(report.problems)) == (2, 1)
    shutil.rmtree(root / "labels/train")
    report = _verify(spec.model_copy(update={"unseen": spec.classes}), root)
    assert (report.unlabelled, report.problems) == (6, ())
    assert report.warning(spec, "train") is None


def test_a_description_keeps_the_form_that_stores_have(tiny_world: Path) -> None:
    """What is the default of a new field is not written, so that stores stay what they are."""
    spec = load_spec(str(tiny_world))
    assert "labelled" not in spec.model_dump()
    some = spec.model_copy(update={"labelled": "some"})
    assert DatasetSpec.model_validate_json(some.model_dump_json()) == some
