"""PASCAL VOC and PASCAL Context, whose splits are lists of image names.

The root is the VOC folder itself, VOCdevkit, or the folder that holds VOCdevkit.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

from zsseg.stages.data.folders import label_names
from zsseg.stages.data.pascal_context import read_masks
from zsseg.stages.data.samples import LabelForm, Sample
from zsseg.stages.data.spec import Layout
from zsseg.stages.errors import DatasetError
from zsseg.stages.file_bytes import read_text_file

_EXTENSIONS = frozenset({"jpg", "jpeg", "png"})

_NO_LIST = "Give a split whose list is there (`zsseg dataset verify`), or put the list there"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ListLayout:
    """How the splits of a data set are read from its lists."""

    samples: Callable[[Path, str], list[Sample]]
    """Root and split -> samples. Raises DatasetError where the list or all labels are missing."""
    images: Callable[[Path, str], list[Sample]]
    """The same without labels, which are not looked for. Raises DatasetError without a list."""
    has_labels: Callable[[Path, str], bool]
    """Whether there is a list of the split, and a label of one of its images (those of `test` are
    secret)."""


def _voc_samples(root: Path, split: str) -> list[Sample]:
    """VOC 2012; its `train` is what papers call trainaug."""
    folder = _devkit(root, "VOC2012")
    lists = _voc_lists(folder, split)
    samples = _voc_listed(folder, split, _voc_labels(folder))
    missing = sorted(sample.id for sample in samples if sample.label is None)
    if missing:
        raise DatasetError(
            f"{folder / 'SegmentationClassAug' / missing[0]}.png: there is no such label, nor one "
            f"in SegmentationClass; so it is with {len(missing)} of the {len(samples)} images in "
            f"{' and '.join(path.name for path in lists)}. "
            + (
                "SBD's labels are a download of their own; to train on VOC's images only, remove "
                "aug.txt and trainaug.txt"
                if split == "train"
                else "Take them from VOC's archive; those of its test images are not public"
            )
        )
    return samples


def _voc_images(root: Path, split: str) -> list[Sample]:
    return _voc_listed(_devkit(root, "VOC2012"), split, {})


def _voc_listed(folder: Path, split: str, labels: dict[str, Path]) -> list[Sample]:
    lists = _voc_lists(folder, split)
    if not lists:
        raise DatasetError(
            f"{folder}/ImageSets/Segmentation/{split}.txt: there is no such list. {_NO_LIST}"
        )
    if [path.name for path in lists] == ["train.txt"]:
        logger.warning("%s: no aug.txt or trainaug.txt beside it; VOC's own images only", lists[0])
    return _listed(folder, (name for path in lists for name in _names(path)), labels)


def _voc_has_labels(root: Path, split: str) -> bool:
    folder = _devkit(root, "VOC2012")
    return _any_labelled(_voc_lists(folder, split), _voc_labels(folder))


def _voc_lists(folder: Path, split: str) -> list[Path]:
    """The lists that make up a split: `train` has VOC's own images and SBD's additions."""
    names = ("train", "aug", "trainaug", "train_aug") if split == "train" else (split,)
    paths = [folder / "ImageSets" / "Segmentation" / f"{name}.txt" for name in names]
    return [path for path in paths if path.is_file()]


def _voc_labels(folder: Path) -> dict[str, Path]:
    """Label by image: the original annotation, where there is one, before SBD's coarser one."""
    return {
        path.stem: path
        for source in ("SegmentationClassAug", "SegmentationClass")
        for path in (folder / source).glob("*.png")
    }


def _context_samples(root: Path, split: str) -> list[Sample]:
    """PASCAL Context, with labels in the first of its three formats that is there."""
    folder = _devkit(root, "VOC2010")
    source = _context_source(folder)
    if source.suffix == ".json":
        return [
            Sample(image.stem, folder / "JPEGImages" / image.name, source, "context-masks", masks)
            for image, masks in read_masks(source, split).items()
        ]
    wanted = _context_list(folder, split)
    form: LabelForm = "context-59" if source.name == "59_context_labels" else "described"
    labels = {path.stem: path for path in source.glob("*.png")}
    samples = [
        Sample(sample.id, sample.image, sample.label, form)
        for sample in _listed(folder, _names(wanted), labels)
    ]
    if samples and all(sample.label is None for sample in samples):
        first = min(sample.id for sample in samples)
        raise DatasetError(
            f"{source / first}.png: there is no such label, nor one of any other image that "
            f"{wanted} lists. Put the labels of split '{split}' there"
        )
    return samples


