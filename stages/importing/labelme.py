"""LabelMe's JSON, one per image, as AnyLabeling and X-AnyLabeling write it too.

    {"imagePath", "imageHeight", "imageWidth",
     "shapes": [{"label", "shape_type", "points": [[x, y], ...], "mask"}]}

A later shape covers an earlier one, as in LabelMe's own converter.
"""

import base64
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from zsseg.stages.data.images import read_raw_label
from zsseg.stages.importing.annotated import Findings, Mask
from zsseg.stages.importing.area_list import AreaList
from zsseg.stages.importing.matching import ImagesByName
from zsseg.stages.importing.shapes import box_points, ellipse_mask, points_of, polygon_mask

_NO_AREA = frozenset({"line", "linestrip", "point", "points"})


def is_labelme(values: Any) -> bool:
    """Is it LabelMe's form?"""
    return (
        isinstance(values, dict)
        and isinstance(values.get("shapes"), list)
        and bool(values.keys() & {"imagePath", "imageHeight", "imageData"})
    )


def read_labelme(documents: Mapping[Path, Mapping[str, Any]], images: ImagesByName) -> Findings:
    """The shapes of several documents, by path."""
    areas = AreaList("LabelMe's JSON", images)
    for document, values in sorted(documents.items()):
        told = PureWindowsPath(str(values.get("imagePath") or "")).name
        # The folder is that of the document: images are moved together with it.
        name = (document.parent / (told or document.stem)).as_posix()
        if told and images.find(name) is None:
            name = (document.parent / document.stem).as_posix()
        image = areas.image(name, (values.get("imageHeight"), values.get("imageWidth")))
        for shape in values["shapes"] if image else ():
            assert image is not None
            kind = str(shape.get("shape_type") or "polygon") if isinstance(shape, dict) else "none"
            if kind in _NO_AREA:
                areas.refuse("points and lines, which have no area")
                continue
            try:
                areas.add(image, shape["label"], _drawing(kind, shape, document))
            except (ValueError, TypeError, KeyError, OverflowError) as error:
                areas.refuse(f"a damaged shape ({type(error).__name__}: {error})")
    return areas.findings()


def _drawing(kind: str, shape: Mapping[str, Any], document: Path) -> Callable[[int, int], Mask]:
    """What draws a shape. Raises ValueError where there is nothing to draw."""
    points_N2 = points_of(np.ravel(np.array(shape["points"], dtype=np.float64)).tolist())
    if kind == "polygon":
        if len(points_N2) < 3:
            raise ValueError("a polygon of fewer than three points")
        return partial(polygon_mask, points_N2)
    if kind == "rectangle":
        (x0, y0), (x1, y1) = points_N2[:2].tolist()
        return partial(polygon_mask, box_points(x0, y0, x1, y1))
    if kind == "circle":
        centre, edge = points_N2[:2]
        radius = float(np.hypot(*(edge - centre)))
        return partial(ellipse_mask, (float(centre[0]), float(centre[1])), (radius, radius))
    if kind == "mask":
        content = base64.b64decode(shape["mask"], validate=True)
        x, y = points_N2[0].astype(int).tolist()
        return partial(_placed, read_raw_label(document, content) > 0, x, y)
    raise ValueError(f"shape_type {kind!r}")


def _placed(part_hw: Mask, x: int, y: int, height: int, width: int) -> Mask:
    """(H, W) a mask whose top left corner is at x, y; what lies outside is cut off."""
    mask_HW = np.zeros((height, width), dtype=bool)
    part_hw = part_hw[max(0, -y) :, max(0, -x) :]
    under = mask_HW[max(0, y) :, max(0, x) :][: part_hw.shape[0], : part_hw.shape[1]]
    under[:] = part_hw[: under.shape[0], : under.shape[1]]
    return mask_HW
