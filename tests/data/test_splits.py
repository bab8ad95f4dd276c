"""The samples of every layout, in trees of empty files: listing must not decode anything."""

import json
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from zsseg.stages.data.folders import names_below
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec, FolderPatterns, load_spec
from zsseg.stages.data.splits import (
    list_samples,
    present_splits,
    splits,
    training_samples,
    unpaired_labels,
)
from zsseg.stages.errors import DatasetError


def _touch(root: Path, names: Iterable[str]) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _below(root: Path, samples: list[Sample]) -> list[tuple[str, str, str | None, str]]:
    """Samples with their paths relative to the root."""
    return [
        (
            sample.id,
            sample.image.relative_to(root).as_posix(),
            sample.label.relative_to(root).as_posix() if sample.label else None,
            sample.form,
        )
        for sample in samples
    ]


def _folder_spec(patterns: FolderPatterns) -> DatasetSpec:
    return DatasetSpec(name="own", layout="folder", classes=("a", "b"), patterns=patterns)


def test_coco_stuff_takes_both_forms_of_label(tmp_path: Path) -> None:
    spec = load_spec("coco-stuff")
    _touch(
        tmp_path,
        [
            "images/train2017/000000000030.jpg",
            "images/train2017/000000000009.jpg",
            "images/train2017/000000000025.jpg",
            "images/train2017/000000000034.jpg",
            "annotations/train2017/000000000009.png",
            "annotations/train2017/000000000025.png",
            "annotations/train2017/000000000025_labelTrainIds.png",
            "annotations/train2017/000000000030_labelTrainIds.png",
            "annotations/train2017/000000000099_labelTrainIds.png",
        ],
    )
    images, labels = "images/train2017/000000000", "annotations/train2017/000000000"
    assert _below(tmp_path, list_samples(spec, tmp_path, "train")) == [
        ("000000000009", f"{images}009.jpg", f"{labels}009.png", "described"),
        ("000000000025", f"{images}025.jpg", f"{labels}025_labelTrainIds.png", "class-ids"),
        ("000000000030", f"{images}030.jpg", f"{labels}030_labelTrainIds.png", "class-ids"),
        ("000000000034", f"{images}034.jpg", None, "described"),
    ]
    assert splits(spec, tmp_path) == ["train"]
    assert unpaired_labels(spec, tmp_path, "train") == [
        tmp_path / "annotations/train2017/000000000099_labelTrainIds.png"
    ]


def _voc(folder: Path, *, additions: str) -> None:
    lists = folder / "ImageSets" / "Segmentation"
    _write(lists / "train.txt", "2007_000032\n2007_000039\n")
    _write(lists / "val.txt", "2007_000033\n\n")
    if additions == "aug.txt":
        _write(lists / "aug.txt", "2008_000008\n")
    elif additions == "trainaug.txt":
        _write(lists / "trainaug.txt", "2007_000032\n2007_000039\n2008_000008\n")
    names = ["2007_000032", "2007_000033", "2007_000039", "2008_000008"]
    _touch(folder, [f"JPEGImages/{name}.jpg" for name in names])
    _touch(folder, [f"SegmentationClass/{name}.png" for name in names[:3]])
    _touch(folder, [f"SegmentationClassAug/{name}.png" for name in [names[0], names[3]]])


@pytest.mark.parametrize("inside", ["", "VOC2012", "VOCdevkit/VOC2012"])
@pytest.mark.parametrize("additions", ["aug.txt", "trainaug.txt"])
def test_voc_train_is_trainaug(tmp_path: Path, inside: str, additions: str) -> None:
    spec, folder = load_spec("pascal-voc"), tmp_path / inside
    _voc(folder, additions=additions)
    labels = {
        "2007_000032": "SegmentationClass",  # the original, though SBD has one too
        "2007_000039": "SegmentationClass",
        "2008_000008": "SegmentationClassAug",
    }
    assert _below(folder, list_samples(spec, tmp_path, "train")) == [
        (name, f"JPEGImages/{name}.jpg", f"{source}/{name}.png", "described")
        for name, source in labels.items()
    ]
    assert [sample.id for sample in list_samples(spec, tmp_path, "val")] == ["2007_000033"]
    assert splits(spec, tmp_path) == ["train", "val"]
    assert unpaired_labels(spec, tmp_path, "val") == []


