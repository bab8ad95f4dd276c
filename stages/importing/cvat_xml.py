"""CVAT's XML of images ("CVAT for images 1.1"): polygons, masks, ellipses.

    <annotations><meta>...<labels><label><name>road</name></label></labels>...</meta>
      <image name="a.jpg" width="48" height="32">
        <polygon label="road" points="1.0,2.0;3.0,4.0;..." z_order="0"/>
        <mask label="car" rle="3, 2, 5" left="4" top="8" width="5" height="2" z_order="1"/>
      </image></annotations>

A shape of higher `z_order` covers others; of equal ones the later.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from zsseg.stages.data.run_lengths import check_runs, mask_of_runs
from zsseg.stages.errors import UserError
from zsseg.stages.file_bytes import read_text_file
from zsseg.stages.importing.annotated import Findings, Mask
from zsseg.stages.importing.area_list import AreaList
from zsseg.stages.importing.coco import BOXES
from zsseg.stages.importing.matching import ImagesByName
from zsseg.stages.importing.shapes import ellipse_mask, points_of, polygon_mask

_SHAPES = ("polygon", "mask", "ellipse", "box", "polyline", "points", "cuboid", "skeleton")


def read_cvat(documents: Iterable[Path], images: ImagesByName) -> Findings | None:
    """The shapes of the XML files that are CVAT's; None where there are none."""
    areas = AreaList("CVAT's XML", images)
    names: list[str] = []
    found = False
    for path in documents:
        root = _root(path)
        if root is None:
            continue
        found = True
        names += [each.text or "" for each in root.findall(".//labels/label/name")]
        if root.find("track") is not None:
            areas.refuse("tracks of a video; export `CVAT for images` or `Segmentation mask`")
        for element in root.findall("image"):
            size = (_integer(element, "height"), _integer(element, "width"))
            if image := areas.image(element.get("name", ""), size):
                for shape in element:
                    _add(areas, image, shape)
    return areas.findings(names) if found else None


def _root(path: Path) -> ElementTree.Element | None:
    """The root of CVAT's XML; None for another file, and for one with definitions of its own.

    Definitions (`<!DOCTYPE`, `<!ENTITY`) can make a small file a huge one; CVAT writes none.
    """
    try:
        text = read_text_file(path)
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            return None
        root = ElementTree.fromstring(text)
    except (UserError, ElementTree.ParseError, ValueError):
        return None
    return root if root.tag == "annotations" and len(root) else None


def _integer(element: ElementTree.Element, key: str) -> int | None:
    text = element.get(key, "")
    return int(text) if text.isdecimal() else None


def _add(areas: AreaList, image: Path, shape: ElementTree.Element) -> None:
    if shape.tag not in _SHAPES:
        return
    if shape.tag == "box":
        areas.refuse(BOXES)
        return
    try:
        depth = -float(shape.get("z_order", "0"))
        areas.add(image, shape.get("label"), _drawing(shape), depth=depth)
    except (ValueError, KeyError) as error:
        areas.refuse(f"a damaged {shape.tag} ({error})")


def _drawing(shape: ElementTree.Element) -> Callable[[int, int], Mask]:
    """What draws a shape. Raises ValueError where there is nothing to draw."""
    given = shape.attrib
    if shape.tag == "polygon":
        numbers = [float(each) for pair in given["points"].split(";") for each in pair.split(",")]
        points_N2 = points_of(numbers)
        if len(points_N2) < 3:
            raise ValueError("fewer than three points")
        return partial(polygon_mask, points_N2)
    if shape.tag == "ellipse":
        x, y, across, down = (float(given[key]) for key in ("cx", "cy", "rx", "ry"))
        return partial(ellipse_mask, (x, y), (across, down))
    if shape.tag == "mask":
        left, top, width, height = (int(given[key]) for key in ("left", "top", "width", "height"))
        runs = [int(each) for each in given["rle"].split(",")]
        check_runs(runs, height, width)
        return partial(_part, runs, (height, width), (top, left))
    raise ValueError("it has no area")


def _part(
    runs: Sequence[int], size: tuple[int, int], corner: tuple[int, int], height: int, width: int
) -> Mask:
    """(H, W) a mask of run lengths at its place; decoded here, since its file may say any size.

    Raises ValueError where it reaches out of the image.
    """
    (rows, columns), (top, left) = size, corner
    if min(left, top) < 0 or top + rows > height or left + columns > width:
        raise ValueError(f"a mask of {rows} x {columns} at {top}, {left} reaches out of the image")
    mask_HW = np.zeros((height, width), dtype=bool)
    part_hw = mask_of_runs(runs, rows, columns, by_rows=True)
    mask_HW[top : top + rows, left : left + columns] = part_hw
    return mask_HW
