"""LabelMe, CVAT's XML, YOLO and Label Studio: their real layout, wrong forms included."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.photo_folder import SIZE, labels_of, made_of, photograph, photographs

from zsseg.stages.data.images import png_bytes
from zsseg.stages.data.spec import VOID
from zsseg.stages.importing.label_studio import brush_values

HEIGHT, WIDTH = SIZE
windows = pytest.mark.parametrize(("mark", "end"), [("", "\n"), ("\ufeff", "\r\n")])


def write(file: Path, text: str, mark: str = "", end: str = "\n") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes((mark + text.replace("\n", end)).encode())


def boxes(*areas: tuple[int, tuple[int, int, int, int]]) -> Any:
    """A label of boxes (x0, y0, x1, y1), the later above the earlier."""
    label = np.full(SIZE, VOID)
    for value, (x0, y0, x1, y1) in areas:
        label[y0:y1, x0:x1] = value
    return label


def corners(x0: float, y0: float, x1: float, y1: float) -> list[list[float]]:
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def labelme(file: Path, shapes: list[Any], **values: Any) -> None:
    told = {"version": "5.4.1", "imagePath": f"{file.stem}.png", "imageData": None,
            "imageHeight": HEIGHT, "imageWidth": WIDTH}  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(told | {"shapes": shapes} | values), encoding="utf-8")


def test_labelme(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photographs(photos, 3)
    part = np.array([[1, 0], [1, 1]], dtype=np.uint8)
    mask = base64.b64encode(png_bytes(part)).decode()
    labelme(
        photos / "photo_0.json",
        [
            {"label": "road", "points": corners(0, 0, WIDTH, HEIGHT), "shape_type": "polygon"},
            {"label": "car", "points": [[4, 4], [8, 9]], "shape_type": "rectangle"},
            {"label": "car", "points": [[20, 10], [21, 11]], "shape_type": "mask", "mask": mask},
        ],
        imagePath="..\\elsewhere\\photo_0.png",
    )
    labelme(
        photos / "photo_1.json",
        [{"label": "car", "points": [[20, 12], [20, 18]], "shape_type": "circle"}],
    )
    spec, made = made_of(photos)
    labels = labels_of(spec, made)
    expected = boxes((0, (0, 0, WIDTH, HEIGHT)), (1, (4, 4, 8, 9)), (1, (20, 10, 22, 12)))
    expected[10, 21] = 0
    assert spec.classes == ("road", "car")
    assert spec.labelled == "some"
    assert (labels["photo_0"] == expected).all()
    assert (labels["photo_1"] == 1).sum() == pytest.approx(np.pi * 36, rel=0.05)


def test_labelme_wrong_forms(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    photos = tmp_path / "photos"
    photographs(photos, 3)
    shapes: list[Any] = [
        {"label": "road", "points": corners(-9, -9, 10, 10)},
        {"label": "sky", "points": corners(20, 10, 900, 900)},
        {"label": "sky", "points": [[1, 1], [2, 2]]},
        {"label": "sky", "points": [[1, 1], [2, 2]], "shape_type": "line"},
        {"label": "sky", "points": [[1, "a"]], "shape_type": "polygon"},
        {"label": "sky", "points": [[1, 1]], "shape_type": "mask", "mask": "???"},
        {"label": "", "points": corners(0, 0, 5, 5)},
        "no shape",
    ]
    labelme(photos / "photo_0.json", shapes)
    labelme(photos / "photo_1.json", shapes, imageHeight=WIDTH, imageWidth=HEIGHT)
    labelme(photos / "gone.json", shapes)
    spec, made = made_of(photos, code=3)
    assert labels_of(spec, made).keys() == {"photo_0"}
    told = capfd.readouterr().err
    assert "gone.png" in told or "gone" in told
    assert "points and lines, which have no area" in told
    assert "fewer than three points" in told
    assert "no name of a class" in told
    assert "one of them lies on its side" in told


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><labels><label><name>road</name></label><label><name>car</name></label>
    <label><name>bus</name></label></labels></task></meta>
  <image id="7" name="photo_1.png" width="40" height="24">
    <polygon label="car" occluded="0" points="4.0,4.0;8.0,4.0;8.0,9.0;4.0,9.0" z_order="1"/>
    <polygon label="road" points="0,0;40,0;40,24;0,24" z_order="0"><attribute name="a">1</attribute>
    </polygon>
    <mask label="car" rle="1, 2, 3" left="20" top="10" width="3" height="2" z_order="2"/>
    <box label="car" xtl="1" ytl="1" xbr="3" ybr="3" z_order="9"/>
    <polyline label="car" points="1,1;2,2;3,3"/>
    <polygon label="car" points="1,1;2"/>
    <mask label="car" rle="1, 2" left="20" top="10" width="3" height="2"/>
  </image>
  <image id="3" name="photo_0.png" width="40" height="24"></image>
  <image id="4" name="gone.png" width="40" height="24"></image>
  <image id="5" name="photo_2.png" width="40" height="24">
    <mask label="car" rle="0, 6" left="39" top="10" width="3" height="2" z_order="2"/>
  </image>
</annotations>
"""