def test_voc_without_additions_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _voc(tmp_path, additions="none")
    samples = list_samples(load_spec("pascal-voc"), tmp_path, "train")
    assert [sample.id for sample in samples] == ["2007_000032", "2007_000039"]
    assert "no aug.txt or trainaug.txt" in caplog.text


def test_voc_errors_say_what_was_looked_for(tmp_path: Path) -> None:
    spec = load_spec("pascal-voc")
    with pytest.raises(DatasetError, match=r"no VOC2012; looked for .*VOCdevkit/VOC2012/JPEGImag"):
        list_samples(spec, tmp_path, "train")
    _voc(tmp_path, additions="aug.txt")
    with pytest.raises(DatasetError, match=r"ImageSets/Segmentation/test\.txt: there is no such"):
        list_samples(spec, tmp_path, "test")


CONTEXT_JSON = {
    "images": [
        {"file_name": f"{name}.jpg", "image_id": i, "phase": phase, "height": 2, "width": 3}
        for i, (name, phase) in enumerate(
            [("2008_000002", "val"), ("2008_000003", "train"), ("2008_000007", "train")]
        )
    ],
    "annos_segmentation": [
        {"id": 5, "image_id": 0, "category_id": 360, "segmentation": {"counts": "A"}},
        {"id": 6, "image_id": 1, "category_id": 187, "segmentation": {"counts": "B"}},
        {"id": 7, "image_id": 1, "category_id": 9, "segmentation": {"counts": "C"}},
    ],
}


def test_context_takes_what_is_there(tmp_path: Path) -> None:
    """All three forms are there at first; each is taken once those before it are gone."""
    spec, folder = load_spec("pascal-context"), tmp_path / "VOC2010"
    names = ["2008_000002", "2008_000003", "2008_000007"]
    _touch(folder, [f"JPEGImages/{name}.jpg" for name in names])
    _write(folder / "ImageSets/SegmentationContext/train.txt", "2008_000007\n2008_000003\n")
    _write(folder / "ImageSets/Main/train.txt", "2008_000003\n")
    _write(folder / "trainval_merged.json", json.dumps(CONTEXT_JSON))
    _touch(folder, [f"SegmentationClassContext/{name}.png" for name in names[:2]])
    _touch(folder, [f"59_context_labels/{name}.png" for name in names])

    mmseg = f"SegmentationClassContext/{names[1]}.png"
    assert _below(folder, list_samples(spec, tmp_path, "train")) == [
        (names[1], f"JPEGImages/{names[1]}.jpg", mmseg, "described"),
        (names[2], f"JPEGImages/{names[2]}.jpg", None, "described"),
    ]
    assert splits(spec, tmp_path) == ["train"]

    for path in (folder / "SegmentationClassContext").iterdir():
        path.unlink()
    (folder / "SegmentationClassContext").rmdir()
    samples = list_samples(spec, tmp_path, "train")
    assert _below(folder, samples) == [
        (name, f"JPEGImages/{name}.jpg", "trainval_merged.json", "context-masks")
        for name in names[1:]
    ]
    assert [sample.masks and sample.masks.segments for sample in samples] == [
        ((187, "B"), (9, "C")),
        (),
    ]
    assert splits(spec, tmp_path) == ["train", "val"]

    (folder / "trainval_merged.json").unlink()
    label = f"59_context_labels/{names[1]}.png"
    expected = (names[1], f"JPEGImages/{names[1]}.jpg", label, "context-59")
    assert expected in _below(folder, list_samples(spec, tmp_path, "train"))
    (folder / "ImageSets/SegmentationContext/train.txt").unlink()
    assert _below(folder, list_samples(spec, tmp_path, "train")) == [expected]


def test_context_json_errors_name_the_file(tmp_path: Path) -> None:
    spec = load_spec("pascal-context")
    _touch(tmp_path, ["JPEGImages/a.jpg"])
    with pytest.raises(DatasetError, match=r"no labels of PASCAL Context; looked for Segmentation"):
        list_samples(spec, tmp_path, "train")
    for text in ('{"images": [', '{"images": [{"file_name": "a.jpg"}]}', "[]"):
        (tmp_path / "trainval_merged.json").write_text(text)
        with pytest.raises(DatasetError, match=r"trainval_merged\.json: not PASCAL in Detail's"):
            list_samples(spec, tmp_path, "train")


