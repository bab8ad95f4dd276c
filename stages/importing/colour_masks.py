"""Label pictures whose pixels are colours: each colour is a class."""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.data.class_names import normal_form
from zsseg.stages.data.images import read_image, read_raw_label
from zsseg.stages.data.spec import VOID, Colour, load_spec
from zsseg.stages.errors import DatasetError
from zsseg.stages.importing.annotated import (
    Findings,
    Label,
    check_size,
    is_void_name,
    tidy_name,
    unique_names,
)
from zsseg.stages.importing.name_files import NameTable
from zsseg.stages.importing.sources import PictureGroup
from zsseg.stages.yaml_files import builtin_names

_BLACK = (0, 0, 0)
_UNNAMED = "colour "
_RARE = 1e-4  # share of all pixels below which an unnamed colour is an edge between two others
_FEWEST = 3  # colours by which a data set is recognised
_NEARLY_ALL = 0.98  # of the pixels that are not black
_MOST_COLOURS = 64  # unnamed ones; more are no classes


def read_colour_masks(
    groups: Sequence[PictureGroup], tables: Sequence[NameTable]
) -> Findings | None:
    """Findings of the pictures of colours among label pictures; None where there are none."""
    labels = {image: path for group in groups for path, image in group.image_of.items()}
    colours: Counter[Colour] = Counter()
    readable = {}
    with ThreadPoolExecutor() as threads:
        for (image, path), found in zip(
            labels.items(), threads.map(_colours, labels.values()), strict=True
        ):
            if found is not None:
                readable[image] = path
                colours += found
    if not readable:
        return None
    names, told = _named(colours, tables)
    if names is None:
        return None
    names = {colour: name for colour, name in names.items() if tidy_name(name)}
    used = {colour: name for colour, name in names.items() if not is_void_name(name)}
    if len(unique_names(used.values())) < 2:
        used = names
    if dropped := sorted({*names.values()} - {*used.values()}):
        told.append(f"Taken for pixels without a class: {', '.join(dropped)}.")
    classes = unique_names(used.values())
    number = {normal_form(name): index for index, name in enumerate(classes)}
    ids = {colour: number[normal_form(tidy_name(name))] for colour, name in used.items()}
    return Findings(
        form="colour masks",
        classes=tuple(classes),
        makers={image: partial(label_of_colours, path, ids) for image, path in readable.items()},
        doubts=tuple(told),
        named=not classes[0].startswith(_UNNAMED),
    )


def label_of_colours(path: Path, ids: Mapping[Colour, int], size: tuple[int, int]) -> Label:
    """(H, W) class ids of a picture of colours; VOID where a colour has none.

    Raises ValueError where it is not of the image's size.
    """
    code_HW = _codes(read_image(path))
    check_size(code_HW.shape, size)
    label_HW = np.full(size, VOID, dtype=np.uint8)
    for colour, number in ids.items():
        label_HW[code_HW == _code(colour)] = number
    return label_HW


def _code(colour: Colour) -> int:
    return (colour[0] << 16) | (colour[1] << 8) | colour[2]


def _codes(image_HW3: NDArray[np.uint8]) -> NDArray[np.int32]:
    wide_HW3 = image_HW3.astype(np.int32)
    code_HW: NDArray[np.int32] = (
        (wide_HW3[..., 0] << 16) | (wide_HW3[..., 1] << 8) | wide_HW3[..., 2]
    )
    return code_HW


def _colours(path: Path) -> Counter[Colour] | None:
    """The pixels of each colour; None for a picture of numbers, or a damaged one."""
    try:
        read_raw_label(path)
        return None
    except DatasetError:
        pass
    try:
        code_V, count_V = np.unique(_codes(read_image(path)), return_counts=True)
    except DatasetError:
        return None
    return Counter(
        {
            (code >> 16, code >> 8 & 255, code & 255): count
            for code, count in zip(code_V.tolist(), count_V.tolist(), strict=True)
        }
    )


def _named(
    colours: Mapping[Colour, int], tables: Sequence[NameTable]
) -> tuple[dict[Colour, str] | None, list[str]]:
    """The name of each colour that is a class, with doubts; None where they are no classes."""
    total = sum(colours.values())
    table = max(
        tables,
        key=lambda each: sum(n for c, n in colours.items() if c in each.by_colour),
        default=None,
    )
    known = {c: n for c, n in colours.items() if table and c in table.by_colour}
    if table and 2 * sum(known.values()) > total:
        # In the order of the file, so that the order of the classes is the user's own.
        names = {c: name for c, name in table.by_colour.items() if c in known}
        told = [f"Names of the colours are those of {table.file}."]
        if strange := [c for c in colours if c not in known]:
            share = sum(colours[c] for c in strange) / total
            told.append(
                f"{len(strange)} colours ({share:.2%} of the pixels) are not in it and are void, "
                f"such as {_hex(max(strange, key=lambda c: colours[c]))}."
            )
        return names, told
    if found := _of_known_data_set(colours):
        return found
    common = [c for c, n in sorted(colours.items(), key=lambda each: -each[1]) if n > _RARE * total]
    if len(common) > _MOST_COLOURS:
        return None, []
    classes = [c for c in common if c != _BLACK] if len(common) > 2 else common
    told = [
        "No file says what the colours mean: rename the classes, whose names are the colours, or "
        "write labelmap.txt beside the masks with lines such as `road:128,64,128::` and run this "
        "again."
    ]
    if _BLACK in common and _BLACK not in classes:
        told.append(f"Black ({colours[_BLACK] / total:.1%} of the pixels) is taken for void.")
    if rest := len(colours) - len(common):
        told.append(f"{rest} colours with hardly a pixel, as between two others, are void.")
    return {colour: f"{_UNNAMED}{_hex(colour)}" for colour in classes}, told


def _of_known_data_set(colours: Mapping[Colour, int]) -> tuple[dict[Colour, str], list[str]] | None:
    """Names from the built-in data set whose colours these are, black aside.

    Not PASCAL's: its colours are also those that tools give to any first, second, ... class.
    """
    shown = sum(count for colour, count in colours.items() if colour != _BLACK)
    for name in builtin_names("datasets"):
        spec = load_spec(name)
        names = {c: each for each, c in spec.colours.items() if c in colours and c != _BLACK}
        covered = sum(colours[colour] for colour in names)
        if len(names) >= _FEWEST and covered > _NEARLY_ALL * shown and "pascal" not in spec.layout:
            said = f"The colours are those of the data set `{name}`, and so are the names."
            return names, [said]
    return None


def _hex(colour: Colour) -> str:
    return "{:02x}{:02x}{:02x}".format(*colour)
