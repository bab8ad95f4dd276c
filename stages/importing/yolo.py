"""YOLO's text files of polygons, one per image, named after it.

Each line is an area: the number of its class, then x y x y ... as shares of width and height. Four
numbers are a box. Names of the classes stand in `data.yaml` or `classes.txt`.
"""

import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from zsseg.stages.errors import UserError
from zsseg.stages.file_bytes import read_text_file
from zsseg.stages.importing.annotated import Findings
from zsseg.stages.importing.area_list import AreaList
from zsseg.stages.importing.coco import BOXES
from zsseg.stages.importing.matching import ImagesByName, match_names
from zsseg.stages.importing.name_files import NameTable
from zsseg.stages.importing.shapes import points_of, scaled_polygon_mask

_NUMBER = r"-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_LINE = re.compile(rf"^\d+(?:\s+{_NUMBER}){{4,}}$")
_BOX = 4  # numbers


def read_yolo(
    documents: Iterable[Path],
    images: Sequence[Path],
    tables: Sequence[NameTable],
    names: Sequence[str],
) -> Findings | None:
    """The polygons of the text files that are YOLO's; None where there are none.

    `names`: those that the user gives, by number, where no file names the classes.
    """
    texts = {path: lines for path in documents if (lines := _lines(path))}
    if not texts:
        return None
    image_of = match_names(sorted(texts), images)
    numbers = {int(line.split()[0]) for lines in texts.values() for line in lines}
    known = _names(numbers, tables, names)
    areas = AreaList("YOLO's text files", ImagesByName(images))
    for path, lines in texts.items():
        image = areas.image((image_of.get(path, path)).as_posix())
        for line in lines if image else ():
            assert image is not None
            number, *values = line.split()
            if len(values) == _BOX:
                areas.refuse(BOXES)
            elif len(values) % 2:
                areas.refuse("a polygon whose numbers are no pairs of x and y")
            else:
                draw = partial(scaled_polygon_mask, points_of([float(each) for each in values]))
                areas.add(image, known.get(int(number), f"class {number}"), draw)
    return areas.findings(known.values(), named=bool(known))


def _lines(path: Path) -> list[str] | None:
    """The lines of a file of YOLO's; None for another."""
    try:
        text = read_text_file(path)
    except UserError:
        return None
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return lines if lines and all(_LINE.match(line) for line in lines) else None


def _names(numbers: set[int], tables: Sequence[NameTable], names: Sequence[str]) -> dict[int, str]:
    for table in tables:
        if numbers <= set(table.by_value):
            return table.by_value
    return dict(enumerate(names)) if max(numbers) < len(names) else {}
