"""Which image a file belongs to, by its name, and which image a document names."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from pathlib import Path, PurePosixPath
from unicodedata import normalize
from urllib.parse import parse_qs, unquote, urlsplit

_WORDS = re.compile(r"(?:[_\-. ][A-Za-z]+(?:[0-9][A-Za-z]+)?)+$")
_UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")  # Label Studio puts this before an uploaded name


def match_names(files: Sequence[Path], images: Sequence[Path]) -> dict[Path, Path]:
    """The image of each file that has one of its name, less what all files of a folder share.

    `a_mask.png` belongs to `a.jpg`, `mask_01.png` to `img_01.jpg`. Of several images of one name
    the one in the folder of the most similar name is taken, `trainannot` with `train`.
    """
    by_key: list[dict[str, list[Path]]] = [defaultdict(list) for _ in range(3)]
    for image, keys in _keys(images).items():
        for level, key in enumerate(keys):
            by_key[level][key].append(image)
    matched = {}
    for file, (whole, bare, core) in _keys(files).items():
        tries = [(0, whole), (0, bare), (1, whole), (1, bare), (1, core), (2, bare), (2, core)]
        for level, key in tries:
            # Less of a name is no name where several images of one folder have it.
            near = [image for image in by_key[level].get(key, ()) if image != file]
            if near and (level == 0 or len({image.parent for image in near}) == len(near)):
                matched[file] = _nearest(file, near)
                break
    taken = Counter(matched.values())
    return {file: image for file, image in matched.items() if taken[image] == 1}


def _keys(files: Sequence[Path]) -> dict[Path, tuple[str, str, str]]:
    """Of each file its stem; less the words that the stems of its folder end in; less what they
    begin with too. Of a file alone in its folder less its last word, and less all at its end."""
    folders: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in files:
        folders[path.parent, path.suffix].append(path)
    keys = {}
    for members in folders.values():
        stems = [_name(path) for path in members]
        ending = _common_words(stems)
        bare = [stem.removesuffix(ending) for stem in stems]
        start = re.sub(r"[^_\-. ]*$", "", _shared_start(bare)) if len(bare) > 1 else ""
        for path, stem, each in zip(members, stems, bare, strict=True):
            core = each.removeprefix(start) if len(members) > 1 else _WORDS.sub("", stem)
            keys[path] = (stem, each or stem, core or each or stem)
    return keys


def _common_words(stems: Sequence[str]) -> str:
    """The words at the end that all names share, `_gtFine_labelIds`; of a single name its last."""
    endings = [found[0] if (found := _WORDS.search(stem)) else "" for stem in stems]
    if len(endings) == 1:
        return re.sub(r"^.*(?=[_\-. ])", "", endings[0])
    shared = _shared_start([ending[::-1] for ending in endings])[::-1]
    return re.sub(r"^[^_\-. ]*", "", shared)


def _shared_start(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)
    length = next((i for i, letter in enumerate(first) if letter != last[i : i + 1]), len(first))
    return first[:length]


def _name(path: Path) -> str:
    return normalize("NFC", path.stem)


def _nearest(file: Path, images: Sequence[Path]) -> Path:
    if len(images) == 1:
        return images[0]
    place = file.parent.as_posix()
    return max(
        images, key=lambda image: SequenceMatcher(None, place, image.parent.as_posix()).ratio()
    )


class ImagesByName:
    """Images by the names that documents give them. A name never leads out of the images."""

    def __init__(self, images: Iterable[Path]) -> None:
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        for image in images:
            self._by_name[normalize("NFC", image.name).casefold()].append(image)
            self._by_name[_name(image).casefold()].append(image)

    def find(self, name: str) -> Path | None:
        """The image of a file name, path or URL; None for none, or one of several alike."""
        parts = _parts(name)
        if not parts:
            return None
        last = parts[-1]
        for each in (last, _UPLOADED.sub("", last), PurePosixPath(last).stem):
            if found := self._by_name.get(each.casefold()):
                return _of_path(parts[:-1], found)
        return None


def _parts(name: str) -> tuple[str, ...]:
    """The parts of a path in the form of any system, or of a URL (`...?d=folder/photo.jpg`)."""
    if "://" in name or name.startswith(("/data/upload/", "/data/local-files/")):
        address = urlsplit(name)
        named = parse_qs(address.query).get("d")
        name = named[0] if named else unquote(address.path)
    return PurePosixPath(normalize("NFC", name.replace("\\", "/"))).parts


def _of_path(folders: Sequence[str], images: Sequence[Path]) -> Path | None:
    """Of images of one name that whose folders agree the longest with the given ones."""
    if len(images) == 1:
        return images[0]

    def agreement(image: Path) -> int:
        own = image.parent.parts[::-1]
        count = 0
        for one, other in zip(folders[::-1], own, strict=False):
            if one.casefold() != other.casefold():
                break
            count += 1
        return count

    best = max(map(agreement, images))
    nearest = [image for image in images if agreement(image) == best]
    return nearest[0] if len(nearest) == 1 else None
