"""COCO's JSON of instances, stuff and panoptic in its real layout, wrong forms included."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.photo_folder import SIZE, labels_of, made_of, photograph
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from zsseg.stages.data.images import write_png
from zsseg.stages.data.spec import VOID

HEIGHT, WIDTH = SIZE
CATEGORIES = [  # out of order, with a gap
    {"id": 17, "name": "cat", "supercategory": "animal"},
    {"id": 3, "name": "car", "supercategory": "vehicle"},
    {"id": 90, "name": "toothbrush", "supercategory": "indoor"},
]


def box(x0: int, y0: int, x1: int, y1: int) -> list[float]:
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def random_mask(seed: int) -> NDArray[np.uint8]:
    return np.asfortranarray(np.random.default_rng(seed).integers(0, 2, SIZE, dtype=np.uint8))


def compressed(mask: NDArray[np.uint8]) -> dict[str, Any]:
    runs = coco_mask.encode(np.asfortranarray(mask))
    return {"size": runs["size"], "counts": runs["counts"].decode()}


def uncompressed(mask: NDArray[np.uint8]) -> dict[str, Any]:
    flat = mask.T.ravel()
    places = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *places.tolist(), flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}


def coco_tree(root: Path, annotations: list[dict[str, Any]], *, count: int = 3) -> Path:
    """`train2017/` and `annotations/instances_train2017.json`; ids of images count down."""
    images = []
    for number in range(count):
        name = f"{number:012}.png"
        photograph(root / "train2017" / name, seed=number)
        images.append({"id": 900 - number, "file_name": name, "height": HEIGHT, "width": WIDTH})
    values = {
        "info": {}, "licenses": [], "images": images, "categories": CATEGORIES,
        "annotations": [
            {"id": 7 - i, "iscrowd": 0, "bbox": [0, 0, 1, 1], **each}
            for i, each in enumerate(annotations)
        ],
    }  # fmt: skip
    file = root / "annotations" / "instances_train2017.json"
    file.parent.mkdir()
    file.write_text(json.dumps(values))
    return file


def test_polygons_and_run_lengths_of_both_forms_and_crowds(tmp_path: Path) -> None:
    crowd, other = random_mask(1), random_mask(2)
    annotations = [
        {"image_id": 900, "category_id": 3, "segmentation": [box(2, 3, 9, 8), box(20, 3, 22, 5)]},
        {"image_id": 899, "category_id": 17, "segmentation": compressed(crowd), "iscrowd": 1},
        {"image_id": 898, "category_id": 3, "segmentation": uncompressed(other), "iscrowd": 1},
    ]
    coco_tree(tmp_path / "coco", annotations)
    spec, made = made_of(tmp_path / "coco")
    assert spec.classes == ("cat", "car")
    labels = labels_of(spec, made)
    expected = np.full(SIZE, VOID)
    expected[3:8, 2:9] = expected[3:5, 20:22] = 1
    assert (labels["000000000000"] == expected).all()
    assert (labels["000000000001"] == np.where(crowd, 0, VOID)).all()
    assert (labels["000000000002"] == np.where(other, 1, VOID)).all()


def test_the_smaller_of_two_areas_over_one_pixel_is_on_top(tmp_path: Path) -> None:
    annotations = [
        {"image_id": 900, "category_id": 3, "segmentation": [box(4, 4, 8, 8)]},
        {"image_id": 900, "category_id": 17, "segmentation": [box(0, 0, WIDTH, HEIGHT)]},
    ]
    coco_tree(tmp_path / "coco", annotations)
    spec, made = made_of(tmp_path / "coco")
    (label,) = labels_of(spec, made).values()
    assert (label == 1).sum() == 16
    assert (label == 0).sum() == HEIGHT * WIDTH - 16


def test_polygons_outside_the_image_are_cut_at_its_border(tmp_path: Path) -> None:
    annotations = [
        {"image_id": 900, "category_id": 3, "segmentation": [box(-50, -9, 10, 5)]},
        {"image_id": 900, "category_id": 17, "segmentation": [box(30, 20, 999, 999)]},
    ]
    coco_tree(tmp_path / "coco", annotations)
    spec, made = made_of(tmp_path / "coco")
    (label,) = labels_of(spec, made).values()
    assert ((label == 1).sum(), (label == 0).sum()) == (50, 40)


def test_what_cannot_be_used_is_counted_and_the_rest_is(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    good = {"image_id": 900, "category_id": 3, "segmentation": [box(4, 4, 8, 8)]}
    annotations: list[dict[str, Any]] = [
        good,
        {"image_id": 900, "category_id": 17, "segmentation": [box(9, 9, 12, 12)]},
        {"image_id": 898, "category_id": 17, "segmentation": [box(4, 4, 8, 8)]},
        {"image_id": 1, "category_id": 3, "segmentation": [box(4, 4, 8, 8)]},
        {"image_id": 900, "category_id": 4, "segmentation": [box(4, 4, 8, 8)]},
        {"image_id": 900, "category_id": 3, "segmentation": []},
        {"image_id": 900, "category_id": 3, "segmentation": [[1, 2, 3]]},
        {"image_id": 900, "category_id": 3, "segmentation": [[1, 2, 3, 4]]},
        {"image_id": 900, "category_id": 3, "segmentation": [["a", 2, 3, 4, 5, 6]]},
        {"image_id": 900, "category_id": 3, "segmentation": {"size": [1]}},
        {"image_id": 900, "category_id": 3, "segmentation": 5},
        {"image_id": None, "category_id": 3},
    ]
    coco_tree(tmp_path / "coco", annotations)
    (tmp_path / "coco" / "train2017" / f"{2:012}.png").unlink()
    photograph(tmp_path / "coco" / "train2017" / "unlisted.png", seed=9)
    (tmp_path / "coco" / "annotations" / "broken.json").write_text("{")
    spec, made = made_of(tmp_path / "coco")
    assert labels_of(spec, made).keys() == {"000000000000"}
    assert spec.labelled == "some"
    told = capfd.readouterr().err
    for text in (
        "1 image not in the folder, though named in the annotations, such as 000000000002",
        "1 image without a usable area in the annotations: unlabelled",
        "an image that is not listed",
        "a category that is not listed",
        "1 annotation left out: boxes",
        "no pairs of x and y",
        "fewer than three points",
        "broken.json is left out: it cannot be read as JSON",
        "Listed, but without any area, and left out: toothbrush (1)",
    ):
        assert text in told, text


def test_a_mask_of_another_size_is_named_and_its_image_unlabelled(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    short = {"size": [HEIGHT, WIDTH], "counts": [5, 6]}
    annotations: list[dict[str, Any]] = [
        {"image_id": 900, "category_id": 3, "segmentation": compressed(random_mask(1)[:9])},
        {"image_id": 899, "category_id": 3, "segmentation": short},
        {"image_id": 898, "category_id": 3, "segmentation": [box(4, 4, 8, 8)]},
        {"image_id": 898, "category_id": 17, "segmentation": [box(9, 9, 18, 18)]},
    ]
    coco_tree(tmp_path / "coco", annotations)
    spec, made = made_of(tmp_path / "coco", code=3)
    assert labels_of(spec, made).keys() == {"000000000002"}
    told = capfd.readouterr().err
    assert "its label is not used: 9 x 40 pixels (rows x columns) were annotated" in told
    assert "run lengths do not fill 24 x 40 pixels" in told


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_of_windows(tmp_path: Path, encoding: str) -> None:
    annotations = [
        {"image_id": 900, "category_id": 3, "segmentation": [box(4, 4, 8, 8)]},
        {"image_id": 899, "category_id": 17, "segmentation": [box(4, 4, 8, 8)]},
    ]
    file = coco_tree(tmp_path / "coco", annotations)
    values = json.loads(file.read_text())
    for image in values["images"]:
        image["file_name"] = f"C:\\data\\TRAIN2017\\{image['file_name'].upper()}"
    text = json.dumps(values, indent=1).replace("\n", "\r\n")
    file.write_bytes(text.encode(encoding))
    spec, made = made_of(tmp_path / "coco")
    assert len(labels_of(spec, made)) == 2


def test_instances_and_stuff_of_training_and_validation_together(tmp_path: Path) -> None:
    root = tmp_path / "coco"
    for split in ("train", "val"):
        images = []
        for number in range(2):
            name = f"{split}{number}.png"
            photograph(root / f"{split}2017" / name, seed=number)
            images.append({"id": number, "file_name": name})
        for kind, category in (("instances", "car"), ("stuff", "sky")):
            area = box(0, 0, 10, 10) if kind == "instances" else box(0, 10, 40, 20)
            values = {
                "images": images,
                "categories": [{"id": 1, "name": category}],
                "annotations": [
                    {"id": i, "image_id": i, "category_id": 1, "segmentation": [area]}
                    for i in range(2)
                ],
            }
            file = root / "annotations" / f"{kind}_{split}2017.json"
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(values))
    spec, made = made_of(root)
    assert set(spec.classes) == {"car", "sky"}
    labels = labels_of(spec, made)
    assert len(labels) == 4
    assert all(set(np.unique(label)) == {0, 1, VOID} for label in labels.values())
    assert sorted(p.name for p in (made / "images").iterdir()) == ["train", "val"]


def panoptic_tree(root: Path, *, image_ending: str = ".png") -> None:
    """`val2017/`, `panoptic_val2017/` and `panoptic_val2017.json`."""
    images, annotations = [], []
    for number in range(3):
        name = f"{number:012}"
        photograph(root / "val2017" / f"{name}{image_ending}", seed=number)
        images.append({"id": number, "file_name": f"{name}{image_ending}"})
        code = np.full(SIZE, 70000 + number)
        code[:, 10:] = 300
        code[:5] = 0
        colours = np.stack([code % 256, code // 256 % 256, code // 65536], axis=-1)
        write_png(root / "panoptic_val2017" / f"{name}.png", colours.astype(np.uint8))
        segments = [
            {"id": 70000 + number, "category_id": 17, "iscrowd": 0},
            {"id": 300, "category_id": 3, "iscrowd": 1},
        ]
        annotations.append(
            {"image_id": number, "file_name": f"{name}.png", "segments_info": segments}
        )
    values = {"images": images[::-1], "annotations": annotations, "categories": CATEGORIES}
    (root / "panoptic_val2017.json").write_text(json.dumps(values))


@pytest.mark.parametrize("image_ending", [".png", ".bmp"])
def test_panoptic(tmp_path: Path, image_ending: str) -> None:
    panoptic_tree(tmp_path / "coco", image_ending=image_ending)
    spec, made = made_of(tmp_path / "coco")
    assert spec.classes == ("cat", "car")
    labels = labels_of(spec, made)
    expected = np.zeros(SIZE)
    expected[:, 10:] = 1
    expected[:5] = VOID
    assert len(labels) == 3
    assert all((label == expected).all() for label in labels.values())


def test_a_document_that_lies_elsewhere(tmp_path: Path) -> None:
    panoptic_tree(tmp_path / "coco", image_ending=".bmp")
    images, document = tmp_path / "coco" / "val2017", tmp_path / "coco" / "panoptic_val2017.json"
    spec, made = made_of(images, "--labels", document)
    assert len(labels_of(spec, made)) == 3
    annotations = [
        {"image_id": 900, "category_id": 3, "segmentation": [box(0, 0, 8, 8)]},
        {"image_id": 899, "category_id": 17, "segmentation": [box(0, 0, 8, 8)]},
    ]
    file = coco_tree(tmp_path / "stuff", annotations)
    (tmp_path / "stuff" / "annotations" / "other.json").write_text("{")
    spec, made = made_of(tmp_path / "stuff" / "train2017", "--labels", file)
    assert labels_of(spec, made).keys() == {"000000000000", "000000000001"}


def test_panoptic_without_some_of_its_files(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "coco"
    panoptic_tree(root, image_ending=".bmp")
    (root / "panoptic_val2017" / f"{0:012}.png").unlink()
    (root / "val2017" / f"{1:012}.bmp").unlink()
    spec, made = made_of(root)
    assert labels_of(spec, made).keys() == {f"{2:012}"}
    told = capfd.readouterr().err
    assert "1 PNGs of segments that the JSON names are not there" in told
    assert "1 images that the JSON names are not there" in told