@windows
def test_cvat_xml(tmp_path: Path, mark: str, end: str, capfd: pytest.CaptureFixture[str]) -> None:
    photos = tmp_path / "photos"
    photographs(photos / "images", 4)
    write(photos / "annotations.xml", CVAT, mark, end)
    spec, made = made_of(photos, code=3)
    assert spec.classes == ("road", "car")
    expected = boxes((0, (0, 0, WIDTH, HEIGHT)), (1, (4, 4, 8, 9)), (1, (21, 10, 23, 11)))
    labels = labels_of(spec, made)
    assert labels.keys() == {"photo_1"}
    assert (labels["photo_1"] == expected).all()
    told = capfd.readouterr().err
    assert "boxes, which say where a thing is" in told
    assert "a damaged polygon" in told
    assert "run lengths do not fill 2 x 3" in told
    assert "reaches out of the image" in told
    assert "such as gone.png" in told
    assert "Listed, but without any area, and left out: bus (1)" in told


def test_xml_with_definitions_of_its_own_is_not_read(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photographs(photos, 2)
    lots = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]>'
    write(photos / "annotations.xml", CVAT.replace("<annotations>", f"{lots}<annotations>"))
    spec, _ = made_of(photos, "--classes", "road, car")
    assert spec.unseen == ("road", "car")


