"""Which splits a data set has, and the images and labels of one; no file is decoded.

A label is looked for by name only. An image without one is a sample all the same, with a warning
unless the description says that only some have one: training can use it, and `zsseg dataset verify`
reports it. A split without any label is an error, unless the description says that there are none,
or all its classes are unseen: then labels are for scoring only, and training does not look for
them.
"""

import logging
import re
from collections import Counter
from pathlib import Path

from zsseg.stages.data.folders import (
    Folders,
    has_labels,
    is_leftover,
    label_files,
    label_names,
    list_images,
)
from zsseg.stages.data.layouts import check_split_name, pattern_folder, split_folders
from zsseg.stages.data.pascal_lists import LIST_LAYOUTS
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.errors import DatasetError

_SHOWN = 5  # images named in one message
_ROOTS = 100  # folders that are looked into for another root

logger = logging.getLogger(__name__)


def list_samples(spec: DatasetSpec, root: Path, split: str) -> list[Sample]:
    """The samples of a split, sorted by id.

    Raises DatasetError when the root, the split or one of its folders is missing or empty, and when
    no image has a label although the description says that there are labels of seen classes. If
    only some images lack one, they are logged.
    """
    return _listed(spec, root, split, labels=True)


def training_samples(spec: DatasetSpec, root: Path, split: str) -> list[Sample]:
    """The samples of a split as stage one and training see them, sorted by id.

    Those of `list_samples`; where no class is seen, without labels, whether there are any or not.
    """
    return _listed(spec, root, split, labels=bool(spec.seen_ids))


def _listed(spec: DatasetSpec, root: Path, split: str, *, labels: bool) -> list[Sample]:
    if not root.is_dir():
        raise DatasetError(f"{root}: there is no such folder. Give the folder of '{spec.name}'")
    check_split_name(split)
    if folders := split_folders(spec, root, split):
        if not folders.images.is_dir():
            raise DatasetError(
                f"{folders.images}: there is no such folder, so no split '{split}' of "
                f"'{spec.name}'. Splits that are there: {', '.join(splits(spec, root)) or 'none'}; "
                "look into docs/datasets.md for where each data set keeps its files"
                f"{_other_root(spec, root)}"
            )
        samples = _paired(folders, needed=bool(spec.seen_ids)) if labels else _images(folders)
    else:
        try:
            samples = _in_lists(spec, root, split, labels=labels)
        except DatasetError as error:
            raise DatasetError(f"{error}{_other_root(spec, root)}") from error
    if not samples:
        where = folders.images if folders else root
        raise DatasetError(
            f"{where}: holds no images for split '{split}' of '{spec.name}'"
            + (f" (looked for {' '.join(folders.image_endings)})" if folders else "")
            + ". Put its images there, or give another --split or --root"
        )
    if spec.seen_ids and (folders is None or folders.labels is not None):
        _tell_of_missing_labels(spec, samples, split)
    return sorted(samples, key=lambda sample: sample.id)


def _in_lists(spec: DatasetSpec, root: Path, split: str, *, labels: bool) -> list[Sample]:
    layout = LIST_LAYOUTS[spec.layout]
    if not labels:
        return layout.images(root, split)
    try:
        return layout.samples(root, split)
    except DatasetError:
        if spec.seen_ids:
            raise
        return layout.images(root, split)  # the labels are missing, or it raises too


def _tell_of_missing_labels(spec: DatasetSpec, samples: list[Sample], split: str) -> None:
    missing = sorted(sample.id for sample in samples if sample.label is None)
    if missing:
        logger.log(
            logging.INFO if spec.labelled == "some" else logging.WARNING,
            "%d of %d images in split '%s' of '%s' have no label and count as unlabelled: %s%s",
            len(missing),
            len(samples),
            split,
            spec.name,
            ", ".join(missing[:_SHOWN]),
            ", ..." if len(missing) > _SHOWN else "",
        )


def _warn_of_left_out(folders: Folders, left_out: Counter[str]) -> None:
    if left_out:
        logger.warning(
            "%s: %d files that look like images are left out: %s. Those that are read end in %s; "
            "`image_extensions` in a description of layout `folder` says which, the others have "
            "to be converted",
            folders.images,
            left_out.total(),
            ", ".join(f"{count} {extension}" for extension, count in sorted(left_out.items())),
            " ".join(folders.image_endings),
        )


def is_divided(spec: DatasetSpec) -> bool:
    """Has a data set splits? Not where the description's patterns have no `{split}`."""
    patterns = spec.patterns
    return patterns is None or "{split}" in f"{patterns.images} {patterns.labels}"


def check_split(spec: DatasetSpec, split: str) -> None:
    """Raise DatasetError for a split of a data set whose images are not divided into splits.

    `all` and, as stage one calls it by default, `train` are all of its images.
    """
    if not is_divided(spec) and split not in ("all", "train"):
        raise DatasetError(
            f"'{spec.name}' has no split '{split}': there is no {{split}} in the `patterns` of its "
            "description, so all its images are one split, those of training. To hold images "
            "back, put them into a folder of their own and write {split} where its name stands, "
            "such as images/{split}; --split all takes every image"
        )


