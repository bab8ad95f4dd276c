"""The README's first fifteen minutes, in a short form: doctor, init, preview, run, predict.

A folder of twelve pictures whose labels come in five forms. The student is a tiny one and trains
for a few steps; everything around it is the product's own.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.drawn_world import draw_world
from helpers.photo_folder import contents
from helpers.tiny_training import train_tiny_students
from helpers.zsseg_command import zsseg
from numpy.typing import NDArray
from PIL import Image

from zsseg.stages.data.images import write_png

NAMES = ("sky", "ground", "box", "ball")
COLOURS = np.array([[70, 130, 180], [128, 64, 128], [0, 0, 142], [220, 20, 60]], dtype=np.uint8)
Masks = dict[str, NDArray[np.uint8]]


def palette_masks(photos: Path, masks: Masks) -> None:
    for name, mask_HW in masks.items():
        picture = Image.fromarray(mask_HW)
        picture.putpalette(COLOURS.tobytes())
        (photos / "masks").mkdir(exist_ok=True)
        picture.save(photos / "masks" / f"{name}.png")


def colour_masks_of_cvat(photos: Path, masks: Masks) -> None:
    for name, mask_HW in masks.items():
        write_png(photos / "SegmentationClass" / f"{name}.png", COLOURS[mask_HW])
    colours = (",".join(map(str, colour)) for colour in COLOURS)
    lines = [f"{name}:{colour}::" for name, colour in zip(NAMES, colours, strict=True)]
    text = "\n".join(["# label:color_rgb:parts:actions", *lines, ""])
    (photos / "labelmap.txt").write_text(text)


def coco_document(photos: Path, masks: Masks) -> None:
    document = {
        "images": [
            {"id": number, "file_name": f"{name}.png", "height": 48, "width": 64}
            for number, name in enumerate(masks)
        ],
        "categories": [{"id": 10 + value, "name": name} for value, name in enumerate(NAMES)],
        "annotations": [
            {"id": 100 * number + value, "image_id": number, "category_id": 10 + value,
             "iscrowd": 1, "segmentation": run_lengths(mask_HW == value)}
            for number, mask_HW in enumerate(masks.values())
            for value in range(4)
        ],
    }  # fmt: skip
    (photos / "instances.json").write_text(json.dumps(document))


def run_lengths(inside_HW: NDArray[np.bool_]) -> dict[str, list[int]]:
    """COCO's uncompressed form: runs of 0 and 1 in turn, column by column."""
    flat = inside_HW.T.ravel()
    ends = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *ends.tolist(), flat.size]).tolist()
    return {"size": [*inside_HW.shape], "counts": [0, *runs] if flat[0] else runs}


def masks_of_three(photos: Path, masks: Masks) -> None:
    palette_masks(photos, dict(list(masks.items())[:3]))


def no_masks(photos: Path, masks: Masks) -> None:
    """Names and pictures are enough."""


FORMS = [palette_masks, colour_masks_of_cvat, coco_document, masks_of_three, no_masks]


@pytest.fixture
def photos(tmp_path: Path) -> tuple[Path, Masks]:
    """Twelve drawn pictures, and their masks, which a form of labels is made of."""
    draw_world(tmp_path / "drawn", images=12)
    (tmp_path / "photos").mkdir()
    masks = {}
    for image in sorted((tmp_path / "drawn" / "images" / "train").iterdir()):
        image.rename(tmp_path / "photos" / image.name)
        mask_HW = np.array(Image.open(tmp_path / "drawn" / "labels" / "train" / image.name))
        masks[image.stem] = np.where(mask_HW > 3, 0, mask_HW).astype(np.uint8)
    return tmp_path / "photos", masks


@pytest.mark.usefixtures("one_teacher")
@pytest.mark.parametrize("label", FORMS)
def test_from_a_folder_to_a_report_and_predictions(
    label: Callable[[Path, Masks], None],
    photos: tuple[Path, Masks],
    tmp_path: Path,
    tiny_clip: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder, masks = photos
    label(folder, masks)
    before = contents(folder)
    (tmp_path / "new").mkdir()
    Image.open(folder / "scene_000.png").save(tmp_path / "new" / "street.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("zsseg.stages.train.plan.make_plan._CPU_MINUTES", 0.001)
    train_tiny_students(monkeypatch)
    teacher = ("--teacher", tiny_clip)

    assert zsseg("doctor") == 0
    # `cone` has no label in any form: the unseen class where the others have theirs.
    assert zsseg("init", "photos", "--classes", ", ".join([*NAMES, "cone"])) == 0
    assert zsseg("preview", "photos.yaml", *teacher, "--images", 2) == 0
    assert zsseg("run", "photos.yaml", "--out", "runs/first", "--minutes", 0.05, *teacher) == 0
    report = (tmp_path / "runs/first/report.html").read_text()
    assert report.count("data:image/") > 1  # pictures, within the one file
    assert zsseg("predict", "--run", "runs/first", "new", "--out", "predicted") == 0
    assert (tmp_path / "predicted" / "index.html").is_file()
    assert np.array(Image.open(next((tmp_path / "predicted").rglob("street*.png")))).max() > 0
    assert contents(folder) == before
    assert "Traceback" not in capfd.readouterr().err