def test_camvid_takes_any_image_extension(tmp_path: Path) -> None:
    spec = load_spec("camvid")
    _touch(tmp_path, ["train/b.png", "train/a.JPG", "train/._a.jpg", "train/Thumbs.db"])
    _touch(tmp_path, ["trainannot/a.png", "trainannot/c.png"])
    assert _below(tmp_path, list_samples(spec, tmp_path, "train")) == [
        ("a", "train/a.JPG", "trainannot/a.png", "described"),
        ("b", "train/b.png", None, "described"),
    ]
    assert unpaired_labels(spec, tmp_path, "train") == [tmp_path / "trainannot/c.png"]
    _touch(tmp_path, ["test/a.png", "val/a.png", "valannot/a.png"])
    assert splits(spec, tmp_path) == ["train", "val"]


def test_real_camvid(shared_data: Path) -> None:
    samples = list_samples(load_spec("camvid"), shared_data / "camvid", "val")
    assert len(samples) == 101
    assert all(sample.label and sample.label.stem == sample.id for sample in samples)


def test_folder_patterns(tmp_path: Path) -> None:
    patterns = FolderPatterns(
        images="{split}/pictures", labels="{split}/masks", label_suffix="_mask"
    )
    spec = _folder_spec(patterns)
    _touch(
        tmp_path,
        [
            "train/pictures/z.jpg",
            "train/pictures/street/a.b.jpeg",
            "train/pictures/street/notes.txt",
            "train/masks/street/a.b_mask.png",
            "train/masks/z.png",
            "hold out/pictures/x.png",
            "masks only/masks/x.png",
        ],
    )
    assert _below(tmp_path, list_samples(spec, tmp_path, "train")) == [
        (
            "street/a.b",
            "train/pictures/street/a.b.jpeg",
            "train/masks/street/a.b_mask.png",
            "described",
        ),
        ("z", "train/pictures/z.jpg", None, "described"),
    ]
    assert splits(spec, tmp_path) == ["hold out", "train"]


def test_folder_without_split_or_labels(tmp_path: Path) -> None:
    spec = _folder_spec(FolderPatterns(images="pictures", labels=None))
    _touch(tmp_path, ["pictures/a.jpg"])
    assert splits(spec, tmp_path) == ["all"]
    for split in ("all", "train"):
        assert _below(tmp_path, list_samples(spec, tmp_path, split)) == [
            ("a", "pictures/a.jpg", None, "described")
        ]
    assert unpaired_labels(spec, tmp_path, "all") == []


def test_split_named_twice_in_a_pattern(tmp_path: Path) -> None:
    spec = _folder_spec(FolderPatterns(images="{split}/{split}_images/", labels=None))
    _touch(tmp_path, ["a/a_images/x.jpg", "a/b_images/x.jpg"])
    assert splits(spec, tmp_path) == ["a"]


def test_order_does_not_depend_on_the_file_system(tmp_path: Path) -> None:
    spec = _folder_spec(FolderPatterns(labels=None))
    names = ["b", "a10", "a9", "B", "a/z", "ä"]
    _touch(tmp_path, [f"images/train/{name}.png" for name in names])
    ids = [sample.id for sample in list_samples(spec, tmp_path, "train")]
    assert ids == ["B", "a/z", "a10", "a9", "b", "ä"]


def test_missing_folders_are_named(tmp_path: Path) -> None:
    spec = load_spec("camvid")
    with pytest.raises(DatasetError, match=r"nowhere: there is no such folder.*'camvid'"):
        list_samples(spec, tmp_path / "nowhere", "train")
    _touch(tmp_path, ["val/a.png", "valannot/a.png"])
    with pytest.raises(DatasetError, match=r"/train: there is no such folder.*are there: val;"):
        list_samples(spec, tmp_path, "train")
    (tmp_path / "train").mkdir()
    with pytest.raises(DatasetError, match=r"/trainannot: there is no such folder, but") as error:
        list_samples(spec, tmp_path, "train")
    assert "SegNet tutorial" in str(error.value)
    assert "labels: null" not in str(error.value)
    (tmp_path / "trainannot").mkdir()
    with pytest.raises(DatasetError, match=r"/train: holds no images for split 'train'.*\.jpg"):
        list_samples(spec, tmp_path, "train")


