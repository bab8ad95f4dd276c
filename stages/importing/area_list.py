"""Collects the areas that documents describe, and counts what of them cannot be used."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from zsseg.stages.importing.annotated import Findings, Layer, Mask, layered
from zsseg.stages.importing.matching import ImagesByName
from zsseg.stages.printable import counted

_LONGEST = 10**6  # pixels of a side


class AreaList:
    """The areas of each image, in the order in which they cover each other.

    Whatever is wrong with one area or one image is counted, and told once; the others are used.
    """

    def __init__(self, form: str, images: ImagesByName) -> None:
        self._form = form
        self._images = images
        self._areas: dict[Path, list[tuple[float, Layer]]] = defaultdict(list)
        self._sizes: dict[Path, tuple[int, int]] = {}
        self._empty: set[Path] = set()
        self._missing: list[str] = []
        self._refused: Counter[str] = Counter()

    def image(self, name: str, size: tuple[object, object] = (None, None)) -> Path | None:
        """The image that a document names, and (H, W) as it says; None where it is not there."""
        path = self._images.find(name)
        if path is None:
            self._missing.append(name)
            return None
        height, width = map(_length, size)
        if height and width:
            self._sizes[path] = (height, width)
        self._empty.add(path)
        return path

    def add(
        self, image: Path, name: object, draw: Callable[[int, int], Mask], *, depth: float = 0
    ) -> None:
        """An area of an image; one of larger `depth` lies below others."""
        if not isinstance(name, str | int | float) or not str(name).strip():
            self.refuse("no name of a class")
            return
        self._empty.discard(image)
        self._areas[image].append((depth, Layer(str(name), draw)))

    def refuse(self, why: str) -> None:
        """Count an area that is not used."""
        self._refused[why] += 1

    def findings(self, names: Iterable[str] = (), *, named: bool = True) -> Findings:
        """All of it. `names`: the classes that the documents list."""
        images = {
            image: [layer for _, layer in sorted(areas, key=lambda each: -each[0])]
            for image, areas in self._areas.items()
        }
        return layered(
            self._form, images, names, sizes=self._sizes, doubts=self._doubts(), named=named
        )

    def _doubts(self) -> Iterable[str]:
        if count := len(self._missing):
            yield (
                f"{counted(count, 'image')} not in the folder, though named in the annotations, "
                f"such as {self._missing[0]}."
            )
        if count := len(self._empty):
            yield (
                f"{counted(count, 'image')} without a usable area in the annotations: unlabelled, "
                f"such as {min(self._empty)}."
            )
        for why, count in self._refused.most_common():
            yield f"{counted(count, 'annotation')} left out: {why}."


def _length(value: object) -> int | None:
    """A number of pixels; None for anything else that a document may hold, such as 0."""
    if isinstance(value, int | float) and 0 < value < _LONGEST:
        return int(value)
    return None
