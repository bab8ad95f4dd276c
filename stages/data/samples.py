"""Which images and labels a split holds, from the folders of each data set; nothing is decoded.

A label is looked for by name only. An image without one is a sample all the same: training can use
it, and `zsseg dataset verify` reports it.
"""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from stages.data.context import Masks, read_masks
from stages.data.spec import DatasetSpec
from stages.errors import DatasetError

LabelForm = Literal["described", "class-ids", "context-59", "context-masks"]
"""How a label stores its classes: by the description's encoding, as class ids, or one of PASCAL
Context's other two."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """One image and, where there is one, the file that holds its label."""

    id: str
    """Path of the image below the image folder, with '/' and without extension."""
    image: Path
    label: Path | None
    form: LabelForm = "described"
    masks: Masks | None = None
    """The label itself, of form `context-masks` (its file holds the labels of all images)."""


@dataclass(frozen=True)
class _Folders:
    """Where the images and labels of a split lie that is described by folders alone."""

    images: Path
    labels: Path | None
    image_extensions: tuple[str, ...]
    label_endings: tuple[tuple[str, LabelForm], ...]
    """What follows the image's name in its label's; an earlier ending is preferred."""


def list_samples(spec: DatasetSpec, root: Path, split: str) -> list[Sample]:
    """The samples of a split, sorted by id.

    Raises DatasetError when the root, the split or one of its folders is missing, or holds nothing.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: there is no such folder. Give the folder of '{spec.name}'")
    if folders := _folders(spec, root, split):
        if not folders.images.is_dir():
            raise DatasetError(
                f"{folders.images}: there is no such folder, so no split '{split}' of "
                f"'{spec.name}'. Splits that are there: {', '.join(splits(spec, root)) or 'none'}; "
                "docs/datasets.md shows where each data set keeps its files"
            )
        samples = _paired(folders)
    elif spec.layout == "pascal-voc":
        samples = _voc(_devkit(root, "VOC2012"), split)
    else:
        samples = _context(_devkit(root, "VOC2010"), split)
    if not samples:
        where = folders.images if folders else root
        raise DatasetError(
            f"{where}: holds no images for split '{split}' of '{spec.name}'"
            + (f" (looked for {' '.join(folders.image_extensions)})" if folders else "")
        )
    return sorted(samples, key=lambda sample: sample.id)


def splits(spec: DatasetSpec, root: Path) -> list[str]:
    """Names of the splits that are there, sorted; ['all'] when the folders know no splits."""
    if spec.patterns is None:
        there = []
        for split in ("test", "train", "val"):
            folders = _folders(spec, root, split)
            if folders.images.is_dir() if folders else _lists(spec, root, split):
                there.append(split)
        return there
    pattern = spec.patterns.images.rstrip("/")
    if "{split}" not in pattern:
        return ["all"]
    once = re.escape(pattern).replace(r"\{split\}", "([^/]+)", 1)
    name = re.compile(once.replace(r"\{split\}", r"\1"))
    found = (
        name.fullmatch(folder.relative_to(root).as_posix())
        for folder in root.glob(_inside(root, pattern, "*").relative_to(root).as_posix())
        if folder.is_dir()
    )
    return sorted(match[1] for match in found if match)


def unpaired_labels(spec: DatasetSpec, root: Path, split: str) -> list[Path]:
    """Label files without an image, sorted; [] for data sets whose lists choose the images."""
    folders = _folders(spec, root, split)
    if folders is None or folders.labels is None:
        return []
    images = {name for name, _ in _images(folders)}
    labels = _labels(folders.labels, folders.label_endings)
    return sorted(path for name, (path, _) in labels.items() if name not in images)


def _folders(spec: DatasetSpec, root: Path, split: str) -> _Folders | None:
    """The folders of a split; None for PASCAL's data sets, which go by lists."""
    match spec.layout:
        case "coco-stuff":
            return _Folders(
                root / "images" / f"{split}2017",
                root / "annotations" / f"{split}2017",
                (".jpg",),
                (("_labelTrainIds.png", "class-ids"), (".png", "described")),
            )
        case "camvid":
            extensions = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
            labels = root / f"{split}annot"
            return _Folders(root / split, labels, extensions, ((".png", "described"),))
        case "folder":
            assert spec.patterns is not None
            patterns = spec.patterns
            ending = patterns.label_suffix + patterns.label_extension
            return _Folders(
                _inside(root, patterns.images, split),
                _inside(root, patterns.labels, split) if patterns.labels else None,
                patterns.image_extensions,
                ((ending, "described"),),
            )
        case _:
            return None


def _inside(root: Path, pattern: str, split: str) -> Path:
    """The folder of a pattern; a store records paths relative to the root, so it lies inside."""
    folder = PurePath(pattern.replace("{split}", split))
    if folder.is_absolute() or ".." in folder.parts:
        raise DatasetError(
            f"{folder}: leads out of the data set's folder {root}. Give a folder that holds both "
            "images and labels, and `patterns` relative to it"
        )
    return root / folder


def _paired(folders: _Folders) -> list[Sample]:
    if folders.labels is not None and not folders.labels.is_dir():
        raise DatasetError(
            f"{folders.labels}: there is no such folder, but the labels of {folders.images} "
            "should be there. Images without labels need a description that says `labels: null`"
        )
    labels = _labels(folders.labels, folders.label_endings) if folders.labels else {}
    samples: dict[str, Sample] = {}
    for name, path in _images(folders):
        if name in samples:
            raise DatasetError(
                f"{path}: has the same name as {samples[name].image.name} beside it, so their "
                "label would be the same file. Rename or remove one of them"
            )
        samples[name] = Sample(name, path, *labels.get(name, (None,)))
    return list(samples.values())