def test_a_split_without_any_label_is_an_error(tmp_path: Path) -> None:
    _touch(tmp_path, ["images/train2017/b.jpg", "images/train2017/a.jpg"])
    _touch(tmp_path, ["annotations/train2017/readme.txt"])
    with pytest.raises(DatasetError, match=r"annotations/train2017/a\.png: there is no such label"):
        list_samples(load_spec("coco-stuff"), tmp_path, "train")
    spec = _folder_spec(FolderPatterns(label_suffix="_mask"))
    _touch(tmp_path, ["images/val/a/b.jpg", "labels/val/a/b.png"])
    with pytest.raises(DatasetError, match=r"labels/val/a/b_mask\.png.*`labels: null`"):
        list_samples(spec, tmp_path, "val")


def test_images_without_label_are_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = _folder_spec(FolderPatterns())
    _touch(tmp_path, [f"images/train/{n}.jpg" for n in range(8)])
    _touch(tmp_path, ["labels/train/3.png"])
    assert len(list_samples(spec, tmp_path, "train")) == 8
    (record,) = caplog.records
    assert "7 of 8 images in split 'train' of 'own'" in record.getMessage()
    assert record.getMessage().endswith("0, 1, 2, 4, 5, ...")
    _touch(tmp_path, [f"labels/train/{n}.png" for n in range(8)])
    caplog.clear()
    list_samples(spec, tmp_path, "train")
    list_samples(_folder_spec(FolderPatterns(labels=None)), tmp_path, "train")
    assert not caplog.records


def test_voc_lists_promise_labels(tmp_path: Path) -> None:
    """trainaug without SBD's labels must not become thousands of unlabelled images."""
    spec = load_spec("pascal-voc")
    _voc(tmp_path, additions="trainaug.txt")
    (tmp_path / "SegmentationClassAug" / "2008_000008.png").unlink()
    aug = r"SegmentationClassAug/2008_000008\.png: .* 1 of the 3 images in train\.txt and trainaug"
    with pytest.raises(DatasetError, match=aug):
        list_samples(spec, tmp_path, "train")
    _write(tmp_path / "ImageSets/Segmentation/test.txt", "2009_000001\n")
    assert splits(spec, tmp_path) == ["train", "val"]  # `train` is there, and its listing says why
    with pytest.raises(DatasetError, match="not public"):
        list_samples(spec, tmp_path, "test")


def test_context_without_the_labels_of_a_split(tmp_path: Path) -> None:
    spec = load_spec("pascal-context")
    _touch(tmp_path, ["JPEGImages/a.jpg", "JPEGImages/b.jpg", "SegmentationClassContext/a.png"])
    for split, name in (("train", "a"), ("val", "b")):
        _write(tmp_path / "ImageSets/SegmentationContext" / f"{split}.txt", f"{name}\n")
    assert splits(spec, tmp_path) == ["train"]
    with pytest.raises(DatasetError, match=r"SegmentationClassContext/b\.png: there is no such"):
        list_samples(spec, tmp_path, "val")


def test_coco_images_without_annotations_are_no_split(tmp_path: Path) -> None:
    spec = load_spec("coco-stuff")
    _touch(tmp_path, ["images/test2017/a.jpg", "images/val2017/a.jpg", "images/train2017/a.jpg"])
    _touch(tmp_path, ["annotations/val2017/a.png"])
    (tmp_path / "annotations" / "train2017").mkdir()
    assert splits(spec, tmp_path) == ["val"]


def test_what_tools_leave_behind_is_no_image(tmp_path: Path) -> None:
    spec = _folder_spec(FolderPatterns())
    _touch(tmp_path, ["images/train/a.png", "labels/train/a.png"])
    _touch(tmp_path, ["images/train/.ipynb_checkpoints/a-checkpoint.png", "images/train/x/._a.png"])
    _touch(tmp_path, ["labels/train/.ipynb_checkpoints/b.png"])
    assert [sample.id for sample in list_samples(spec, tmp_path, "train")] == ["a"]
    assert unpaired_labels(spec, tmp_path, "train") == []
    # Only what is below the folder counts, not where the folder lies.
    hidden = tmp_path / ".cache" / "set"
    _touch(hidden, ["images/train/a.png", "labels/train/a.png"])
    assert len(list_samples(spec, hidden, "train")) == 1