@windows
def test_yolo(tmp_path: Path, mark: str, end: str, capfd: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "yolo"
    for split, count in (("train", 3), ("val", 2)):
        photographs(root / "images" / split, count)
        for i in range(count):
            lines = "1 0.1 0.25 0.2 0.25 0.2 0.5 0.1 0.5\n0 0.5 0.5 1.2 0.5 1.2 1.4 0.5 1.4\n"
            lines += "0 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1 0.1 0.3\n" if i == 0 else ""
            write(root / "labels" / split / f"photo_{i}.txt", lines, mark, end)
    write(root / "labels" / "train" / "gone.txt", "0 0 0 0 1 1 1\n", mark, end)
    write(root / "data.yaml", "path: .\nnames:\n  0: sky\n  1: car\n  2: bus\n", mark, end)
    spec, made = made_of(root)
    assert spec.classes == ("sky", "car")
    labels = labels_of(spec, made)
    assert len(labels) == 5
    expected = boxes((1, (4, 6, 8, 12)), (0, (20, 12, WIDTH, HEIGHT)))
    assert all((label == expected).all() for label in labels.values())
    told = capfd.readouterr().err
    assert "2 annotations left out: boxes" in told
    assert "2 annotations left out: a polygon whose numbers are no pairs" in told


def test_yolo_with_names_of_the_user(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photographs(photos, 3)
    for i in range(3):
        write(photos / f"photo_{i}.txt", f"{i % 2} 0 0 0.5 0 0.5 1 0 1")
    spec, made = made_of(photos, "--classes", "road, sky, kerb")
    assert (spec.classes, spec.unseen) == (("road", "sky", "kerb"), ("kerb",))
    assert (labels_of(spec, made)["photo_1"] == boxes((1, (0, 0, 20, HEIGHT)))).all()


def bits(*numbers: tuple[int, int]) -> list[int]:
    """Bytes of numbers (value, bits), the highest bit first."""
    text = "".join(f"{value:0{count}b}" for value, count in numbers)
    text += "0" * (-len(text) % 8)
    return [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]


def brush(mask: Any) -> list[int]:
    """Label Studio's brush mask: RGBA of every pixel; runs and single values in turn."""
    values = np.repeat(np.asarray(mask).ravel() * 255, 4).tolist()
    head = [(len(values), 32), (7, 5), (2, 4), (3, 4), (7, 4), (15, 4)]
    runs: list[list[tuple[int, int]]] = []
    place = 0
    while place < len(values):
        end = place
        while end < len(values) and values[end] == values[place]:
            end += 1
        length = min(end - place, 4)
        if len(runs) % 2:  # one value repeated, the length in 16 bits
            length = end - place
            runs.append([(1, 1), (3, 2), (length - 1, 16), (values[place], 8)])
        else:  # single values, their number in 4 bits
            single = [(each, 8) for each in values[place : place + length]]
            runs.append([(0, 1), (1, 2), (length - 1, 4), *single])
        place += length
    return bits(*head, *(each for run in runs for each in run))


def test_brush_masks_are_unpacked() -> None:
    mask = np.random.default_rng(0).integers(0, 2, (5, 9))
    assert (brush_values(brush(mask)) == np.repeat(mask.ravel() * 255, 4)).all()
    with pytest.raises(ValueError, match="ends too early"):
        brush_values(brush(mask)[:-2])
    with pytest.raises(ValueError, match="4,294,967,295 values"):
        brush_values([255] * 40)


def studio_task(name: str, parts: list[Any]) -> dict[str, Any]:
    sizes = {"original_width": WIDTH, "original_height": HEIGHT, "from_name": "tag"}
    results = [sizes | each for each in parts]
    return {
        "id": 1,
        "annotations": [
            {"was_cancelled": True, "result": [{"value": {"points": [], "polygonlabels": ["x"]}}]},
            {"result": results},
        ],
        "data": {"image": name},
    }


@windows
def test_label_studio(
    tmp_path: Path, mark: str, end: str, capfd: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photographs(photos, 3)
    mask = np.zeros(SIZE, dtype=int)
    mask[2:6, 30:34] = 1
    square = {"points": corners(10, 25, 20, 50), "polygonlabels": ["Car"]}
    rle = {"format": "rle", "rle": brush(mask), "brushlabels": ["Sky"]}
    tasks = [
        studio_task(
            "/data/upload/3/0a1b2c3d-photo_1.png",
            [
                {"type": "polygonlabels", "value": square},
                {"type": "brushlabels", "value": rle},
                {"type": "rectanglelabels",
                 "value": {"x": 1, "y": 1, "width": 5, "height": 5, "rectanglelabels": ["Car"]}},
                {"type": "choices", "value": {"choices": ["day"]}},
            ],
        ),
        studio_task("/data/local-files/?d=a/photo_0.png", [{"value": square | {"points": [[1]]}}]),
        studio_task("s3://bucket/gone.png", []),
    ]  # fmt: skip
    write(photos / "project-1.json", json.dumps(tasks, indent=1), mark, end)
    spec, made = made_of(photos)
    assert spec.classes == ("Car", "Sky")
    labels = labels_of(spec, made)
    assert labels.keys() == {"photo_1"}
    assert (labels["photo_1"] == boxes((0, (4, 6, 8, 12)), (1, (30, 2, 34, 6)))).all()
    told = capfd.readouterr().err
    assert "boxes, which say where a thing is" in told
    assert "s3://bucket/gone.png" in told


def test_label_studio_json_min(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photograph(photos / "a b.png")
    sizes = {"original_width": WIDTH, "original_height": HEIGHT}
    areas = [
        sizes | {"points": corners(0, 0, 50, 100), "polygonlabels": ["Road"]},
        sizes | {"points": corners(50, 0, 100, 100), "polygonlabels": ["Sky"]},
    ]
    task = {"image": "/data/upload/1/0a1b2c3d-a%20b.png", "id": 1, "annotation_id": 1}
    write(photos / "min.json", json.dumps([task | {"label": areas}]))
    spec, made = made_of(photos)
    assert (labels_of(spec, made)["a b"] == boxes((0, (0, 0, 20, 24)), (1, (20, 0, 40, 24)))).all()


def test_of_several_forms_the_one_for_most_images_is_taken(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photographs(photos, 4)
    for i in range(2):
        shapes = [{"label": "road", "points": corners(0, 0, 9, 9)}]
        labelme(
            photos / f"photo_{i}.json", [*shapes, {"label": "sky", "points": corners(9, 9, 20, 20)}]
        )
    for i in range(3):
        write(photos / "yolo" / f"photo_{i}.txt", "0 0 0 1 0 1 1\n1 0 0 0.5 0 0.5 0.5\n")
    write(photos / "yolo" / "classes.txt", "kerb\nlane\n")
    spec, _ = made_of(photos)
    assert spec.classes == ("kerb", "lane")
    assert "there are LabelMe's JSON too" in capfd.readouterr().err
    spec, _ = made_of(photos, "--labels", photos / "yolo", "--out", tmp_path / "b.yaml")
