"""Label pictures whose pixels are numbers: grey and palette files, read as they are."""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zsseg.stages.data.class_names import normal_form
from zsseg.stages.data.images import palette_colours, read_raw_label
from zsseg.stages.data.spec import VOID, load_spec
from zsseg.stages.errors import DatasetError
from zsseg.stages.importing.annotated import (
    MOST_CLASSES,
    Findings,
    is_void_name,
    tidy_name,
    unique_names,
)
from zsseg.stages.importing.name_files import NameTable
from zsseg.stages.importing.sources import PictureGroup

_BLACK = (0, 0, 0)
_KNOWN_ENDINGS = {"_labelIds": "labelIds", "_labelTrainIds": "labelTrainIds"}


@dataclass(frozen=True)
class _Meaning:
    """What the values of label pictures stand for."""

    classes: tuple[str, ...]
    encoding: dict[int, int]
    doubts: tuple[str, ...]
    named: bool = True


def read_index_masks(
    groups: Sequence[PictureGroup], tables: Sequence[NameTable], names: Sequence[str]
) -> Findings | None:
    """Findings of the pictures of numbers among label pictures; None where there are none.

    `names`: those that the user gives, in the order of the values where no file names them.
    """
    labels = {image: path for group in groups for path, image in group.image_of.items()}
    values: Counter[int] = Counter()
    readable = {}
    with ThreadPoolExecutor() as threads:
        for (image, path), found in zip(
            labels.items(), threads.map(_values, labels.values()), strict=True
        ):
            if found is not None:
                readable[image] = path
                values += found
    if not readable:
        return None
    first = next(iter(readable.values()))
    meaning = _meaning(values, groups, tables, names, black=_black_values(first))
    if len(meaning.classes) > MOST_CLASSES:
        return None
    left = tuple(sorted(value for value in values if value not in meaning.encoding))
    return Findings(
        form="pictures of class numbers",
        classes=meaning.classes,
        files=readable,
        encoding=meaning.encoding,
        ignore=tuple(sorted({*left, VOID} - set(meaning.encoding))),
        doubts=meaning.doubts,
        named=meaning.named,
    )


def _values(path: Path) -> Counter[int] | None:
    """The pixels of each value; None for a picture of colours, or a damaged one."""
    try:
        found_V, count_V = np.unique(read_raw_label(path), return_counts=True)
    except DatasetError:
        return None
    return Counter(dict(zip(found_V.tolist(), count_V.tolist(), strict=True)))


def _black_values(path: Path) -> frozenset[int]:
    """The values that a palette shows as black."""
    return frozenset(v for v, colour in palette_colours(path).items() if colour == _BLACK)


def _meaning(
    values: Mapping[int, int],
    groups: Sequence[PictureGroup],
    tables: Sequence[NameTable],
    names: Sequence[str],
    *,
    black: frozenset[int],
) -> _Meaning:
    """From the best source that there is: a known data set, a file of names, the user, nobody."""
    present = set(values)
    if known := _known(groups, present):
        return known
    for table in tables:
        if table.by_value and present - {VOID} <= set(table.by_value):
            named = {value: name for value, name in table.by_value.items() if value in present}
            return _of_table(named, f"Names of the values are those of {table.file}.")
    # 255 is void, but in masks of nothing else than 0 and 255, and where it is all there is.
    both = present == {0, VOID} and len(names) <= 2
    real = sorted(present if both or present == {VOID} else present - {VOID})
    if names:
        return _of_user(real, values, names, black=black)
    listed = [f"class {value}" for value in real]
    doubt = (
        "No file says what the values mean: rename the classes, or run this again with --classes "
        "and one name for each value in ascending order, or with names.txt beside the labels."
    )
    encoding = {value: number for number, value in enumerate(real)}
    return _Meaning(tuple(listed), encoding, (doubt,), named=False)