@pytest.mark.parametrize("labels", ["{split}", "{split}/masks"])
def test_labels_beside_their_images(tmp_path: Path, labels: str) -> None:
    spec = _folder_spec(FolderPatterns(images="{split}", labels=labels, label_suffix="_mask"))
    folder = labels.replace("{split}", "train")
    _touch(tmp_path, ["train/a.png", "train/b.jpg", f"{folder}/a_mask.png", f"{folder}/B_MASK.PNG"])
    _touch(tmp_path, [f"{folder}/b_mask.png", f"{folder}/c_mask.png"])
    assert _below(tmp_path, list_samples(spec, tmp_path, "train")) == [
        ("a", "train/a.png", f"{folder}/a_mask.png", "described"),
        ("b", "train/b.jpg", f"{folder}/b_mask.png", "described"),
    ]
    stray = [tmp_path / folder / "B_MASK.PNG", tmp_path / folder / "c_mask.png"]
    assert unpaired_labels(spec, tmp_path, "train") == stray


def test_cityscapes_is_described_by_suffixes(tmp_path: Path) -> None:
    patterns = FolderPatterns(
        images="leftImg8bit/{split}",
        labels="gtFine/{split}",
        image_suffix="_leftImg8bit",
        label_suffix="_gtFine_labelTrainIds",
    )
    spec = _folder_spec(patterns)
    _touch(tmp_path, ["leftImg8bit/val/ulm/ulm_000_leftImg8bit.png", "leftImg8bit/val/ulm/x.png"])
    endings = ("color.png", "labelIds.png", "labelTrainIds.png", "polygons.json")
    _touch(tmp_path, [f"gtFine/val/ulm/ulm_000_gtFine_{ending}" for ending in endings])
    assert _below(tmp_path, list_samples(spec, tmp_path, "val")) == [
        (
            "ulm/ulm_000",
            "leftImg8bit/val/ulm/ulm_000_leftImg8bit.png",
            "gtFine/val/ulm/ulm_000_gtFine_labelTrainIds.png",
            "described",
        )
    ]
    assert unpaired_labels(spec, tmp_path, "val") == []


def test_images_may_carry_the_suffix_instead_of_labels(tmp_path: Path) -> None:
    patterns = FolderPatterns(images="{split}", labels="{split}", image_suffix="_photo")
    _touch(tmp_path, ["all/a_photo.png", "all/a.png", "all/b.png"])
    spec = _folder_spec(patterns)
    assert _below(tmp_path, list_samples(spec, tmp_path, "all")) == [
        ("a", "all/a_photo.png", "all/a.png", "described")
    ]
    assert unpaired_labels(spec, tmp_path, "all") == [tmp_path / "all/b.png"]


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    _touch(tmp_path, ["images/train/a.jpg", "images/train/a.png"])
    spec = _folder_spec(FolderPatterns(labels=None))
    with pytest.raises(DatasetError, match=r"has the same name as a\.(jpg|png) beside it"):
        list_samples(spec, tmp_path, "train")


@pytest.mark.parametrize("pattern", ["../{split}", "/data/{split}"])
def test_patterns_stay_inside_the_root(tmp_path: Path, pattern: str) -> None:
    spec = _folder_spec(FolderPatterns(images=pattern, labels=None))
    for call in (lambda: list_samples(spec, tmp_path, "x"), lambda: splits(spec, tmp_path)):
        with pytest.raises(DatasetError, match="leads out of the data set's folder"):
            call()


@pytest.mark.parametrize("root", [".", "/", "data", "/data/set", "data/../set"])
def test_names_below_a_folder_are_relative_paths(root: str) -> None:
    folder = Path(root)
    name_of = names_below(folder)
    for below in ("a.png", "images/train/a b.png", ".hidden/x"):
        path = folder / below
        assert name_of(path.as_posix()) == path.relative_to(folder).as_posix() == below


@pytest.mark.parametrize("path", ["other/a.png", "dataset/a.png", "/data/a.png"])
def test_a_path_elsewhere_has_no_name_below_a_folder(path: str) -> None:
    with pytest.raises(ValueError, match="is not in data"):
        names_below(Path("data"))(path)


LIST_FORMS = {
    "path pairs": b"/JPEGImages/2008_000008.jpg /SegmentationClassAug/2008_000008.png\n",
    "commas": b"JPEGImages/2008_000008.jpg,SegmentationClassAug/2008_000008.png\n",
    "backslashes": b"JPEGImages\\2008_000008.JPG SegmentationClassAug\\2008_000008.png\r\n",
    "byte order mark": b"\xef\xbb\xbf2008_000008\r\n\r\n",
}


