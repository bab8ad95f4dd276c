"""Which images and labels a split holds, from the folders of each data set; nothing is decoded.

A label is looked for by name only. An image without one is a sample all the same, with a warning:
training can use it, and `zsseg dataset verify` reports it. A split without any is an error, unless
the description says so.
"""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from zsseg.stages.data.folders import Folders, LabelForm, inside, labelled, split_folders
from zsseg.stages.data.folders import images as folder_images
from zsseg.stages.data.folders import labels as folder_labels
from zsseg.stages.data.pascal_context import RunLengthMasks, read_masks
from zsseg.stages.data.spec import DatasetSpec, Layout
from zsseg.stages.errors import DatasetError

_SHOWN = 5  # images named in one message
_ADVICE: dict[Layout, str] = {
    "coco-stuff": "COCO-Stuff's labels are a download of their own (stuffthingmaps_trainval2017); "
    "COCO's test images have none",
    "camvid": "zsseg takes CamVid as the SegNet tutorial has it, labels beside the images",
    "cityscapes": "Cityscapes' labels are a download of their own (gtFine_trainvaltest)",
    "ade20k": "zsseg takes ADE20K as the scene parsing challenge has it (ADEChallengeData2016), "
    "whose test images have no labels",
    "bdd100k": "BDD100K's labels are a download of their own (Semantic Segmentation), for the 10K "
    "images only; those of its test images are not public",
    "folder": "Correct `patterns` in the description; images without labels need one that says "
    "`labels: null`",
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, init=False)
class Sample:
    """One image and, where there is one, the file that holds its label.

    Of both it keeps the text: a Path takes five times as much, and there are many samples.
    """

    id: str
    """Path of the image below the image folder, with '/' and without extension."""
    image_file: str
    """With '/', as `label_file`."""
    label_file: str | None
    form: LabelForm
    masks: RunLengthMasks | None
    """The label itself, of form `context-masks` (its file holds the labels of all images)."""

    def __init__(
        self,
        id: str,
        image: Path,
        label: Path | None,
        form: LabelForm = "described",
        masks: RunLengthMasks | None = None,
    ) -> None:
        object.__setattr__(self, "id", id)
        object.__setattr__(self, "image_file", image.as_posix())
        object.__setattr__(self, "label_file", label and label.as_posix())
        object.__setattr__(self, "form", form)
        object.__setattr__(self, "masks", masks)

    @property
    def image(self) -> Path:
        """The image's file."""
        return Path(self.image_file)

    @property
    def label(self) -> Path | None:
        """The file that holds its label."""
        return None if self.label_file is None else Path(self.label_file)


