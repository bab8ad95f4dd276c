"""Files that name values and colours, in each of their forms."""

from pathlib import Path

import numpy as np
import pytest
from helpers.photo_folder import halves, labels_of, made_of, photographs

from zsseg.stages.data.images import write_png
from zsseg.stages.data.spec import VOID, load_spec
from zsseg.stages.importing.name_files import NameTable, name_tables

ROAD, SKY = (128, 64, 128), (70, 130, 180)


def table_of(folder: Path, name: str, text: str) -> NameTable | None:
    path = folder / name
    path.write_bytes(text.encode())
    found = name_tables([path])
    return found[0] if found else None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labelmap.txt", "# label:color_rgb:parts:actions\nroad:128,64,128::\nsky:70,130,180::\n"),
        ("labelmap.txt", "\ufeffroad:128,64,128::\r\nsky:70,130,180:a,b:c\r\n"),
        ("label_colors.txt", "128 64 128\troad\n70 130 180\t\tsky\n"),
        ("class_dict.csv", "name,r,g,b\nroad, 128, 64, 128\nsky, 70, 130, 180\n"),
        ("config.json", '{"labels": [{"name": "x", "readable": "road", "color": [128, 64, 128]},'
         '{"name": "sky", "color": [70, 130, 180, 255]}]}'),
    ],
)  # fmt: skip
def test_colours(tmp_path: Path, name: str, text: str) -> None:
    table = table_of(tmp_path, name, text)
    assert table is not None
    assert table.by_colour == {ROAD: "road", SKY: "sky"}
    assert table.by_value == {0: "road", 1: "sky"}


@pytest.mark.parametrize(
    ("name", "text", "by_value"),
    [
        ("_classes.csv", "Pixel Value, Class\n0, road\n7, sky\n", {0: "road", 7: "sky"}),
        ("ids.txt", "0: road\n7: traffic light\n", {0: "road", 7: "traffic light"}),
        ("names.txt", "road\r\nsky\r\n", {0: "road", 1: "sky"}),
        ("class_names.txt", "_background_\nsky\n", {0: "_background_", 1: "sky"}),
        ("data.yaml", "names: [road, sky]\nnc: 2\n", {0: "road", 1: "sky"}),
        ("data.yaml", "names:\n  0: road\n  7: sky\n", {0: "road", 7: "sky"}),
    ],
)
def test_values(tmp_path: Path, name: str, text: str, by_value: dict[int, str]) -> None:
    table = table_of(tmp_path, name, text)
    assert table is not None
    assert (table.by_value, table.by_colour) == (by_value, {})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("readme.txt", "These photographs\nwere taken in May\n"),
        ("default.txt", "a\nb\n"),
        ("photo_1.txt", "0 0.1 0.2 0.3 0.4 0.5 0.6\n"),
        ("labelmap.txt", "road:128,64,1280::\n"),
        ("a.json", "{"),
        ("a.yaml", "a: [b"),
        ("names.yaml", "names: {road: 1}\n"),
        ("classes.txt", "x" * 100),
        ("labels.txt", ""),
    ],
)
def test_what_is_none(tmp_path: Path, name: str, text: str) -> None:
    assert table_of(tmp_path, name, text) is None


def test_labelmes_folder_of_palette_pictures(tmp_path: Path) -> None:
    """labelme2voc's: class_names.txt, SegmentationClass/*.png, SegmentationClassVisualization."""
    root = tmp_path / "voc"
    photographs(root / "JPEGImages", 3)
    for i in range(3):
        label = halves(1, 2)
        label[:3] = 0
        label[-2:] = 255
        write_png(root / "SegmentationClass" / f"photo_{i}.png", label)
    (root / "class_names.txt").write_text("_background_\nroad\nsky\n")
    spec, made = made_of(root)
    assert (spec.classes, spec.ignore) == (("road", "sky"), (0, 255))
    expected = halves(0, 1)
    expected[:3] = expected[-2:] = VOID
    assert (labels_of(spec, made)["photo_0"] == expected).all()


def test_colours_of_a_known_data_set_have_its_names(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    own = load_spec("camvid").colours
    table = np.array([own["sky"], own["road"], own["car"]], dtype=np.uint8)
    photographs(tmp_path / "photos" / "img", 3)
    for i in range(3):
        label = halves(0, 1)
        label[:5] = 2
        mask = table[label]
        mask[-1:] = 0
        write_png(tmp_path / "photos" / "gt" / f"photo_{i}.png", mask)
    spec, _ = made_of(tmp_path / "photos")
    assert set(spec.classes) == {"sky", "road", "car"}
    assert "those of the data set `camvid`" in capfd.readouterr().err
