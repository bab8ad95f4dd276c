"""Where each data set keeps the images and labels of a split: one function per layout."""

from collections.abc import Callable, Mapping
from pathlib import Path, PurePath

from zsseg.stages.data.folders import Folders
from zsseg.stages.data.spec import DatasetSpec, FolderPatterns, Layout
from zsseg.stages.errors import DatasetError


def split_folders(spec: DatasetSpec, root: Path, split: str) -> Folders | None:
    """The folders of a split; None for PASCAL's data sets, whose splits are lists of names."""
    if spec.patterns is not None:
        return _described(spec.patterns, root, split)
    layout = FOLDER_LAYOUTS.get(spec.layout)
    return layout and layout(root, split)


def check_split_name(split: str) -> None:
    """Raise DatasetError for a name that leads out of the folders in which splits lie."""
    parts = PurePath(split).parts
    if not parts or PurePath(split).is_absolute() or ".." in parts:
        raise DatasetError(
            f"'{split}' is not the name of a split: it leads out of the data set's folder. Give a "
            "name such as train or val"
        )


def pattern_folder(root: Path, pattern: str, split: str) -> Path:
    """The folder of a pattern.

    Raises DatasetError for one outside the root: a store records paths relative to the root.
    """
    folder = PurePath(pattern.replace("{split}", split))
    if folder.is_absolute() or ".." in folder.parts:
        raise DatasetError(
            f"{folder}: leads out of the data set's folder {root}. Give a folder that holds both "
            "images and labels, and `patterns` relative to it"
        )
    return root / folder


def _described(patterns: FolderPatterns, root: Path, split: str) -> Folders:
    """Layout `folder`: as the patterns of the description say."""
    ending = patterns.label_suffix + patterns.label_extension
    return Folders(
        pattern_folder(root, patterns.images, split),
        pattern_folder(root, patterns.labels, split) if patterns.labels else None,
        tuple(patterns.image_suffix + each for each in patterns.image_extensions),
        ((ending, "described"),),
        "Correct `patterns` in the description; images without labels need one that says "
        "`labels: null`",
        labels_stand_out=bool(patterns.label_suffix),
    )


def _coco_stuff(root: Path, split: str) -> Folders:
    return Folders(
        root / "images" / f"{split}2017",
        root / "annotations" / f"{split}2017",
        (".jpg",),
        (("_labelTrainIds.png", "class-ids"), (".png", "described")),
        "COCO-Stuff's labels are a download of their own (stuffthingmaps_trainval2017); "
        "COCO's test images have none",
    )


def _camvid(root: Path, split: str) -> Folders:
    return Folders(
        root / split,
        root / f"{split}annot",
        (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"),
        ((".png", "described"),),
        "zsseg takes CamVid as the SegNet tutorial has it, labels beside the images",
    )


def _cityscapes(root: Path, split: str) -> Folders:
    return Folders(
        root / "leftImg8bit" / split,
        # The label files of `test` are void all over, their true content is secret.
        None if split == "test" else root / "gtFine" / split,
        ("_leftImg8bit.png",),
        (("_gtFine_labelTrainIds.png", "class-ids"), ("_gtFine_labelIds.png", "described")),
        "Cityscapes' labels are a download of their own (gtFine_trainvaltest)",
    )


def _ade20k(root: Path, split: str) -> Folders:
    folder = _own_folder(root, "ADEChallengeData2016", "images")
    name = {"train": "training", "val": "validation"}.get(split, split)
    return Folders(
        folder / "images" / name,
        folder / "annotations" / name,
        (".jpg",),
        ((".png", "described"),),
        "zsseg takes ADE20K as the scene parsing challenge has it (ADEChallengeData2016), "
        "whose test images have no labels",
    )


def _bdd100k(root: Path, split: str) -> Folders:
    """The 10k images with labels of the current release, else those of the older one (`seg`)."""
    folder = _own_folder(root, "bdd100k", "images/10k", "seg/images")
    if (folder / "seg" / "images").is_dir() and not (folder / "images" / "10k").is_dir():
        images, labels = folder / "seg" / "images", folder / "seg" / "labels"
    else:
        images, labels = folder / "images" / "10k", folder / "labels" / "sem_seg" / "masks"
    return Folders(
        images / split,
        labels / split,
        (".jpg",),
        # The first ending that fits is taken, and the second one fits the first one's files too.
        (("_train_id.png", "described"), (".png", "described")),
        "BDD100K's labels are a download of their own (Semantic Segmentation), for the 10K "
        "images only; those of its test images are not public",
    )


def _own_folder(root: Path, name: str, *parts: str) -> Path:
    """The folder that holds one of `parts`: the root, or the folder `name` in it."""
    if not any((root / part).is_dir() for part in parts) and (root / name).is_dir():
        return root / name
    return root


FOLDER_LAYOUTS: Mapping[Layout, Callable[[Path, str], Folders]] = {
    "ade20k": _ade20k,
    "bdd100k": _bdd100k,
    "camvid": _camvid,
    "cityscapes": _cityscapes,
    "coco-stuff": _coco_stuff,
}
"""Root and split -> folders. Layout `folder` follows its description; see `pascal_lists` for the
data sets whose splits are lists."""
