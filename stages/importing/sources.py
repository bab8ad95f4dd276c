"""The files of a folder: which are images, which are pictures of labels, which are documents.

Told by what they hold: a picture of labels is flat, neighbouring pixels are mostly equal, and it
goes with an image. Pictures of one folder whose names end alike (`_mask.png`) are of one kind, so a
few of each are decoded.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.data.folders import IMAGE_EXTENSIONS, is_leftover, names_below
from zsseg.stages.data.images import read_image, read_raw_label
from zsseg.stages.errors import DatasetError
from zsseg.stages.importing.matching import match_names

READABLE = frozenset(
    {".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)
_LOSSY = frozenset({".jfif", ".jpe", ".jpeg", ".jpg", ".webp"})
_DOCUMENTS = frozenset({".csv", ".json", ".names", ".txt", ".xml", ".yaml", ".yml"})
_DECODED = 3  # pictures of a group that are looked into
_FLAT = 0.8  # share of neighbours that are equal; labels have 0.95 and more, photographs 0.3
_MOST_ENDINGS = 8  # of names in one folder; more are words of the names themselves
_ENDING = re.compile(r"[_\-. ][A-Za-z]+(?:[0-9][A-Za-z]+)?$")


@dataclass(frozen=True)
class PictureGroup:
    """Pictures of one folder, of one ending, that go with images."""

    folder: Path
    ending: str
    """Such as `_mask.png`."""
    image_of: dict[Path, Path]
    """Picture -> the image of the same name."""


@dataclass(frozen=True)
class Sources:
    """What lies in a folder."""

    root: Path
    images: tuple[Path, ...]
    label_pictures: tuple[PictureGroup, ...]
    documents: tuple[Path, ...]
    """Those that may hold labels."""
    name_files: tuple[Path, ...]
    """Those that may name values and colours."""
    pictures: tuple[Path, ...]
    """All files that look like images, of whichever kind; those around a file of labels too."""
    lone: tuple[Path, ...] = ()
    """Pictures that look like labels and belong to no image."""
    left_out: Counter[str] = field(default_factory=Counter)
    """By extension: files that look like images and cannot be read as such."""


@dataclass(frozen=True)
class _Group:
    folder: Path
    ending: str
    files: tuple[Path, ...]
    flatness: float


def find_sources(root: Path, labels: Path | None) -> Sources:
    """Look through a folder of images, and the file or folder of their labels where it is given.

    Raises DatasetError when a folder is not there, or holds no image.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: there is no such folder. Give the folder of your images")
    if labels is not None and not labels.exists():
        raise DatasetError(f"{labels}: there is no such file or folder. Give that of your labels")
    if labels is not None and labels.resolve() == root.resolve():
        labels = None  # labels are to be found in it, as always
    if labels is not None and _within(root, labels):
        raise DatasetError(
            f"{labels}: holds the images {root} too. Give --labels the folder of the labels alone"
        )
    files = _files(root)
    given = [] if labels is None else _files(labels) if labels.is_dir() else [labels]
    files = sorted({*files, *given})
    pictures = [path for path in files if path.suffix.lower() in READABLE]
    if not pictures:
        raise DatasetError(
            f"{root}: holds no image ({' '.join(sorted(READABLE))}). Give the folder of your images"
        )
    left_out = Counter(
        path.suffix.lower()
        for path in files
        if path.suffix.lower() in IMAGE_EXTENSIONS and path.suffix.lower() not in READABLE
    )
    groups = _groups(pictures)
    marked = [group for group in groups if labels and _within(group.folder, labels)]
    images, masks, lone = _divided([group for group in groups if group not in marked], marked)
    if not images:
        raise DatasetError(
            f"{root}: no picture in it is an image, all look like labels. Give the folder of your "
            "images, and with --labels that of the labels"
        )
    documents = name_files = [path for path in files if path.suffix.lower() in _DOCUMENTS]
    if labels is not None:
        # A file of names lies beside the folder of labels as often as in it.
        near = [path for path in labels.parent.iterdir() if path.suffix.lower() in _DOCUMENTS]
        name_files = sorted({*name_files, *near})
        documents = [path for path in documents if _within(path, labels)]
        masks = [group for group in masks if _within(group.folder, labels)]
    return Sources(
        root=root,
        images=tuple(images),
        label_pictures=tuple(masks),
        documents=tuple(documents),
        name_files=tuple(name_files),
        pictures=(*pictures, *_beside(labels, pictures)),
        lone=tuple(lone),
        left_out=left_out,
    )