def _images(folders: _Folders) -> Iterable[tuple[str, Path]]:
    """Name below the folder without extension, and path, of every image."""
    extensions = {extension.lower() for extension in folders.image_extensions}
    for path in folders.images.rglob("*"):
        # Names that begin with a dot are what systems leave behind (macOS: ._photo.jpg).
        if path.suffix.lower() in extensions and not path.name.startswith("."):
            yield path.relative_to(folders.images).with_suffix("").as_posix(), path


def _labels(
    folder: Path, endings: tuple[tuple[str, LabelForm], ...]
) -> dict[str, tuple[Path, LabelForm]]:
    """Name of the image that each label file belongs to -> file and form."""
    labels: dict[str, tuple[int, Path, LabelForm]] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        for rank, (ending, form) in enumerate(endings):
            if name.lower().endswith(ending.lower()) and not path.name.startswith("."):
                name = name[: -len(ending)]
                if name not in labels or rank < labels[name][0]:
                    labels[name] = (rank, path, form)
                break
    return {name: (path, form) for name, (_, path, form) in labels.items()}


def _devkit(root: Path, year: str) -> Path:
    """The VOC folder, given itself, VOCdevkit or the folder that holds VOCdevkit."""
    candidates = (root, root / year, root / "VOCdevkit" / year)
    for folder in candidates:
        if (folder / "JPEGImages").is_dir():
            return folder
    looked = ", ".join(str(folder / "JPEGImages") for folder in candidates)
    raise DatasetError(f"{root}: holds no {year}; looked for {looked}")


def _lists(spec: DatasetSpec, root: Path, split: str) -> bool:
    """Whether PASCAL's files list a split."""
    if spec.layout == "pascal-voc":
        return bool(_voc_lists(_devkit(root, "VOC2012"), split))
    folder = _devkit(root, "VOC2010")
    if _context_source(folder).suffix == ".json":
        return split in {"train", "val"}
    return any(path.is_file() for path in _context_lists(folder, split))


def _names(path: Path) -> list[str]:
    """Image names of a list file, one a line; what follows a blank is not part of the name."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.split()[0] for line in lines if line.strip()]


def _listed(folder: Path, names: Iterable[str], labels: dict[str, Path]) -> list[Sample]:
    images = folder / "JPEGImages"
    return [Sample(name, images / f"{name}.jpg", labels.get(name)) for name in set(names)]


def _voc_lists(folder: Path, split: str) -> list[Path]:
    """The lists that make up a split: `train` has VOC's own images and SBD's additions."""
    names = ("train", "aug", "trainaug") if split == "train" else (split,)
    paths = [folder / "ImageSets" / "Segmentation" / f"{name}.txt" for name in names]
    return [path for path in paths if path.is_file()]


def _voc(folder: Path, split: str) -> list[Sample]:
    """VOC 2012; its `train` is what papers call trainaug."""
    lists = _voc_lists(folder, split)
    if not lists:
        raise DatasetError(f"{folder}/ImageSets/Segmentation/{split}.txt: there is no such list")
    if [path.name for path in lists] == ["train.txt"]:
        logger.warning("%s: no aug.txt or trainaug.txt beside it; VOC's own images only", lists[0])
    # The original annotation of an image, where there is one, before SBD's coarser one.
    labels = {
        path.stem: path
        for source in ("SegmentationClassAug", "SegmentationClass")
        for path in (folder / source).glob("*.png")
    }
    if not labels:
        raise DatasetError(f"{folder / 'SegmentationClass'}: no such folder, or no labels in it")
    return _listed(folder, (name for path in lists for name in _names(path)), labels)


def _context_source(folder: Path) -> Path:
    """What holds PASCAL Context's labels: the first there of three, as docs/datasets.md says."""
    candidates = (
        folder / "SegmentationClassContext",
        folder / "trainval_merged.json",
        folder / "59_context_labels",
    )
    for path in candidates:
        if path.exists():
            return path
    looked = ", ".join(path.name for path in candidates)
    raise DatasetError(f"{folder}: holds no labels of PASCAL Context; looked for {looked}")


def _context_lists(folder: Path, split: str) -> tuple[Path, Path]:
    """PASCAL in Detail's list (4,996 + 5,104 images), else VOC 2010's (4,998 + 5,105)."""
    sets = folder / "ImageSets"
    return sets / "SegmentationContext" / f"{split}.txt", sets / "Main" / f"{split}.txt"


def _context(folder: Path, split: str) -> list[Sample]:
    source = _context_source(folder)
    if source.suffix == ".json":
        return [
            Sample(image.stem, folder / "JPEGImages" / image.name, source, "context-masks", masks)
            for image, masks in read_masks(source, split).items()
        ]
    lists = _context_lists(folder, split)
    wanted = next((path for path in lists if path.is_file()), None)
    if wanted is None:
        raise DatasetError(f"{lists[0]}: there is no such list, so no split '{split}'")
    form: LabelForm = "context-59" if source.name == "59_context_labels" else "described"
    labels = {path.stem: path for path in source.glob("*.png")}
    return [
        Sample(sample.id, sample.image, sample.label, form)
        for sample in _listed(folder, _names(wanted), labels)
    ]
