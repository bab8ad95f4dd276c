"""Cityscapes, ADE20K and BDD100K as they lie on disk: small trees of real images and labels."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from helpers.zsseg_command import called as zsseg
from numpy.typing import NDArray
from PIL import Image

from zsseg.stages.data.dataset_check import verify_split
from zsseg.stages.data.labels import read_label
from zsseg.stages.data.layouts import FOLDER_LAYOUTS
from zsseg.stages.data.pascal_lists import LIST_LAYOUTS
from zsseg.stages.data.spec import VOID, Layout, load_spec
from zsseg.stages.data.splits import list_samples, splits, unpaired_labels
from zsseg.stages.data.visible import read_visible_label
from zsseg.stages.errors import DatasetError

SIZE = (6, 34)


def _image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE[::-1], (90, 120, 150)).save(path)


def _label(path: Path, values: NDArray[np.integer] | list[int]) -> None:
    """A label of SIZE whose columns repeat `values`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    row_W = np.resize(np.array(values, dtype=np.uint8), SIZE[1])
    Image.fromarray(np.tile(row_W, (SIZE[0], 1))).save(path)


def _stamps(root: Path) -> dict[Path, tuple[int, int]]:
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_size)
        for path in root.rglob("*")
        if path.is_file()
    }


# ---------------------------------------------------------------------------------- Cityscapes

