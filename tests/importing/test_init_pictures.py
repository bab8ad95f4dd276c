"""`zsseg init` on images without labels, and with labels that are pictures."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from helpers.photo_folder import (
    SIZE,
    contents,
    halves,
    labels_of,
    made_of,
    photograph,
    photographs,
)
from helpers.zsseg_command import called, zsseg
from numpy.typing import NDArray

from zsseg.stages.data.images import write_png
from zsseg.stages.data.spec import VOID, load_spec
from zsseg.stages.errors import DatasetError

PALETTE = np.zeros((256, 3), dtype=np.uint8)
PALETTE[1:4] = [(128, 0, 0), (0, 128, 0), (0, 0, 128)]
COLOURS = {"road": (128, 64, 128), "sky": (70, 130, 180), "tree": (107, 142, 35)}


def colours_of(label_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    table = np.array([*COLOURS.values(), (0, 0, 0)], dtype=np.uint8)
    picture_HW3: NDArray[np.uint8] = table[label_HW]
    return picture_HW3


def test_without_labels_all_named_classes_are_unseen(tmp_path: Path) -> None:
    photographs(tmp_path / "photos", 10)
    spec, made = made_of(tmp_path / "photos", "--classes", "road, sky|blue sky")
    assert spec.classes == spec.unseen == ("road", "sky|blue sky")
    assert spec.patterns is not None
    assert spec.patterns.labels is None
    assert len([*(made / "images" / "train").iterdir()]) == 8
    assert len([*(made / "images" / "val").iterdir()]) == 2


def test_the_same_seed_holds_out_the_same_images(tmp_path: Path) -> None:
    photographs(tmp_path / "photos", 20)
    held = []
    for number, seed in enumerate((0, 0, 1)):
        out = tmp_path / f"{number}.yaml"
        words = ("--classes", "a, b", "--seed", seed, "--out", out, "-q")
        assert zsseg("init", tmp_path / "photos", *words) == 0
        held.append(sorted(p.name for p in (tmp_path / f"{number}-zsseg/images/val").iterdir()))
    assert held[0] == held[1] != held[2]


def test_palette_masks_beside_the_images_keep_their_values(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photographs(photos, 5)
    for i in range(5):
        write_png(photos / f"photo_{i}_mask.png", halves(1, 2 + i % 2), palette=PALETTE)
    spec, made = made_of(photos, "--classes", "road, sky, tree")
    assert (spec.classes, spec.unseen) == (("road", "sky", "tree"), ())
    assert spec.encoding == {1: 0, 2: 1, 3: 2}
    labels = labels_of(spec, made)
    assert labels.keys() == {f"photo_{i}" for i in range(5)}
    assert (labels["photo_1"] == halves(0, 2)).all()
    assert next((made / "labels/train").iterdir()).is_symlink()


def test_grey_masks_in_a_folder_of_their_own_for_some_of_the_images(tmp_path: Path) -> None:
    photographs(tmp_path / "photos" / "img", 6, name="img_{:03}.png")
    for i in range(3):
        write_png(tmp_path / "photos" / "gt" / f"gt_{i:03}.png", halves(0, 1))
    spec, made = made_of(tmp_path / "photos", "--classes", "road, sky, traffic cone")
    assert spec.labelled == "some"
    assert spec.unseen == ("traffic cone",)
    assert labels_of(spec, made).keys() == {"img_000", "img_001", "img_002"}
    assert len([*(made / "labels" / "val").iterdir()]) == 1


def test_a_mask_of_0_and_255_has_two_classes(tmp_path: Path) -> None:
    photographs(tmp_path / "photos", 3, name="{}.png")
    for i in range(3):
        write_png(tmp_path / "masks" / f"{i}.png", halves(0, 255))
    spec, made = made_of(tmp_path / "photos", "--labels", tmp_path / "masks", "--classes", "crack")
    assert spec.classes == ("background", "crack")
    assert (labels_of(spec, made)["0"] == halves(0, 1)).all()


@pytest.mark.parametrize(
    ("values", "names", "encoding"),
    [
        ((0, 255), "road, car", {0: 0, 255: 1}),
        ((0, 255), "road, car, sky", {0: 0, 1: 1, 2: 2}),
        ((1, 255), "road, car", {1: 0, 2: 1}),
        ((3, 255), "road, car", None),
    ],
)
def test_255_is_void_but_in_masks_of_0_and_255(
    tmp_path: Path, values: tuple[int, int], names: str, encoding: dict[int, int] | None
) -> None:
    photographs(tmp_path / "photos", 3, name="{}.png")
    for i in range(3):
        write_png(tmp_path / "masks" / f"{i}.png", halves(*values))
    words = (tmp_path / "photos", "--labels", tmp_path / "masks", "--classes", names, "-q")
    out = tmp_path / "made.yaml"
    if encoding is None:
        with pytest.raises(DatasetError, match="gives 2 names, and the labels hold 1 values"):
            called("init", *words, "--out", out)
        return
    called("init", *words, "--out", out)
    spec = load_spec(str(out))
    found = spec.encoding or {number: number for number in range(len(spec.classes))}
    assert found == encoding
    assert (255 in spec.ignore) == (255 not in encoding)


@pytest.mark.parametrize(
    ("form", "twin"),
    [
        ("numbers", "cafe\u0301"),
        ("numbers", "  CAF\u00c9 "),
        ("colours", "cafe\u0301"),
        ("colours", "  CAF\u00c9 "),
        ("colours", ""),  # a colour without a name is void
    ],
)
def test_names_that_are_one_to_a_text_encoder_are_one_class(
    tmp_path: Path, form: str, twin: str
) -> None:
    photos = tmp_path / "photos"
    photographs(photos / "images", 3)
    label = halves(0, 1)
    label[:8] = 2
    for i in range(3):
        shown = label if form == "numbers" else colours_of(label)
        write_png(photos / "labels" / f"photo_{i}.png", shown)
    names = ["caf\u00e9", twin, "road"]
    if form == "numbers":
        lines = [f"{number}: {name}" for number, name in enumerate(names)]
        (photos / "labels" / "names.txt").write_text("\n".join(lines), encoding="utf-8")
    else:
        colours = COLOURS.values()
        labels = [{"name": n, "color": [*c]} for n, c in zip(names, colours, strict=True)]
        (photos / "config.json").write_text(json.dumps({"labels": labels}), encoding="utf-8")
    spec, _ = made_of(photos)
    assert spec.classes == ("caf\u00e9", "road")


@pytest.mark.parametrize(("last", "first_class"), [(3, 1), (11, 0)])
def test_one_value_more_than_names_is_told(
    tmp_path: Path, last: int, first_class: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """0 is void where it is as common as a class; the last value where it is rare."""
    photos = tmp_path / "photos"
    photographs(photos / "images", 3)
    for i in range(3):
        rows_HW = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) // SIZE[1]
        label = (rows_HW % (last + first_class)).astype(np.uint8)
        label[:1, :2] = last
        write_png(photos / "labels" / f"photo_{i}.png", label)
    names = ", ".join(f"thing {chr(97 + i)}" for i in range(last))
    spec, _ = made_of(photos, "--classes", names)
    assert spec.encoding == {first_class + i: i for i in range(last)}
    assert "one value more than names are given" in capfd.readouterr().err


def test_values_with_gaps_and_a_black_one_without_a_name(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photographs(photos / "images", 3)
    for i in range(3):
        label = halves(7, 15)
        label[:12] = 0
        write_png(photos / "labels" / f"photo_{i}.png", label, palette=PALETTE)
    spec, _ = made_of(photos, "--classes", "car, person")
    assert (spec.encoding, spec.ignore) == ({7: 0, 15: 1}, (0, 255))


def test_a_folder_like_a_built_in_data_set_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    photographs(tmp_path / "photos" / "train", 3)
    for i in range(3):
        write_png(tmp_path / "photos" / "trainannot" / f"photo_{i}.png", halves(0, 1))
    made_of(tmp_path / "photos", "--classes", "sky, building")
    assert "like the built-in data set `camvid`" in capfd.readouterr().err


def test_values_without_names_are_told_and_become_classes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    photographs(tmp_path / "photos" / "images", 3)
    for i in range(3):
        write_png(tmp_path / "photos" / "labels" / f"photo_{i}.png", halves(7, 24))
    spec, _ = made_of(tmp_path / "photos")
    assert spec.classes == ("class 7", "class 24")
    assert "No file says what the values mean" in capfd.readouterr().err


def test_values_that_do_not_fit_the_names_are_an_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    photographs(tmp_path / "photos", 3)
    for i in range(3):
        write_png(tmp_path / "masks" / f"photo_{i}.png", halves(7, 24))
    words = ("--labels", tmp_path / "masks", "--out", tmp_path / "a.yaml", "-q")
    assert zsseg("init", tmp_path / "photos", "--classes", "a, b, c", *words) == 4
    assert "3 names, and the labels hold 2 values (7, 24)" in capfd.readouterr().err
    assert not (tmp_path / "a.yaml").exists()
    assert not [*tmp_path.glob("a-zsseg*")]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_colour_masks_of_cvat(tmp_path: Path, end: str, mark: str) -> None:
    photos = tmp_path / "photos"
    photographs(photos / "JPEGImages", 4)
    for i in range(4):
        label = halves(0, 1 + i % 2)
        label[:3] = 3
        write_png(photos / "SegmentationClass" / f"photo_{i}.png", colours_of(label))
        rng = np.random.default_rng(i)
        instances = rng.integers(0, 255, (2, 3), dtype=np.uint8)[halves(0, 1)]
        write_png(photos / "SegmentationObject" / f"photo_{i}.png", instances)
    rows = [f"{name}:{r},{g},{b}::" for name, (r, g, b) in COLOURS.items()]
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::", *rows, "bus:1,2,3::"]
    (photos / "labelmap.txt").write_bytes((mark + end.join(lines) + end).encode())
    spec, made = made_of(photos)
    assert spec.classes == ("road", "sky", "tree")
    expected = halves(0, 2)
    expected[:3] = VOID
    assert (labels_of(spec, made)["photo_1"] == expected).all()


def test_colours_without_names_are_shown_and_edges_between_them_are_void(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    size = (120, 160)
    for i in range(2):
        photograph(photos / f"{i}.png", seed=i, size=size)
        mask = colours_of(halves(0, 1, size=size))
        mask[0, 0] = (99, 97, 154)
        write_png(photos / f"{i}_label.png", mask)
    spec, made = made_of(photos)
    assert set(spec.classes) == {"colour 804080", "colour 4682b4"}
    assert labels_of(spec, made)["0"][0, 0] == VOID
    told = capfd.readouterr().err
    assert "1 colours with hardly a pixel" in told
    assert "road:128,64,128::" in told


def test_folders_of_splits_are_kept_and_one_without_labels_is_left_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    for split, count in (("train", 3), ("val", 2), ("test", 2)):
        photographs(photos / split, count, name="{:04}.png")
        for i in range(count if split != "test" else 0):
            value = {"train": 1, "val": 2}[split]
            write_png(photos / f"{split}annot" / f"{i:04}.png", halves(0, value))
    spec, made = made_of(photos, "--classes", "road, sky, tree")
    labels = labels_of(spec, made)
    assert labels.keys() == {"train/0000", "train/0001", "train/0002", "val/0000", "val/0001"}
    assert (labels["val/0000"] == halves(0, 2)).all()
    assert "2 images of 'test' have no label" in capfd.readouterr().err


def test_cityscapes_folders(tmp_path: Path) -> None:
    root = tmp_path / "cityscapes"
    for i, split in enumerate(("train", "train", "val")):
        name = f"{split}/ulm/ulm_00000{i}_000019"
        photograph(root / "leftImg8bit" / f"{name}_leftImg8bit.png", seed=i)
        write_png(root / "gtFine" / f"{name}_gtFine_labelIds.png", halves(7, 23))
        write_png(root / "gtFine" / f"{name}_gtFine_instanceIds.png", halves(17, 93))
        write_png(root / "gtFine" / f"{name}_gtFine_color.png", colours_of(halves(0, 1)))
    spec, made = made_of(root)
    assert spec.classes == ("road", "sky")
    assert labels_of(spec, made).keys() >= {"val/ulm/ulm_000002_000019_leftImg8bit"}


def test_mapillary_folders(tmp_path: Path) -> None:
    root = tmp_path / "mapillary"
    for split in ("training", "validation"):
        for i in range(2):
            photograph(root / split / "images" / f"{split}{i}.png", seed=i)
            write_png(root / split / "v1.2" / "labels" / f"{split}{i}.png", halves(0, 1))
            write_png(root / split / "v1.2" / "instances" / f"{split}{i}.png", halves(5, 77))
    labels = [
        {"name": "construction--barrier--curb", "readable": "Curb", "color": [1, 1, 1]},
        {"name": "animal--bird", "readable": "Bird", "color": [165, 42, 42]},
        {"name": "void--unlabeled", "readable": "Unlabeled", "color": [0, 0, 0]},
    ]
    (root / "config_v1.2.json").write_text(json.dumps({"labels": labels}))
    spec, made = made_of(root)
    assert spec.classes == ("Curb", "Bird")
    assert len(labels_of(spec, made)) == 4
    assert sorted(p.name for p in (made / "images").iterdir()) == ["train", "val"]


def test_files_that_cannot_be_used_are_left_out_and_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photographs(photos / "images", 5)
    for i in range(5):
        write_png(photos / "labels" / f"photo_{i}.png", halves(0, 1))
    write_png(photos / "labels" / "gone.png", halves(0, 1))
    (photos / "images" / "photo_0.png").write_bytes(b"no image")
    (photos / "images" / "photo.heic").write_bytes(b"")
    write_png(photos / "labels" / "photo_1.png", halves(0, 1, size=(40, 24)))
    spec, made = made_of(photos, "--classes", "road, sky", code=3)
    assert labels_of(spec, made).keys() == {"photo_2", "photo_3", "photo_4"}
    told = capfd.readouterr().err
    assert "photo_0.png: cannot be read as an image" in told
    assert "one of them lies on its side" in told
    assert "no image by their names, such as" in told
    assert "1 file .heic left out" in told


def test_images_that_differ_in_their_extension_only(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for i, name in enumerate(("a.png", "a.bmp", "b.png")):
        photograph(photos / name, seed=i)
    _, made = made_of(photos, "--classes", "road, sky")
    names = sorted(path.name for path in made.glob("images/*/*"))
    assert names == ["a_bmp.bmp", "a_png.png", "b.png"]


@pytest.mark.parametrize("missing", [(), ("symlink",), ("symlink", "link")])
def test_no_two_images_get_one_name_and_none_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]
) -> None:
    def refused(*args: object) -> None:
        raise OSError("not permitted")

    photos = tmp_path / "photos"
    names = ("a.png", "a.bmp", "a_png.png", "a_png.bmp", "A_png_2.png", "b/a.png")
    for i, name in enumerate(names):
        photograph(photos / name, seed=i)
    for name in missing:
        monkeypatch.setattr(os, name, refused)
    _, made = made_of(photos, "--classes", "road, sky")  # it compares the user's folder
    copies = [path for path in made.glob("images/**/*") if path.is_file()]
    assert sorted(path.read_bytes() for path in copies) == sorted(
        path.read_bytes() for path in photos.rglob("*.*")
    )
    stems = [path.relative_to(made / "images").as_posix().casefold() for path in copies]
    assert len({stem.partition("/")[2].rpartition(".")[0] for stem in stems}) == len(names)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["nowhere", "--classes", "a, b"], "there is no such folder"),
        (["photos"], "no labels were found, so the classes are not known"),
        (["photos", "--classes", "a"], "Name them, two or more"),
        (["photos", "--classes", "a, A"], "the classes 'a' and 'A' are the same"),
        (["photos", "--classes", "a, b", "--labels", "gone"], "gone: there is no such file"),
        (["photos", "--classes", "a, b", "--out", "a.txt"], "a description is a YAML file"),
        (["photos", "--classes", "a, b", "--out", "photos/a.yaml"], "which is never written to"),
        (["photos", "--classes", "a, b", "--out", "there.yaml"], "is there already"),
        (["empty", "--classes", "a, b"], "holds no image"),
    ],
)
def test_what_is_wrong_is_told(
    words: list[str],
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    photographs(tmp_path / "photos", 2)
    (tmp_path / "empty").mkdir()
    (tmp_path / "there.yaml").write_text("mine")
    before = contents(tmp_path)
    assert zsseg("init", *words) in (2, 4)
    assert text in capfd.readouterr().err
    assert contents(tmp_path) == before


def test_names_are_escaped_on_the_page(tmp_path: Path) -> None:
    photographs(tmp_path / "photos", 2, name="<b>{}.png")
    _, made = made_of(tmp_path / "photos", "--classes", "<i>road</i>, sky")
    page = (made / "check.html").read_text(encoding="utf-8")
    assert "<i>road" not in page
    assert "<b>0" not in page
    assert "&lt;i&gt;road" in page


def test_json_says_what_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    photographs(tmp_path / "My Photos", 3)
    assert zsseg("init", "My Photos", "--classes", "road, sky", "--json") == 0
    values = json.loads(capfd.readouterr().out)
    assert values["description"] == "my-photos.yaml"
    assert values["splits"] == {
        "train": {"images": 2, "labelled": 0},
        "val": {"images": 1, "labelled": 0},
    }
    assert (tmp_path / "my-photos-zsseg" / "check.html").is_file()


@pytest.mark.parametrize("missing", [("symlink",), ("symlink", "link")])
def test_where_the_system_makes_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]
) -> None:
    """A second name of the file, or a copy: as on Windows, or across file systems."""

    def refused(*args: object) -> None:
        raise OSError("not permitted")

    for name in missing:
        monkeypatch.setattr(os, name, refused)
    (photo,) = photographs(tmp_path / "photos", 1)
    _, made = made_of(tmp_path / "photos", "--classes", "road, sky")
    copy = made / "images" / "train" / "photo_0.png"
    assert not copy.is_symlink()
    assert copy.samefile(photo) == ("link" not in missing)
    assert copy.read_bytes() == photo.read_bytes()


def test_what_a_killed_call_left_is_no_obstacle(tmp_path: Path) -> None:
    photographs(tmp_path / "photos", 2)
    left = tmp_path / "made-of-photos-zsseg.partial" / "images" / "train" / "old.png"
    photograph(left)
    _, made = made_of(tmp_path / "photos", "--classes", "road, sky")
    assert len([*made.glob("images/*/*")]) == 2
    assert not left.exists()
