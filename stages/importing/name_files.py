"""Files that say which pixel value or colour is which class, recognised by what they hold.

road:128,64,128::                  labelmap.txt of CVAT (the VOC form of Datumaro)
128 64 128   Road                  label_colors.txt of CamVid
Road,128,64,128                    class_dict.csv
0, road                            _classes.csv of Roboflow
road                               one name in a line: values 0, 1, 2, ...
{"labels": [{"name", "color"}]}    config.json of Mapillary Vistas, values 0, 1, 2, ...
names: [road, sky]                 data.yaml of YOLO, values 0, 1, 2, ...
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zsseg.stages.data.spec import Colour
from zsseg.stages.errors import UserError
from zsseg.stages.file_bytes import read_text_file
from zsseg.stages.importing.annotated import tidy_name
from zsseg.stages.yaml_files import parse_yaml

_LARGEST = 1 << 20  # bytes; a list of names is short
_LABELMAP = re.compile(r"^([^:#][^:]*):\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*:[^:]*:[^:]*$")
_COLOUR_FIRST = re.compile(r"^(\d+)[\s,]+(\d+)[\s,]+(\d+)[\s,]+(\D.*)$")
_NAME_FIRST = re.compile(r"^([^,\d][^,]*),\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)$")
_VALUE_NAME = re.compile(r"^(\d+)\s*[,:;\t ]\s*([^,\d][^,]*)$")
_HEADER = re.compile(r"^(name|class|pixel value)\b.*,", re.IGNORECASE)


@dataclass(frozen=True)
class NameTable:
    """What one file says about values and colours."""

    file: Path
    by_value: dict[int, str]
    by_colour: dict[Colour, str]


def name_tables(documents: Iterable[Path]) -> tuple[NameTable, ...]:
    """The tables among the documents of a folder, those nearest to its top first."""
    found = []
    for path in sorted(documents, key=lambda each: (len(each.parts), each)):
        if path.is_file() and path.stat().st_size <= _LARGEST and (table := _table(path)):
            found.append(table)
    return tuple(found)


def _table(path: Path) -> NameTable | None:
    try:
        text = read_text_file(path)
        if path.suffix.lower() == ".json":
            return _of_json(path, json.loads(text))
        if path.suffix.lower() in {".yaml", ".yml"}:
            return _of_yaml(path, parse_yaml(text, where=str(path)))
    except (UserError, TypeError, ValueError, OverflowError, RecursionError):
        return None
    if path.suffix.lower() == ".xml":
        return None
    return _of_lines(path, text)


def _of_lines(path: Path, text: str) -> NameTable | None:
    lines = [line.strip() for line in text.split("\n")]
    lines = [line for line in lines if line and not line.startswith("#")]
    if lines and _HEADER.match(lines[0]):
        del lines[0]
    for read in (_labelmap, _colour_first, _name_first, _value_name):
        if lines and (table := read(path, lines)):
            return table
    called = path.stem.casefold()
    if any(word in called for word in ("name", "class", "label")):
        return _plain(path, lines)
    return None


def _matched(lines: list[str], pattern: re.Pattern[str]) -> list[tuple[str, ...]] | None:
    """The groups of each line; None where one line differs."""
    found = [pattern.match(line) for line in lines]
    return [match.groups() for match in found if match] if all(found) else None


def _labelmap(path: Path, lines: list[str]) -> NameTable | None:
    rows = _matched(lines, _LABELMAP)
    return _colours(path, ((name, rgb) for name, *rgb in rows)) if rows else None


def _colour_first(path: Path, lines: list[str]) -> NameTable | None:
    rows = _matched(lines, _COLOUR_FIRST)
    return _colours(path, ((name, rgb) for *rgb, name in rows)) if rows else None


def _name_first(path: Path, lines: list[str]) -> NameTable | None:
    rows = _matched(lines, _NAME_FIRST)
    return _colours(path, ((name, rgb) for name, *rgb in rows)) if rows else None


def _colours(path: Path, rows: Iterable[tuple[str, Iterable[str]]]) -> NameTable | None:
    """Colours of names; the place of a name in the file is its value too, as in VOC's form."""
    names, by_colour = {}, {}
    for value, (name, rgb) in enumerate(rows):
        red, green, blue = map(int, rgb)
        if max(red, green, blue) > 255:
            return None
        names[value] = by_colour[red, green, blue] = tidy_name(name)
    return NameTable(path, names, by_colour)


def _value_name(path: Path, lines: list[str]) -> NameTable | None:
    rows = _matched(lines, _VALUE_NAME)
    if not rows:
        return None
    return NameTable(path, {int(value): tidy_name(name) for value, name in rows}, {})


def _plain(path: Path, lines: list[str]) -> NameTable | None:
    """One name in a line. Asked only of files called names, classes, labels: any text has lines."""
    if not lines or len(lines) > 255 or any(len(line) > 60 or ":" in line for line in lines):
        return None
    return NameTable(path, dict(enumerate(map(tidy_name, lines))), {})


def _of_json(path: Path, values: Any) -> NameTable | None:
    """Mapillary's `labels`."""
    labels = values.get("labels") if isinstance(values, dict) else None
    if not isinstance(labels, list) or not labels:
        return None
    by_value, by_colour = {}, {}
    for value, each in enumerate(labels):
        if not isinstance(each, dict) or not isinstance(each.get("name"), str):
            return None
        name = tidy_name(str(each.get("readable") or each["name"]))
        by_value[value] = name
        colour = each.get("color")
        if isinstance(colour, list) and len(colour) >= 3:
            by_colour[int(colour[0]), int(colour[1]), int(colour[2])] = name
    return NameTable(path, by_value, by_colour)


def _of_yaml(path: Path, values: Any) -> NameTable | None:
    names = values.get("names") if isinstance(values, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        return None
    if not all(isinstance(value, int) for value in names):
        return None
    return NameTable(path, {value: tidy_name(str(name)) for value, name in names.items()}, {})
