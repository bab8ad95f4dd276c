"""What an importer finds: the names of classes, and for each image what makes its label."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.data.class_names import BAR, normal_form
from zsseg.stages.data.spec import VOID

Mask = NDArray[np.bool_]
Label = NDArray[np.uint8]
LabelMaker = Callable[[tuple[int, int]], Label]
"""Makes the (H, W) class ids of an image of a size (H, W), VOID where nothing is annotated.

Raises ValueError or DatasetError where it cannot."""

MOST_CLASSES = VOID
_SHOWN = 8  # names in one sentence

_VOID_NAMES = frozenset(
    {"background", "backgr", "void", "unlabeled", "unlabelled", "ignore", "ignored", "unknown"}
    | {"none", "unannotated", "out of roi", "ignore region"}
)


@dataclass(frozen=True)
class Layer:
    """One annotated area: the name of its class, and a function (height, width) -> mask."""

    name: str
    draw: Callable[[int, int], Mask]


@dataclass(frozen=True)
class Findings:
    """The labels that one importer found."""

    form: str
    """What they are, as a person calls it: `COCO instances`."""
    classes: tuple[str, ...]
    files: Mapping[Path, Path] = field(default_factory=dict)
    """Image -> its label, where that is a file that can be read as it is."""
    makers: Mapping[Path, LabelMaker] = field(default_factory=dict)
    """Image -> what makes its label."""
    encoding: Mapping[int, int] | None = None
    """Of label files: raw value -> class id. Made labels hold class ids."""
    ignore: tuple[int, ...] = (VOID,)
    doubts: tuple[str, ...] = ()
    """What a person should look at, one sentence each."""
    named: bool = True
    """Do the labels say what their classes are called?"""

    @property
    def count(self) -> int:
        """Images with a label."""
        return len(self.files) + len(self.makers)


def is_void_name(name: str) -> bool:
    """Is it what a tool calls pixels without a class?"""
    return normal_form(name.strip("_").replace("_", " ")) in _VOID_NAMES


def tidy_name(name: str) -> str:
    """A class name without what a description refuses: control characters, blanks around it."""
    plain = "".join(letter if letter.isprintable() else " " for letter in name)
    return " ".join(plain.replace(BAR, "/").split())


def unique_names(names: Iterable[str]) -> list[str]:
    """Tidy names, each once, in their order; names of one normal form are one."""
    first: dict[str, str] = {}
    for name in map(tidy_name, names):
        if name:
            first.setdefault(normal_form(name), name)
    return list(first.values())


def without_void(names: Sequence[str]) -> list[str]:
    """Without names of void; all of them where fewer than two classes would be left."""
    left = [name for name in names if not is_void_name(name)]
    return left if len(left) > 1 else list(names)


def layered(
    form: str,
    images: Mapping[Path, Sequence[Layer]],
    names: Iterable[str],
    *,
    sizes: Mapping[Path, tuple[int, int]],
    doubts: Iterable[str] = (),
    named: bool = True,
) -> Findings:
    """Findings of areas; classes are the names that occur, in the order of `names`.

    `names`: all classes that the documents list; `sizes`: (H, W) of an image where they say it.
    """
    used = {normal_form(tidy_name(layer.name)) for each in images.values() for layer in each}
    listed = unique_names([*names, *(layer.name for each in images.values() for layer in each)])
    known = [name for name in listed if normal_form(name) in used]
    classes = without_void(known)
    ids = {normal_form(name): number for number, name in enumerate(classes)}
    told = [*doubts]
    if absent := [name for name in listed if name not in known]:
        shown = ", ".join(absent[:_SHOWN]) + (", ..." if len(absent) > _SHOWN else "")
        told.append(f"Listed, but without any area, and left out: {shown} ({len(absent)}).")
    if dropped := sorted(set(known) - set(classes)):
        told.append(f"Taken for pixels without a class: {', '.join(dropped)}.")
    return Findings(
        form=form,
        classes=tuple(classes),
        makers={
            image: partial(paint, layers, ids, sizes.get(image)) for image, layers in images.items()
        },
        doubts=tuple(told),
        named=named,
    )


def paint(
    layers: Sequence[Layer],
    ids: Mapping[str, int],
    annotated: tuple[int, int] | None,
    size: tuple[int, int],
) -> Label:
    """(H, W) class ids of areas; a later one covers an earlier one.

    `ids`: by normal form of the name; a class without an id is VOID. `annotated`: the size (H, W)
    that was annotated. Raises ValueError where it is not the image's, and for a damaged area.
    """
    check_size(annotated, size)
    label_HW = np.full(size, VOID, dtype=np.uint8)
    for layer in layers:
        try:
            mask_HW = layer.draw(*size)
        except (TypeError, OverflowError) as error:  # of numbers that are none
            raise ValueError(f"a damaged area of '{layer.name}' ({error})") from error
        label_HW[mask_HW] = ids.get(normal_form(tidy_name(layer.name)), VOID)
    return label_HW


def check_size(annotated: tuple[int, int] | None, size: tuple[int, int]) -> None:
    """Raise ValueError where the annotated size (H, W) is not the image's."""
    if annotated is not None and annotated != size:
        sides = "{} x {} pixels (rows x columns) were annotated, the image has {} x {}".format(
            *annotated, *size
        )
        if annotated == size[::-1]:
            sides += "; one of them lies on its side (images are turned by their EXIF orientation)"
        raise ValueError(sides)