def _known(groups: Sequence[PictureGroup], present: set[int]) -> _Meaning | None:
    """Cityscapes' own numbers."""
    ends = {Path(group.ending).stem for group in groups}
    if len(ends) != 1 or not (form := _KNOWN_ENDINGS.get(ends.pop())):
        return None
    spec = load_spec("cityscapes")
    encoding = spec.encoding if form == "labelIds" else {v: v for v in range(len(spec.classes))}
    ids = dict(encoding or {})
    if present - set(ids) - set(spec.ignore) - {VOID, -1}:
        return None
    named = {value: spec.classes[number] for value, number in ids.items() if value in present}
    return _of_table(named, "Values and names are those of Cityscapes.")


def _of_table(table: Mapping[int, str], *doubts: str) -> _Meaning:
    """Values by name; names of void have no class, and equal names are one class.

    `table`: of the values that the labels hold.
    """
    named = {value: name for value, name in table.items() if tidy_name(name)}
    used = {value: name for value, name in named.items() if not is_void_name(name)}
    dropped = sorted({*named.values()} - {*used.values()})
    if len(used) < 2:
        used, dropped = named, []
    classes = unique_names(used.values())
    ids = {normal_form(name): number for number, name in enumerate(classes)}
    told = [*doubts]
    if dropped:
        told.append(f"Taken for pixels without a class: {', '.join(dropped)}.")
    encoding = {value: ids[normal_form(tidy_name(name))] for value, name in used.items()}
    return _Meaning(tuple(classes), encoding, tuple(told))


def _of_user(
    real: Sequence[int], values: Mapping[int, int], names: Sequence[str], *, black: frozenset[int]
) -> _Meaning:
    """Names given in the order of values: from 0, or from 1 where 0 has none."""
    count = len(names)
    told = (
        f"Names were given to values in ascending order: look whether they fit ({{}} = {names[0]})."
    )
    if list(real) == [0, VOID]:
        listed = names if count > 1 else ["background", *names]
        ids = {value: number for number, value in enumerate(real)}
        return _Meaning(tuple(listed), ids, (told.format(real[len(listed) - count]),))
    if real[-1] < count and 0 in real:
        return _from(0, names, (told.format(0),))
    if 0 not in real and real[-1] <= count:
        return _from(1, names, (told.format(1),))
    if len(real) == count:
        return _paired(real, names, told.format(real[0]))
    if len(real) == count + 1:
        return _one_too_many(real, values, names, black=black)
    listed_values = ", ".join(map(str, real[:30]))
    raise DatasetError(
        f"--classes gives {count} names, and the labels hold {len(real)} values ({listed_values}). "
        "Give one name for each value in ascending order, or write a file names.txt beside the "
        "labels with lines such as `7: road`"
    )


def _from(first: int, names: Sequence[str], doubts: tuple[str, ...]) -> _Meaning:
    return _Meaning(tuple(names), {first + i: i for i in range(len(names))}, doubts)


def _one_too_many(
    real: Sequence[int], values: Mapping[int, int], names: Sequence[str], *, black: frozenset[int]
) -> _Meaning:
    """One value more than names: the first or the last is void."""
    first, last = real[0], real[-1]
    if (first in black) != (last in black):
        void_is_last = last in black
    else:
        void_is_last = _is_scattered(values, last, first)
    void, other = (last, first) if void_is_last else (first, last)
    kept, others = (real[:-1], real[1:]) if void_is_last else (real[1:], real[:-1])
    pairs = ", ".join(f"{value}: {number}" for number, value in enumerate(others))
    doubt = (
        f"The labels hold one value more than names are given: {void} is taken for void. Is it "
        f"{other}? Then write `encoding: {{{pairs}}}` and `ignore: [{other}, {VOID}]`."
    )
    return _paired(kept, names, doubt)


def _paired(values: Sequence[int], names: Sequence[str], doubt: str) -> _Meaning:
    return _Meaning(tuple(names), {v: number for number, v in enumerate(values)}, (doubt,))


def _is_scattered(values: Mapping[int, int], value: int, first: int) -> bool:
    """Has a value few pixels, as what lies between objects has? [ours]"""
    return values[value] < values[first] / 2 and values[value] < sum(values.values()) / 10