def _context_images(root: Path, split: str) -> list[Sample]:
    folder = _devkit(root, "VOC2010")
    return _listed(folder, _names(_context_list(folder, split)), {})


def _context_list(folder: Path, split: str) -> Path:
    lists = _context_lists(folder, split)
    wanted = next((path for path in lists if path.is_file()), None)
    if wanted is None:
        raise DatasetError(f"{lists[0]}: there is no such list, so no split '{split}'. {_NO_LIST}")
    return wanted


def _context_has_labels(root: Path, split: str) -> bool:
    folder = _devkit(root, "VOC2010")
    source = _context_source(folder)
    if source.suffix == ".json":
        return split in {"train", "val"}
    lists = [path for path in _context_lists(folder, split) if path.is_file()][:1]
    return _any_labelled(lists, {path.stem: path for path in source.glob("*.png")})


def _context_source(folder: Path) -> Path:
    """The file or folder of PASCAL Context's labels: the first of three that is there."""
    candidates = (
        folder / "SegmentationClassContext",
        folder / "trainval_merged.json",
        folder / "59_context_labels",
    )
    for path in candidates:
        if path.exists():
            return path
    looked = ", ".join(path.name for path in candidates)
    raise DatasetError(
        f"{folder}: holds no labels of PASCAL Context; looked for {looked}. Put one there"
    )


def _context_lists(folder: Path, split: str) -> tuple[Path, Path]:
    """PASCAL in Detail's list (4,996 + 5,104 images), else VOC 2010's (4,998 + 5,105)."""
    sets = folder / "ImageSets"
    return sets / "SegmentationContext" / f"{split}.txt", sets / "Main" / f"{split}.txt"


def _devkit(root: Path, year: str) -> Path:
    """The VOC folder, given itself, VOCdevkit or the folder that holds VOCdevkit."""
    candidates = (root, root / year, root / "VOCdevkit" / year)
    for folder in candidates:
        if (folder / "JPEGImages").is_dir():
            return folder
    looked = ", ".join(str(folder / "JPEGImages") for folder in candidates)
    raise DatasetError(f"{root}: holds no {year}; looked for {looked}. Give the folder above one")


def _any_labelled(lists: Iterable[Path], labels: Mapping[str, Path]) -> bool:
    return any(label_names(_names(path), labels) for path in lists)


def _names(path: Path) -> list[str]:
    """Image names of a list file: the first word of each line, less folders and extension.

    VOC's own lists have names; those of others have `/JPEGImages/a.jpg /SegmentationClassAug/a.png`
    or `a.jpg`. Raises DatasetError, with the line, where there is no name.
    """
    names = []
    for number, line in enumerate(read_text_file(path, error=DatasetError).split("\n"), start=1):
        if not line.strip():
            continue
        word = re.split(r"[\s,;]", line.strip())[0]
        last = word.replace("\\", "/").rpartition("/")[2]
        stem, _, extension = last.rpartition(".")
        name = stem if extension.lower() in _EXTENSIONS else last
        if name in {"", ".", ".."}:
            raise DatasetError(
                f"{path}, line {number}: no image is named in {line!r}. Write one name per line, "
                "such as 2007_000032"
            )
        names.append(name)
    return names


def _listed(folder: Path, names: Iterable[str], labels: dict[str, Path]) -> list[Sample]:
    """A sample of each name, once; files may have their names in the other Unicode form."""
    images, wanted = folder / "JPEGImages", set(names)
    if not all(map(str.isascii, wanted)):
        there = {path.stem for path in images.glob("*.jpg")}
        composed = {normalize("NFC", name): name for name in there}
        others = {name: composed.get(normalize("NFC", name), name) for name in wanted - there}
        wanted = (wanted & there) | set(others.values())
    label_of = label_names(wanted, labels)
    return [
        Sample(name, images / f"{name}.jpg", labels.get(label_of.get(name, name)))
        for name in wanted
    ]


LIST_LAYOUTS: Mapping[Layout, ListLayout] = {
    "pascal-context": ListLayout(_context_samples, _context_images, _context_has_labels),
    "pascal-voc": ListLayout(_voc_samples, _voc_images, _voc_has_labels),
}
