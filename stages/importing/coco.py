"""COCO's JSON of instances or stuff: polygons and run lengths, compressed and not, crowds too.

    {"images": [{"id", "file_name", "height", "width"}],
     "categories": [{"id", "name"}],
     "annotations": [{"image_id", "category_id", "segmentation", "area", "iscrowd"}]}

`segmentation` is a list of polygons [x, y, x, y, ...], or {"size": [H, W], "counts"}: run lengths
down the columns, as a list or as COCO's text. Where areas overlap the smaller one is on top.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.data.run_lengths import decoded_runs, mask_of_runs
from zsseg.stages.importing.annotated import Findings, Mask, check_size
from zsseg.stages.importing.area_list import AreaList
from zsseg.stages.importing.matching import ImagesByName
from zsseg.stages.importing.shapes import points_of, polygons_mask

BOXES = "boxes, which say where a thing is and not which pixels it has"


def is_coco(values: Any) -> bool:
    """Is it COCO's form? Not COCO panoptic's, whose annotations have `segments_info`."""
    if not isinstance(values, dict):
        return False
    if not all(isinstance(values.get(k), list) for k in ("images", "annotations", "categories")):
        return False
    first = values["annotations"][:1]
    return not any("segments_info" in each for each in first if isinstance(each, dict))


def read_coco(documents: Sequence[Mapping[str, Any]], images: ImagesByName) -> Findings:
    """The areas of several documents; equal names of categories are one class."""
    areas = AreaList("COCO's JSON", images)
    names: list[str] = []
    for values in documents:
        categories = {c["id"]: str(c["name"]) for c in rows(values["categories"], "id", "name")}
        names += categories.values()
        paths = {
            each["id"]: areas.image(str(each["file_name"]), (each.get("height"), each.get("width")))
            for each in rows(values["images"], "id", "file_name")
        }
        for each in values["annotations"]:
            _add(areas, each, paths, categories)
    return areas.findings(names)


def rows(values: Any, *keys: str) -> list[Mapping[str, Any]]:
    """The mappings of a list that have all of `keys`, whose values can be keys themselves."""
    return [
        each
        for each in (values if isinstance(values, list) else [])
        if isinstance(each, dict) and all(isinstance(each.get(k), str | int) for k in keys)
    ]


def _add(
    areas: AreaList, each: Any, paths: Mapping[Any, Path | None], categories: Mapping[Any, str]
) -> None:
    if not isinstance(each, dict) or not isinstance(each.get("image_id"), str | int):
        areas.refuse("they name no image")
    elif each["image_id"] not in paths:
        areas.refuse("they name an image that is not listed")
    elif not isinstance(each.get("category_id"), str | int) or (
        each["category_id"] not in categories
    ):
        areas.refuse("they name a category that is not listed")
    elif not each.get("segmentation"):
        areas.refuse(BOXES if each.get("bbox") else "they have no segmentation")
    elif path := paths[each["image_id"]]:
        try:
            draw, size = _drawing(each["segmentation"])
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            areas.refuse(f"a damaged segmentation ({error})")
            return
        told = each.get("area")
        depth = float(told) if isinstance(told, int | float) and told > 0 else size
        areas.add(path, categories[each["category_id"]], draw, depth=depth)


def _drawing(segmentation: Any) -> tuple[Callable[[int, int], Mask], float]:
    """What draws a segmentation, and about how many pixels it has."""
    if isinstance(segmentation, dict):
        counts, (height, width) = segmentation["counts"], segmentation["size"]
        if isinstance(counts, str):
            return partial(_runs, counts, int(height), int(width)), float("inf")
        runs = [int(each) for each in counts]
        return partial(_run_list, runs, int(height), int(width)), float(sum(runs[1::2]))
    if segmentation and isinstance(segmentation[0], int | float):
        segmentation = [segmentation]  # one polygon, as some tools write it
    polygons = [points_of(each) for each in segmentation]
    polygons = [points for points in polygons if len(points) > 2]
    if not polygons:
        raise ValueError("a polygon of fewer than three points")
    return partial(polygons_mask, polygons), sum(map(_area, polygons))


def _area(points_N2: NDArray[np.float64]) -> float:
    """Of a polygon, by the shoelace formula."""
    x_N, y_N = points_N2.T
    return abs(float(x_N @ np.roll(y_N, -1) - y_N @ np.roll(x_N, -1))) / 2


def _runs(counts: str, rows: int, columns: int, height: int, width: int) -> Mask:
    return _run_list(decoded_runs(counts), rows, columns, height, width)


def _run_list(runs: Sequence[int], rows: int, columns: int, height: int, width: int) -> Mask:
    check_size((rows, columns), (height, width))
    return mask_of_runs(runs, height, width)