def splits(spec: DatasetSpec, root: Path) -> list[str]:
    """Names of the splits that are there, sorted; ['all'] when the folders are not split.

    Of a built-in data set only those with labels: neither COCO's test2017 (images alone) nor
    Cityscapes' `test` (its labels are void all over) is a split. Where no class is seen, images are
    enough.
    """
    if spec.patterns is None:
        return [split for split in ("test", "train", "val") if _is_there(spec, root, split)]
    pattern = spec.patterns.images.rstrip("/")
    if "{split}" not in pattern:
        return ["all"]
    once = re.escape(pattern).replace(r"\{split\}", "([^/]+)", 1)
    name = re.compile(once.replace(r"\{split\}", r"\1"))
    found = (
        name.fullmatch(folder.relative_to(root).as_posix())
        for folder in root.glob(pattern_folder(root, pattern, "*").relative_to(root).as_posix())
        if folder.is_dir()
    )
    return sorted(match[1] for match in found if match and not is_leftover(match[1]))


def present_splits(spec: DatasetSpec, root: Path) -> list[str]:
    """The same. Raises DatasetError, with where they were looked for, when there are none."""
    try:
        found = splits(spec, root)
    except DatasetError as error:  # it says where it looked
        raise DatasetError(f"{error}{_other_root(spec, root)}") from error
    if found:
        return found
    folders = split_folders(spec, root, "{split}" if spec.patterns else "train")
    looked = "docs/datasets.md shows where its files lie"
    if folders:
        endings = " ".join(f"*{ending}" for ending in folders.image_endings)
        labels = f", labels ({' '.join(f'*{each}' for each, _ in folders.label_endings)}) in "
        looked = f"Looked for images ({endings}) in {folders.images}"
        looked += f"{labels}{folders.labels}" if folders.labels else ""
    raise DatasetError(
        f"{root}: no split of '{spec.name}' here. {looked}; give the folder that holds "
        f"them{_other_root(spec, root)}"
    )


def _other_root(spec: DatasetSpec, root: Path) -> str:
    """`. --root /data/coco would fit`, where a folder around the given one or in it does."""
    if spec.patterns and spec.patterns.images.startswith("{split}"):
        return ""  # every folder with sub-folders would do
    if _splits_or_none(spec, root):
        return ""
    whole = root.resolve()
    try:
        inside = sorted(folder for folder in whole.iterdir() if folder.is_dir())[:_ROOTS]
    except OSError:
        inside = []
    for folder in (*whole.parents[:2], *inside):
        fits = _splits_or_none(spec, folder)
        if is_divided(spec) and fits and folder != whole:
            return f". --root {folder} would fit: it has {', '.join(fits)}"
    return ""


def _splits_or_none(spec: DatasetSpec, root: Path) -> list[str]:
    """The splits; [] also where they cannot be looked for."""
    try:
        return splits(spec, root)
    except (DatasetError, OSError):
        return []


def _is_there(spec: DatasetSpec, root: Path, split: str) -> bool:
    if not spec.seen_ids:
        return _holds_images(spec, root, split)
    if folders := split_folders(spec, root, split):
        return has_labels(folders)
    return LIST_LAYOUTS[spec.layout].has_labels(root, split)


def _holds_images(spec: DatasetSpec, root: Path, split: str) -> bool:
    if folders := split_folders(spec, root, split):
        return folders.images.is_dir()
    try:
        return bool(LIST_LAYOUTS[spec.layout].images(root, split))
    except DatasetError:  # there is no such list
        return False


def missing_label(spec: DatasetSpec, root: Path, split: str, image: str) -> Path | None:
    """Where the label of an image without one is expected; None where nothing says where."""
    folders = split_folders(spec, root, split)
    return None if folders is None or folders.labels is None else folders.label(image)


def unpaired_labels(spec: DatasetSpec, root: Path, split: str) -> list[Path]:
    """Label files without an image, sorted; [] for data sets whose lists choose the images."""
    check_split_name(split)
    folders = split_folders(spec, root, split)
    if folders is None:
        return []
    images = dict(list_images(folders).images)
    # Where images and labels share a folder and an extension, an image's name fits a label too.
    files = set(images.values())
    labels = label_files(folders)
    paired = set(label_names(images, labels).values())
    return sorted(
        path for name, (path, _) in labels.items() if name not in paired and path not in files
    )


def _paired(folders: Folders, *, needed: bool) -> list[Sample]:
    """The images of a folder, each with the label of its name where there is one.

    Raises DatasetError where labels are `needed` and there is none.
    """
    if needed and folders.labels is not None and not folders.labels.is_dir():
        raise DatasetError(
            f"{folders.labels}: there is no such folder, but the labels of {folders.images} "
            f"should be there. {folders.label_advice}"
        )
    images = _images(folders)
    labels = label_files(folders)
    named = label_names((sample.id for sample in images), labels)
    if needed and images and folders.labels is not None and not named:
        first = min(sample.id for sample in images)
        raise DatasetError(
            f"{folders.label(first)}: there is no such label, nor one of any other image "
            f"in {folders.images}. {folders.label_advice}"
        )
    return [
        Sample(each.id, each.image, *labels[named[each.id]]) if each.id in named else each
        for each in images
    ]


def _images(folders: Folders) -> list[Sample]:
    """The images of a folder, without labels."""
    images: dict[str, Path] = {}
    listing = list_images(folders)
    _warn_of_left_out(folders, listing.left_out)
    for name, path in listing.images:
        if name in images:
            raise DatasetError(
                f"{path}: has the same name as {images[name].name} beside it, so their "
                "label would be the same file. Rename or remove one of them"
            )
        images[name] = path
    return [Sample(name, path, None) for name, path in images.items()]