def list_samples(spec: DatasetSpec, root: Path, split: str) -> list[Sample]:
    """The samples of a split, sorted by id.

    Raises DatasetError when the root, the split or one of its folders is missing, or holds nothing,
    and when no image has a label though the description promises labels. Some without are logged.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: there is no such folder. Give the folder of '{spec.name}'")
    if folders := split_folders(spec, root, split):
        if not folders.images.is_dir():
            raise DatasetError(
                f"{folders.images}: there is no such folder, so no split '{split}' of "
                f"'{spec.name}'. Splits that are there: {', '.join(splits(spec, root)) or 'none'}; "
                "docs/datasets.md shows where each data set keeps its files"
            )
        samples = _paired(spec, folders)
    elif spec.layout == "pascal-voc":
        samples = _voc(_devkit(root, "VOC2012"), split)
    else:
        samples = _context(_devkit(root, "VOC2010"), split)
    if not samples:
        where = folders.images if folders else root
        raise DatasetError(
            f"{where}: holds no images for split '{split}' of '{spec.name}'"
            + (f" (looked for {' '.join(folders.image_endings)})" if folders else "")
        )
    if folders is None or folders.labels is not None:
        _warn_of_missing_labels(spec, samples, split)
    return sorted(samples, key=lambda sample: sample.id)


def _warn_of_missing_labels(spec: DatasetSpec, samples: list[Sample], split: str) -> None:
    missing = sorted(sample.id for sample in samples if sample.label is None)
    if missing:
        logger.warning(
            "%d of %d images in split '%s' of '%s' have no label and count as unlabelled: %s%s",
            len(missing),
            len(samples),
            split,
            spec.name,
            ", ".join(missing[:_SHOWN]),
            ", ..." if len(missing) > _SHOWN else "",
        )


def splits(spec: DatasetSpec, root: Path) -> list[str]:
    """Names of the splits that are there, sorted; ['all'] when the folders know no splits.

    Of the built-in data sets those with labels: images alone (COCO's test2017) are no split, nor is
    Cityscapes' `test`, whose labels are void all over.
    """
    if spec.patterns is None:
        there = []
        for split in ("test", "train", "val"):
            folders = split_folders(spec, root, split)
            if labelled(folders) if folders else _labelled_list(spec, root, split):
                there.append(split)
        return there
    pattern = spec.patterns.images.rstrip("/")
    if "{split}" not in pattern:
        return ["all"]
    once = re.escape(pattern).replace(r"\{split\}", "([^/]+)", 1)
    name = re.compile(once.replace(r"\{split\}", r"\1"))
    found = (
        name.fullmatch(folder.relative_to(root).as_posix())
        for folder in root.glob(inside(root, pattern, "*").relative_to(root).as_posix())
        if folder.is_dir()
    )
    return sorted(match[1] for match in found if match)


def unpaired_labels(spec: DatasetSpec, root: Path, split: str) -> list[Path]:
    """Label files without an image, sorted; [] for data sets whose lists choose the images."""
    folders = split_folders(spec, root, split)
    if folders is None:
        return []
    images = dict(folder_images(folders))
    # Where images and labels share a folder and an extension, an image's name fits a label too.
    files = set(images.values())
    labels = folder_labels(folders)
    return sorted(
        path for name, (path, _) in labels.items() if name not in images and path not in files
    )


def _paired(spec: DatasetSpec, folders: Folders) -> list[Sample]:
    if folders.labels is not None and not folders.labels.is_dir():
        raise DatasetError(
            f"{folders.labels}: there is no such folder, but the labels of {folders.images} "
            f"should be there. {_ADVICE[spec.layout]}"
        )
    labels = folder_labels(folders)
    samples: dict[str, Sample] = {}
    for name, path in folder_images(folders):
        if name in samples:
            raise DatasetError(
                f"{path}: has the same name as {samples[name].image.name} beside it, so their "
                "label would be the same file. Rename or remove one of them"
            )
        samples[name] = Sample(name, path, *labels.get(name, (None,)))
    if samples and folders.labels is not None and not labels.keys() & samples.keys():
        raise DatasetError(
            f"{folders.label(min(samples))}: there is no such label, nor one of any other image "
            f"in {folders.images}. {_ADVICE[spec.layout]}"
        )
    return list(samples.values())


def _devkit(root: Path, year: str) -> Path:
    """The VOC folder, given itself, VOCdevkit or the folder that holds VOCdevkit."""
    candidates = (root, root / year, root / "VOCdevkit" / year)
    for folder in candidates:
        if (folder / "JPEGImages").is_dir():
            return folder
    looked = ", ".join(str(folder / "JPEGImages") for folder in candidates)
    raise DatasetError(f"{root}: holds no {year}; looked for {looked}")


def _labelled_list(spec: DatasetSpec, root: Path, split: str) -> bool:
    """Whether PASCAL's files list a split and hold labels of it (those of `test` are secret)."""
    if spec.layout == "pascal-voc":
        folder = _devkit(root, "VOC2012")
        lists, labels = _voc_lists(folder, split), _voc_labels(folder)
    else:
        folder = _devkit(root, "VOC2010")
        source = _context_source(folder)
        if source.suffix == ".json":
            return split in {"train", "val"}
        lists = [path for path in _context_lists(folder, split) if path.is_file()][:1]
        labels = {path.stem: path for path in source.glob("*.png")}
    return any(name in labels for path in lists for name in _names(path))


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
    labels = _voc_labels(folder)
    samples = _listed(folder, (name for path in lists for name in _names(path)), labels)
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
                else "VOC's archive holds them; those of its test images are not public"
            )
        )
    return samples


def _voc_labels(folder: Path) -> dict[str, Path]:
    """Label by image: the original annotation, where there is one, before SBD's coarser one."""
    return {
        path.stem: path
        for source in ("SegmentationClassAug", "SegmentationClass")
        for path in (folder / source).glob("*.png")
    }


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