# The benchmark's table: class by `_labelIds` value; every other value up to 33 has no class.
LABEL_IDS = {
    **{7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole"},
    **{19: "traffic light", 20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky"},
    **{24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train"},
    **{32: "motorcycle", 33: "bicycle"},
}


def _cityscapes(root: Path) -> None:
    """Two cities in `val`, one in `train`, and `test` with its dummies."""
    for split, stem in (
        ("train", "aachen/aachen_000000_000019"),
        ("val", "ulm/ulm_000000_000019"),
        ("val", "bonn/bonn_000004_000019"),
        ("test", "berlin/berlin_000000_000019"),
    ):
        _image(root / "leftImg8bit" / split / f"{stem}_leftImg8bit.png")
        label = root / "gtFine" / split / f"{stem}_gtFine"
        _label(Path(f"{label}_labelIds.png"), [0] if split == "test" else [*range(34)])
        # What lies beside the labels in the official archive.
        _image(Path(f"{label}_color.png"))
        _label(Path(f"{label}_instanceIds.png"), [26])
        Path(f"{label}_polygons.json").write_text("{}")


def test_cityscapes_label_ids(tmp_path: Path) -> None:
    _cityscapes(tmp_path)
    spec = load_spec("cityscapes")
    first, second = list_samples(spec, tmp_path, "val")
    assert (first.id, second.id) == ("bonn/bonn_000004_000019", "ulm/ulm_000000_000019")
    assert second.label == (tmp_path / "gtFine/val/ulm/ulm_000000_000019_gtFine_labelIds.png")
    label_HW = read_label(spec, second)
    assert label_HW.shape == SIZE
    for value, code in enumerate(label_HW[0].tolist()):
        if value in LABEL_IDS:
            assert spec.classes[code] == LABEL_IDS[value]
        else:
            assert code == VOID
    shown = {spec.classes[code] for code in set(read_visible_label(spec, second)[0]) - {VOID}}
    assert shown == set(spec.classes) - {"fence", "vegetation", "truck", "motorcycle"}


def test_cityscapes_prefers_train_ids(tmp_path: Path) -> None:
    _cityscapes(tmp_path)
    spec = load_spec("cityscapes")
    label = tmp_path / "gtFine/val/ulm/ulm_000000_000019_gtFine_labelTrainIds.png"
    _label(label, [*range(19), 255])
    bonn, ulm = list_samples(spec, tmp_path, "val")
    assert (ulm.label, ulm.form) == (label, "class-ids")
    assert bonn.form == "described"  # the two forms may lie side by side
    assert read_label(spec, ulm)[0, :20].tolist() == [*range(19), VOID]
    hidden = [VOID if code in (4, 8, 14, 17) else code for code in range(19)]
    assert read_visible_label(spec, ulm)[0, :20].tolist() == [*hidden, VOID]
    _label(label, [18, 19])
    with pytest.raises(DatasetError, match=r"labelTrainIds\.png: .*'cityscapes': 19 \(102 px\)"):
        read_label(spec, ulm)


def test_cityscapes_dummies_are_no_labels(tmp_path: Path) -> None:
    _cityscapes(tmp_path)
    spec = load_spec("cityscapes")
    assert splits(spec, tmp_path) == ["train", "val"]
    (sample,) = list_samples(spec, tmp_path, "test")
    assert sample.label is None
    assert unpaired_labels(spec, tmp_path, "test") == []
    # Pictures of labels alone do not make a split either.
    for path in (tmp_path / "gtFine/train").rglob("*_labelIds.png"):
        path.unlink()
    assert splits(spec, tmp_path) == ["val"]
    with pytest.raises(
        DatasetError, match=r"19_gtFine_labelIds\.png: there is no such label.*gtFi"
    ):
        list_samples(spec, tmp_path, "train")


def test_cityscapes_problems_are_named(tmp_path: Path) -> None:
    _cityscapes(tmp_path)
    spec = load_spec("cityscapes")
    ulm = tmp_path / "gtFine/val/ulm"
    (ulm / "ulm_000000_000019_gtFine_labelIds.png").rename(ulm / "x_gtFine_labelIds.png")
    _image(tmp_path / "leftImg8bit/val/ulm/notes.png")  # no `_leftImg8bit`: no image
    _label(tmp_path / "gtFine/val/bonn/bonn_000004_000019_gtFine_labelIds.png", [7, 34])
    before = _stamps(tmp_path)
    report = verify_split(spec, tmp_path, "val", progress=lambda done, total: None)
    assert report.samples == 2
    found = [(problem.path.name, problem.reason) for problem in report.problems]
    assert [name for name, _ in found] == [
        "bonn_000004_000019_gtFine_labelIds.png",
        "x_gtFine_labelIds.png",
        "ulm_000000_000019_leftImg8bit.png",
    ]
    assert "34 (102 px)" in found[0][1]
    assert [reason for _, reason in found[1:]] == [
        "a label without an image of the same name",
        "an image without a label",
    ]
    assert _stamps(tmp_path) == before


# -------------------------------------------------------------------------------------- ADE20K


def _ade20k(root: Path) -> Path:
    folder = root / "ADEChallengeData2016"
    for split, stems in (
        ("training", ("ADE_train_00000001", "ADE_train_00000002")),
        ("validation", ("ADE_val_00000001",)),
    ):
        for number, stem in enumerate(stems):
            _image(folder / "images" / split / f"{stem}.jpg")
            values = [0, 150, *range(1, 33)] if number == 0 else [3, 4]
            _label(folder / "annotations" / split / f"{stem}.png", values)
    # As the archive has them.
    (folder / "sceneCategories.txt").write_text("ADE_train_00000001 airport_terminal\n")
    (folder / "images" / "validation" / "index.html").touch()
    return folder


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("names", [("train", "val"), ("training", "validation")])
def test_ade20k_roots_and_split_names(tmp_path: Path, inside: bool, names: tuple[str, str]) -> None:
    folder = _ade20k(tmp_path)
    spec, root = load_spec("ade20k"), folder if inside else tmp_path
    assert splits(spec, root) == ["train", "val"]
    first, second = list_samples(spec, root, names[0])
    assert (first.id, second.id) == ("ADE_train_00000001", "ADE_train_00000002")
    (third,) = list_samples(spec, root, names[1])
    assert third.image == folder / "images/validation/ADE_val_00000001.jpg"
    assert third.label == folder / "annotations/validation/ADE_val_00000001.png"


def test_ade20k_labels_begin_at_one(tmp_path: Path) -> None:
    _ade20k(tmp_path)
    spec = load_spec("ade20k")
    (sample,) = list_samples(spec, tmp_path, "val")
    label_HW = read_label(spec, sample)
    assert label_HW[0].tolist() == [VOID, 149, *range(32)]
    for code, name in {0: "wall", 2: "sky", 12: "person", 31: "seat", 149: "flag"}.items():
        assert spec.classes[code] == name
    visible_HW = read_visible_label(spec, sample)
    assert (visible_HW == VOID).sum() == SIZE[0] * (2 + len([2, 5, 7, 18, 28]))
    assert not np.isin(visible_HW, spec.unseen_ids).any()
    assert sample.label is not None
    _label(sample.label, [150, 151])
    with pytest.raises(DatasetError, match=r"ADE_val_00000001\.png: .*'ade20k': 151 \(102 px\)"):
        read_label(spec, sample)


def test_ade20k_with_a_missing_and_a_stray_label(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = _ade20k(tmp_path)
    spec, labels = load_spec("ade20k"), folder / "annotations/training"
    (labels / "ADE_train_00000002.png").rename(labels / "ADE_train_00000003.png")
    assert [sample.label is None for sample in list_samples(spec, tmp_path, "train")] == [0, 1]
    assert "1 of 2 images in split 'train' of 'ade20k'" in caplog.text
    assert unpaired_labels(spec, tmp_path, "training") == [labels / "ADE_train_00000003.png"]
    with pytest.raises(DatasetError, match=r"/images/testing: .*are there: train, val;"):
        list_samples(spec, tmp_path, "testing")


# ------------------------------------------------------------------------------------- BDD100K


def _bdd100k(root: Path, *, older: bool) -> Path:
    folder = root / "bdd100k"
    images, labels, ending = (
        ("seg/images", "seg/labels", "_train_id.png")
        if older
        else ("images/10k", "labels/sem_seg/masks", ".png")
    )
    for split, stems in (
        ("train", ("0004a4c0-d4dff0ad", "00054602-3bf57337")),
        ("val", ("7d06fefd-f7be05a6",)),
        ("test", ("ff3d3a1b-00000000",)),
    ):
        for stem in stems:
            _image(folder / images / split / f"{stem}.jpg")
            if split != "test":
                _label(folder / labels / split / f"{stem}{ending}", [*range(19), 255])
    if older:
        _image(folder / "seg/color_labels/train/0004a4c0-d4dff0ad_train_color.png")
    else:
        # The other images and the pictures of labels, which lie beside them.
        _image(folder / "images/100k/train/0000f77c-6257be58.jpg")
        _image(folder / "labels/sem_seg/colormaps/train/0004a4c0-d4dff0ad.png")
    return folder


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_bdd100k_releases_and_roots(tmp_path: Path, older: bool, inside: bool) -> None:
    folder = _bdd100k(tmp_path, older=older)
    spec, root = load_spec("bdd100k"), folder if inside else tmp_path
    assert splits(spec, root) == ["train", "val"]
    assert unpaired_labels(spec, root, "train") == []
    first, second = list_samples(spec, root, "train")
    assert (first.id, second.id) == ("0004a4c0-d4dff0ad", "00054602-3bf57337")
    (sample,) = list_samples(spec, root, "val")
    assert sample.label is not None
    assert sample.label.relative_to(folder).as_posix() == (
        "seg/labels/val/7d06fefd-f7be05a6_train_id.png"
        if older
        else "labels/sem_seg/masks/val/7d06fefd-f7be05a6.png"
    )
    assert read_label(spec, sample)[0, :20].tolist() == [*range(19), VOID]
    visible = set(np.unique(read_visible_label(spec, sample)).tolist())
    assert visible == {*range(19), VOID} - {4, 8, 14, 17}
    _label(sample.label, [16, 20])
    with pytest.raises(DatasetError, match=r"\.png: .*'bdd100k': 20 \(102 px\)"):
        read_label(spec, sample)


def test_bdd100k_older_endings_in_the_newer_folders(tmp_path: Path) -> None:
    folder = _bdd100k(tmp_path, older=False)
    masks = folder / "labels/sem_seg/masks/train"
    for path in list(masks.iterdir()):
        path.rename(path.with_name(f"{path.stem}_train_id.png"))
    spec = load_spec("bdd100k")
    samples = list_samples(spec, tmp_path, "train")
    assert [sample.label and sample.label.name for sample in samples] == [
        "0004a4c0-d4dff0ad_train_id.png",
        "00054602-3bf57337_train_id.png",
    ]


def test_bdd100k_test_has_no_labels(tmp_path: Path) -> None:
    _bdd100k(tmp_path, older=False)
    with pytest.raises(DatasetError, match=r"masks/test: there is no such folder.*not public"):
        list_samples(load_spec("bdd100k"), tmp_path, "test")


def test_every_layout_has_one_entry() -> None:
    listed = [*FOLDER_LAYOUTS, *LIST_LAYOUTS, "folder"]
    assert sorted(listed) == sorted(get_args(Layout))


def test_driving_data_sets_have_one_class_list() -> None:
    """A run on one is scored on the other only if classes, unseen ones and prompts agree."""
    one, other = load_spec("cityscapes"), load_spec("bdd100k")
    assert (one.classes, one.unseen) == (other.classes, other.unseen)
    assert one.prompt_names == other.prompt_names


# ---------------------------------------------------------------------------------- by command


@pytest.mark.parametrize("name", ["cityscapes", "ade20k", "bdd100k"])
def test_dataset_commands(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    match name:
        case "cityscapes":
            _cityscapes(tmp_path)
        case "ade20k":
            _ade20k(tmp_path)
        case _:
            _bdd100k(tmp_path, older=False)
    before = _stamps(tmp_path)
    zsseg("dataset", "ls")
    assert f"{name} " in capsys.readouterr().out
    zsseg("dataset", "info", name, "--root", tmp_path)
    shown = capsys.readouterr().out
    train = "1 image, 1" if name == "cityscapes" else "2 images, 2"
    assert f"train: {train} with a label" in shown
    assert "test:" not in shown
    zsseg("dataset", "verify", name, "--root", tmp_path, "-q")
    shown = capsys.readouterr().out
    assert f"{name} val:" in shown
    # The trees of the other two hold every class; this one holds 33 of 150.
    ends = "no file is wrong, but 2 warnings" if name == "ade20k" else "no problems"
    assert ends in shown
    assert _stamps(tmp_path) == before
    with pytest.raises(DatasetError, match=f"nowhere: no split of '{name}'"):
        zsseg("dataset", "info", name, "--root", tmp_path / "nowhere")