@pytest.mark.parametrize("name", ["aug", "trainaug", "train_aug"])
@pytest.mark.parametrize("content", LIST_FORMS.values(), ids=LIST_FORMS)
def test_lists_of_other_tools_are_read(tmp_path: Path, name: str, content: bytes) -> None:
    _voc(tmp_path, additions="")
    _touch(tmp_path, ["SegmentationClassAug/2008_000008.png"])
    (tmp_path / f"ImageSets/Segmentation/{name}.txt").write_bytes(content)
    samples = list_samples(load_spec("pascal-voc"), tmp_path, "train")
    assert [sample.id for sample in samples] == ["2007_000032", "2007_000039", "2008_000008"]
    assert samples[2].image == tmp_path / "JPEGImages/2008_000008.jpg"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("2008_000008\n".encode("utf-16"), r"is not UTF-8 text \(UTF-16\)"),
        ("2008_\xe9\n".encode("latin-1"), "byte 0xe9 in line 1"),
        (b"2008_000008\nJPEGImages/\n", "line 2: no image is named in 'JPEGImages/'"),
    ],
)
def test_a_list_that_cannot_be_read_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    _voc(tmp_path, additions="")
    (tmp_path / "ImageSets/Segmentation/trainaug.txt").write_bytes(content)
    with pytest.raises(DatasetError, match=rf"trainaug\.txt.*{reason}"):
        list_samples(load_spec("pascal-voc"), tmp_path, "train")


@pytest.mark.parametrize("listed", ["NFC", "NFD"])
@pytest.mark.parametrize(("images", "labels"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
@pytest.mark.parametrize(
    ("name", "lists", "folder"),
    [
        ("pascal-voc", "ImageSets/Segmentation", "SegmentationClass"),
        ("pascal-context", "ImageSets/SegmentationContext", "SegmentationClassContext"),
    ],
)
def test_lists_name_files_in_any_unicode_form(
    tmp_path: Path, name: str, lists: str, folder: str, listed: str, images: str, labels: str
) -> None:
    """A list copied from one system, files unpacked on another."""

    def stem(form: Any) -> str:
        return unicodedata.normalize(form, "straße_é_道路_ガ")

    spec = load_spec(name)
    image = f"JPEGImages/{stem(images)}.jpg"
    label = f"{folder}/{stem(labels)}.png"
    _touch(tmp_path, [image, label, "JPEGImages/a.jpg", f"{folder}/a.png"])
    # Both forms in one list are one image.
    text = f"{stem(listed)}\na\n{stem('NFC')}\n"
    _write(tmp_path / lists / "val.txt", text)
    assert splits(spec, tmp_path) == ["val"]
    found = [s for s in list_samples(spec, tmp_path, "val") if s.id != "a"]
    assert [(s.image, s.label) for s in found] == [(tmp_path / image, tmp_path / label)]
    _write(tmp_path / lists / "train.txt", f"{stem(listed)}\n")
    assert splits(spec, tmp_path) == ["train", "val"]


def test_names_pair_in_any_unicode_form(tmp_path: Path) -> None:
    composed, apart = (
        [unicodedata.normalize(form, name) for name in ("Größe/é", "ñ")] for form in ("NFC", "NFD")
    )
    spec = _folder_spec(FolderPatterns())
    _touch(tmp_path, [f"images/train/{composed[0]}.png", f"labels/train/{apart[0]}.png"])
    _touch(tmp_path, [f"images/train/{apart[1]}.png", f"labels/train/{composed[1]}.png"])
    # A label that has its own image goes to no other.
    _touch(tmp_path, [f"images/train/{composed[1]}.png"])
    samples = {sample.id: sample.label for sample in list_samples(spec, tmp_path, "train")}
    assert samples == {
        composed[0]: tmp_path / f"labels/train/{apart[0]}.png",
        composed[1]: tmp_path / f"labels/train/{composed[1]}.png",
        apart[1]: None,
    }
    assert unpaired_labels(spec, tmp_path, "train") == []


@pytest.mark.parametrize("name", ["camvid", "pascal-voc", "coco-stuff", "pascal-context"])
@pytest.mark.parametrize("split", ["../x", "/etc", "a/../../b", ""])
def test_a_split_stays_in_the_data_set(tmp_path: Path, name: str, split: str) -> None:
    _touch(tmp_path, ["inner/JPEGImages/a.jpg", "inner/SegmentationClass/a.png"])
    for call in (list_samples, unpaired_labels):
        with pytest.raises(DatasetError, match="leads out of the data set's folder"):
            call(load_spec(name), tmp_path / "inner", split)


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("coco-stuff", ["images/val2017/a.jpg", "annotations/val2017/a.png"]),
        ("camvid", ["val/a.png", "valannot/a.png"]),
        ("bdd100k", ["images/10k/val/a.jpg", "labels/sem_seg/masks/val/a.png"]),
    ],
)
def test_the_root_that_would_fit_is_named(tmp_path: Path, name: str, files: list[str]) -> None:
    spec, root = load_spec(name), tmp_path / "a" / "set"
    _touch(root, files)
    inside = (root / files[0]).parents[-len((root).parts) - 1]
    for given in (inside, root.parent):
        with pytest.raises(DatasetError) as caught:
            present_splits(spec, given)
        assert f"--root {root} would fit: it has val" in str(caught.value)
        assert f"{given}: no split of '{name}' here. Looked for images (*.jpg" in str(caught.value)
        with pytest.raises(DatasetError, match=f"--root {root} would fit"):
            list_samples(spec, given, "val")
    assert present_splits(spec, root) == ["val"]
    with pytest.raises(DatasetError) as caught:
        present_splits(spec, tmp_path / "a" / "set" / "nowhere" / "at" / "all")
    assert "--root" not in str(caught.value)


