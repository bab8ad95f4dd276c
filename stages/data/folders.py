"""Data sets whose splits are folders: where their files lie, and which are images and labels."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.errors import DatasetError

LabelForm = Literal["described", "class-ids", "context-59", "context-masks"]
"""How a label stores its classes: by the description's encoding, as class ids, or one of PASCAL
Context's other two."""


@dataclass(frozen=True)
class Folders:
    """Where the images and labels of a split lie that is described by folders alone."""

    images: Path
    labels: Path | None
    image_endings: tuple[str, ...]
    """What follows an image's name; the comparison of all endings ignores case."""
    label_endings: tuple[tuple[str, LabelForm], ...]
    """What follows the image's name in its label's; an earlier ending is preferred."""
    labels_stand_out: bool = False
    """Labels are told from images by their ending, so both may lie in one folder."""

    def label(self, name: str) -> Path:
        """Where the label of an image is expected."""
        assert self.labels is not None
        return self.labels / f"{name}{self.label_endings[-1][0]}"


def split_folders(spec: DatasetSpec, root: Path, split: str) -> Folders | None:
    """The folders of a split; None for PASCAL's data sets, which go by lists."""
    match spec.layout:
        case "coco-stuff":
            return Folders(
                root / "images" / f"{split}2017",
                root / "annotations" / f"{split}2017",
                (".jpg",),
                (("_labelTrainIds.png", "class-ids"), (".png", "described")),
            )
        case "camvid":
            extensions = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
            return Folders(
                root / split, root / f"{split}annot", extensions, ((".png", "described"),)
            )
        case "cityscapes":
            return Folders(
                root / "leftImg8bit" / split,
                # The label files of `test` are void all over, their true content is secret.
                None if split == "test" else root / "gtFine" / split,
                ("_leftImg8bit.png",),
                (
                    ("_gtFine_labelTrainIds.png", "class-ids"),
                    ("_gtFine_labelIds.png", "described"),
                ),
            )
        case "ade20k":
            folder = _own_folder(root, "ADEChallengeData2016", "images")
            name = {"train": "training", "val": "validation"}.get(split, split)
            return Folders(
                folder / "images" / name,
                folder / "annotations" / name,
                (".jpg",),
                ((".png", "described"),),
            )
        case "bdd100k":
            return _bdd100k(_own_folder(root, "bdd100k", "images/10k", "seg/images"), split)
        case "folder":
            assert spec.patterns is not None
            patterns = spec.patterns
            ending = patterns.label_suffix + patterns.label_extension
            return Folders(
                inside(root, patterns.images, split),
                inside(root, patterns.labels, split) if patterns.labels else None,
                tuple(patterns.image_suffix + each for each in patterns.image_extensions),
                ((ending, "described"),),
                labels_stand_out=bool(patterns.label_suffix),
            )
        case _:
            return None


def _own_folder(root: Path, name: str, *parts: str) -> Path:
    """The folder that holds one of `parts`: the root, or the one called `name` in it."""
    if not any((root / part).is_dir() for part in parts) and (root / name).is_dir():
        return root / name
    return root


def _bdd100k(folder: Path, split: str) -> Folders:
    """The 10k images with labels of the current release, else those of the older one (`seg`)."""
    if (folder / "seg" / "images").is_dir() and not (folder / "images" / "10k").is_dir():
        images, labels = folder / "seg" / "images", folder / "seg" / "labels"
    else:
        images, labels = folder / "images" / "10k", folder / "labels" / "sem_seg" / "masks"
    # The first ending that fits is taken, and the second one fits the first one's files too.
    endings: tuple[tuple[str, LabelForm], ...] = (
        ("_train_id.png", "described"),
        (".png", "described"),
    )
    return Folders(images / split, labels / split, (".jpg",), endings)


def inside(root: Path, pattern: str, split: str) -> Path:
    """The folder of a pattern; a store records paths relative to the root, so it lies inside."""
    folder = PurePath(pattern.replace("{split}", split))
    if folder.is_absolute() or ".." in folder.parts:
        raise DatasetError(
            f"{folder}: leads out of the data set's folder {root}. Give a folder that holds both "
            "images and labels, and `patterns` relative to it"
        )
    return root / folder


def images(folders: Folders) -> Iterator[tuple[str, Path]]:
    """Name below the folder without ending, and path, of every image."""
    endings = tuple(ending.lower() for ending in folders.image_endings)
    labels = tuple(ending.lower() for ending, _ in folders.label_endings)
    for name, path in _files(folders.images):
        ending = next((each for each in endings if name.lower().endswith(each)), None)
        if ending is None:
            continue
        if (
            folders.labels_stand_out
            and folders.labels in path.parents
            and name.lower().endswith(labels)
        ):
            continue
        yield name[: -len(ending)], path


def labels(folders: Folders) -> dict[str, tuple[Path, LabelForm]]:
    """Name of the image that each label file belongs to -> file and form."""
    found: dict[str, tuple[int, Path, LabelForm]] = {}
    for name, path in sorted(_files(folders.labels)) if folders.labels else ():
        for rank, (ending, form) in enumerate(folders.label_endings):
            if name.lower().endswith(ending.lower()):
                image = name[: -len(ending)]
                if image not in found or rank < found[image][0]:
                    found[image] = (rank, path, form)
                break
    return {image: (path, form) for image, (_, path, form) in found.items()}


def labelled(folders: Folders) -> bool:
    """Whether the image folder and at least one label are there."""
    endings = tuple(ending.lower() for ending, _ in folders.label_endings)
    return (
        folders.images.is_dir()
        and folders.labels is not None
        and any(name.lower().endswith(endings) for name, _ in _files(folders.labels))
    )


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Path below the folder, as text with '/', and path, of all that is in it."""
    name_of = names_below(folder)
    for path in folder.rglob("*"):
        name = name_of(path.as_posix())
        # What begins with a dot is left behind by systems and tools: ._photo.jpg of macOS,
        # .ipynb_checkpoints/photo.jpg.
        if not name.startswith(".") and "/." not in name:
            yield name, path


def names_below(folder: Path) -> Callable[[str], str]:
    """What `Path.relative_to(folder)` gives, of paths as text with '/', in a tenth of the time.

    ValueError for one that does not lie in the folder.
    """
    start = (folder / "_").as_posix()[:-1]  # also where the folder is "." or "/"

    def name_of(path: str) -> str:
        if not path.startswith(start):
            raise ValueError(f"{path} is not in {folder}")
        return path[len(start) :]

    return name_of
