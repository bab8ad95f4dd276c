"""A split that is a folder of images and a folder of labels: which file belongs to which image."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import NamedTuple

from zsseg.stages.data.samples import LabelForm

IMAGE_EXTENSIONS = frozenset(
    {".avif", ".bmp", ".gif", ".heic", ".heif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"}
    | {".pgm", ".png", ".ppm", ".tga", ".tif", ".tiff", ".webp"}
)
"""Extensions of files that a person takes for images, whether they are read or not."""


@dataclass(frozen=True)
class Folders:
    """Where the images and labels of a split lie."""

    images: Path
    labels: Path | None
    image_endings: tuple[str, ...]
    """What follows an image's name; all endings are compared without regard to case."""
    label_endings: tuple[tuple[str, LabelForm], ...]
    """What follows the image's name in its label's; an earlier ending is preferred."""
    label_advice: str
    """What to do when labels are missing."""
    labels_stand_out: bool = False
    """Labels are told from images by their ending, so both may lie in one folder."""

    def label(self, name: str) -> Path:
        """Where the label of an image is expected."""
        assert self.labels is not None
        return self.labels / f"{name}{self.label_endings[-1][0]}"


class ImageListing(NamedTuple):
    """The images of a folder."""

    images: list[tuple[str, Path]]
    """Name below the folder without ending, and path, of every image."""
    left_out: Counter[str]
    """By extension: files that look like images and are not read as such."""


def list_images(folders: Folders) -> ImageListing:
    """The images of the image folder, in the order of the file system."""
    endings = tuple(ending.lower() for ending in folders.image_endings)
    labels = tuple(ending.lower() for ending, _ in folders.label_endings)
    read = {PurePath(f"a{ending}").suffix for ending in endings}
    listing = ImageListing([], Counter())
    for name, path in _files(folders.images):
        lower = name.lower()
        ending = next((each for each in endings if lower.endswith(each)), None)
        if ending is not None:
            if not (folders.labels_stand_out and _is_label(folders, path, labels)):
                listing.images.append((name[: -len(ending)], path))
            continue
        extension = PurePath(lower).suffix
        if extension in IMAGE_EXTENSIONS and extension not in read:
            own_folder = folders.labels != folders.images
            if not _is_label(folders, path, ("",) if own_folder else labels):
                listing.left_out[extension] += 1
    return listing


def _is_label(folders: Folders, path: Path, endings: tuple[str, ...]) -> bool:
    return folders.labels in path.parents and path.name.lower().endswith(endings)


def label_files(folders: Folders) -> dict[str, tuple[Path, LabelForm]]:
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


def label_names(images: Iterable[str], labels: Collection[str]) -> dict[str, str]:
    """Name of each image that has a label -> the name that its label goes by.

    They are equal, or equal but for the Unicode form: macOS writes an accent as a character of its
    own (NFD), other systems a letter with its accent as one (NFC).
    """
    images = list(images)
    named = {name: name for name in images if name in labels}
    composed = {
        unicodedata.normalize("NFC", name): name
        for name in labels
        if not name.isascii() and name not in named
    }
    for name in images if composed else ():
        label = composed.get(unicodedata.normalize("NFC", name))
        if name not in named and label is not None:
            named[name] = label
    return named


def has_labels(folders: Folders) -> bool:
    """Whether the image folder and at least one label are there."""
    endings = tuple(ending.lower() for ending, _ in folders.label_endings)
    return (
        folders.images.is_dir()
        and folders.labels is not None
        and any(name.lower().endswith(endings) for name, _ in _files(folders.labels))
    )


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Path below the folder, as text with '/', and full path of every file and folder in it."""
    name_of = names_below(folder)
    for path in folder.rglob("*"):
        name = name_of(path.as_posix())
        if not is_leftover(name):
            yield name, path


def is_leftover(name: str) -> bool:
    """Is a path below a folder, with '/', what systems and tools leave behind?

    `._photo.jpg` and `__MACOSX/` of macOS, `Thumbs.db` of Windows, `.ipynb_checkpoints/photo.jpg`.
    """
    if name.startswith((".", "__MACOSX/")) or "/." in name or "/__MACOSX/" in name:
        return True
    return name.rpartition("/")[2] in {"__MACOSX", "Thumbs.db", "desktop.ini"}


def names_below(folder: Path) -> Callable[[str], str]:
    """A function that gives `Path.relative_to(folder)` of a path, as text, in a tenth of the time.

    It takes and gives text with '/', and raises ValueError for a path outside the folder.
    """
    start = (folder / "_").as_posix()[:-1]  # also where the folder is "." or "/"

    def name_of(path: str) -> str:
        if not path.startswith(start):
            raise ValueError(f"{path} is not in {folder}")
        return path[len(start) :]

    return name_of