def test_leftovers_are_no_split(tmp_path: Path) -> None:
    spec = _folder_spec(FolderPatterns())
    _touch(tmp_path, ["images/train/a.png", "labels/train/a.png", "images/__MACOSX/a.png"])
    _touch(tmp_path, ["images/.ipynb_checkpoints/a.png", "images/train/Thumbs.db"])
    _touch(tmp_path, ["images/train/__MACOSX/b.png", "labels/train/__MACOSX/b.png"])
    assert splits(spec, tmp_path) == ["train"]
    assert [sample.id for sample in list_samples(spec, tmp_path, "train")] == ["a"]


def test_images_of_other_formats_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = _folder_spec(FolderPatterns())
    _touch(tmp_path, ["images/train/a.png", "images/train/x/b.HEIC", "images/train/c.jfif"])
    _touch(tmp_path, ["images/train/d.jfif", "images/train/._e.gif", "images/train/notes.txt"])
    _touch(tmp_path, ["labels/train/a.png", "labels/train/f.gif"])
    assert len(list_samples(spec, tmp_path, "train")) == 1
    (record,) = caplog.records
    assert "images/train: 3 files that look like images are left out: 1 .heic, 2 .jfif." in (
        record.message
    )


@pytest.mark.parametrize("labels", ["{split}", "{split}/masks"])
def test_labels_are_no_images_that_are_left_out(
    tmp_path: Path, labels: str, caplog: pytest.LogCaptureFixture
) -> None:
    patterns = FolderPatterns(images="{split}", labels=labels, image_extensions=(".jpg",))
    folder = labels.replace("{split}", "train")
    _touch(tmp_path, ["train/a.jpg", "train/b.jpg", f"{folder}/a.png", f"{folder}/b.png"])
    assert len(list_samples(_folder_spec(patterns), tmp_path, "train")) == 2
    assert not caplog.records


def test_the_root_of_a_devkit_is_named(tmp_path: Path) -> None:
    spec, root = load_spec("pascal-voc"), tmp_path / "a"
    _voc(root / "VOCdevkit" / "VOC2012", additions="aug.txt")
    for given in (root / "VOCdevkit" / "VOC2012" / "JPEGImages", tmp_path):
        with pytest.raises(DatasetError, match=r"holds no VOC2012; looked for .* would fit"):
            present_splits(spec, given)
        with pytest.raises(DatasetError, match=r"holds no VOC2012; looked for .* would fit"):
            list_samples(spec, given, "val")
    # Where the root is right, no other one is advised.
    with pytest.raises(DatasetError) as caught:
        list_samples(spec, root, "trainval")
    assert "--root" not in str(caught.value)