def _beside(labels: Path | None, known: Sequence[Path]) -> list[Path]:
    """Further pictures around a file of labels: COCO panoptic keeps its own beside the JSON."""
    if labels is None or not labels.is_file():
        return []
    around = {path for path in _files(labels.parent) if path.suffix.lower() in READABLE}
    return sorted(around.difference(known))


def _within(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _files(folder: Path) -> list[Path]:
    """Files below a folder but for what systems leave behind; links to folders are not followed."""
    name_of = names_below(folder)
    found = []
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            if not is_leftover(name_of(path.as_posix())):
                found.append(path)
    return found


def _groups(pictures: Iterable[Path]) -> list[_Group]:
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in pictures:
        by_folder[path.parent].append(path)
    groups = []
    for folder, files in sorted(by_folder.items()):
        endings = {_ending(path) for path in files}
        many = len(endings) > _MOST_ENDINGS
        by_ending: dict[str, list[Path]] = defaultdict(list)
        for path in files:
            by_ending[path.suffix if many else _ending(path)].append(path)
        for ending, members in sorted(by_ending.items()):
            groups.append(_Group(folder, ending, tuple(members), _flatness(members)))
    return groups


def _ending(path: Path) -> str:
    """The last word of a name with its extension, `_mask.png`; where there is none `.png`."""
    found = _ENDING.search(path.stem)
    return (found[0] if found and found.start() else "") + path.suffix


def _flatness(files: Sequence[Path]) -> float:
    """The median share of equal neighbours in a few pictures of a group; 0 for lossy ones."""
    if files[0].suffix.lower() in _LOSSY:
        return 0.0
    step = max(1, len(files) // _DECODED)
    shares = [share for path in files[::step][:_DECODED] if (share := _equal_neighbours(path))]
    return float(np.median(shares)) if shares else 0.0


def _equal_neighbours(path: Path) -> float | None:
    """Share of pixels that are equal to their neighbour on the right; None where it is damaged."""
    try:
        raw: NDArray[np.integer] = read_raw_label(path)
    except DatasetError:
        try:
            raw = read_image(path)
        except DatasetError:
            return None
    if raw.shape[1] < 2:
        return 1.0
    same = raw[:, 1:] == raw[:, :-1]
    return float((same.all(axis=2) if raw.ndim == 3 else same).mean())


def _divided(
    groups: Sequence[_Group], marked: Sequence[_Group]
) -> tuple[list[Path], list[PictureGroup], list[Path]]:
    """The images, the groups of label pictures, and pictures of labels without an image.

    `marked`: those that are said to be labels. Others are labels if they are flat, and go with
    photographs; where there are none, with pictures less flat than they are.
    """
    photographs = [group for group in groups if group.flatness < _FLAT]
    flat = sorted((each for each in groups if each.flatness >= _FLAT), key=lambda g: g.flatness)
    images = [path for group in photographs for path in group.files]
    masks, lone = [], []
    for group in (*flat, *marked):
        image_of = match_names(group.files, images)
        if group in marked or photographs or 2 * len(image_of) > len(group.files):
            masks.append(PictureGroup(group.folder, group.ending, image_of))
            lone += [path for path in group.files if path not in image_of]
        else:
            images += group.files
    return sorted(images), [group for group in masks if group.image_of], sorted(lone)