FREE = "classes: [sea, shore]\nunseen: all\npatterns: {images: .}\n"


def test_a_folder_of_images_and_names_is_a_data_set(tmp_path: Path) -> None:
    """Three lines say all; the name is the file's, labels there are none."""
    _touch(tmp_path, ["photos/b/2.png", "photos/1.jpg", "photos/labels/1.png"])
    _write(tmp_path / "coast.yaml", FREE)
    spec = load_spec(str(tmp_path / "coast.yaml"))
    assert (spec.name, spec.unseen, spec.seen_ids) == ("coast", ("sea", "shore"), ())
    assert present_splits(spec, tmp_path / "photos") == ["all"]
    for samples in (list_samples, training_samples):
        found = samples(spec, tmp_path / "photos", "train")
        assert [(each.id, each.label) for each in found] == [
            ("1", None),
            ("b/2", None),
            ("labels/1", None),
        ]


@pytest.mark.parametrize("labels", ["as they should be", "of nothing", "no folder"])
def test_labels_without_a_seen_class_are_for_scoring_only(tmp_path: Path, labels: str) -> None:
    _touch(tmp_path, ["images/train/a.jpg", "images/train/b.jpg"])
    if labels != "no folder":
        _touch(tmp_path, [f"labels/train/{'a' if 'should' in labels else 'x'}.png"])
    description = _folder_spec(FolderPatterns()).model_copy(update={"unseen": ("a", "b")})
    scored = list_samples(description, tmp_path, "train")
    trained = training_samples(description, tmp_path, "train")
    assert [each.label is None for each in scored] == ["should" not in labels, True]
    assert [each.label for each in trained] == [None, None]
    assert unpaired_labels(description, tmp_path, "train") == (
        [tmp_path / "labels/train/x.png"] if labels == "of nothing" else []
    )
    seen = description.model_copy(update={"unseen": ("b",)})
    if "should" not in labels:  # a wrong pattern is no data set without labels
        with pytest.raises(DatasetError, match="Correct `patterns`"):
            training_samples(seen, tmp_path, "train")


@pytest.mark.parametrize(
    ("name", "files", "ids"),
    [
        ("camvid", ["train/a.png"], ["a"]),
        ("coco-stuff", ["images/train2017/000000000009.jpg"], ["000000000009"]),
        ("cityscapes", ["leftImg8bit/train/ulm/ulm_1_leftImg8bit.png"], ["ulm/ulm_1"]),
        ("pascal-voc", ["VOC2012/ImageSets/Segmentation/train.txt"], ["2007_000032"]),
        ("pascal-context", ["VOC2010/ImageSets/Main/train.txt"], ["2007_000032"]),
    ],
)
def test_built_in_layouts_without_labels(
    tmp_path: Path, name: str, files: list[str], ids: list[str]
) -> None:
    """Images are enough for a split, in lists too, and a label is not looked for in training."""
    for file in files:
        _write(tmp_path / file, "2007_000032\n")
    if "VOC" in files[0]:
        _touch(tmp_path, [f"{files[0][:7]}/JPEGImages/2007_000032.jpg"])
    spec = load_spec(name)
    spec = spec.model_copy(update={"unseen": spec.classes})
    assert splits(spec, tmp_path) == ["train"]
    for samples in (list_samples, training_samples):
        found = samples(spec, tmp_path, "train")
        assert [(each.id, each.label) for each in found] == [(each, None) for each in ids]
    with pytest.raises(DatasetError):
        list_samples(load_spec(name), tmp_path, "train")


def test_some_labels_are_no_warning_where_the_description_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _touch(tmp_path, ["images/train/a.jpg", "images/train/b.jpg", "labels/train/a.png"])
    spec = _folder_spec(FolderPatterns())
    for labelled, warnings in (("all", 1), ("some", 0)):
        caplog.clear()
        found = list_samples(spec.model_copy(update={"labelled": labelled}), tmp_path, "train")
        assert [each.label is None for each in found] == [False, True]
        assert len(caplog.records) == warnings
    # None at all is a wrong pattern all the same.
    (tmp_path / "labels/train/a.png").rename(tmp_path / "labels/train/a_mask.png")
    with pytest.raises(DatasetError, match=r"b?a\.png: there is no such label"):
        list_samples(spec.model_copy(update={"labelled": "some"}), tmp_path, "train")
