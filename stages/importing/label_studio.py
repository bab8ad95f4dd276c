"""Label Studio's exports, JSON and JSON-MIN: polygons and brush masks.

    [{"data": {"image": "/data/upload/1/0a1b2c3d-photo.jpg"},
      "annotations": [{"result": [
        {"type": "polygonlabels", "original_width", "original_height",
         "value": {"points": [[x, y], ...], "polygonlabels": ["Car"]}},
        {"type": "brushlabels", ..., "value": {"format": "rle", "rle": [...], "brushlabels": [...]}}
     ]}]}]

Points are percent of width and height. JSON-MIN has the values of a result in a list of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.importing.annotated import Findings, Mask, check_size
from zsseg.stages.importing.area_list import AreaList
from zsseg.stages.importing.coco import BOXES
from zsseg.stages.importing.matching import ImagesByName
from zsseg.stages.importing.shapes import points_of, scaled_polygon_mask

_MOST_BYTES = 1 << 26  # of one brush mask


def is_label_studio(values: Any) -> bool:
    """Is it an export of Label Studio?"""
    if not isinstance(values, list) or not values or not isinstance(values[0], dict):
        return False
    first = values[0]
    if isinstance(first.get("data"), dict):
        return bool(first.keys() & {"annotations", "completions"})
    return "annotation_id" in first and _image_name(first) is not None


def read_label_studio(documents: Sequence[Sequence[Any]], images: ImagesByName) -> Findings:
    """The areas of several exports."""
    areas = AreaList("Label Studio's JSON", images)
    for task in (each for values in documents for each in values):
        if not isinstance(task, dict):
            continue
        data = task["data"] if isinstance(task.get("data"), dict) else task
        parts = list(_parts(task))
        sides = [(each.get("original_height"), each.get("original_width")) for each in parts]
        name = _image_name(data)
        image = areas.image(name, sides[0] if sides else (None, None)) if name else None
        for part in parts if image else ():
            assert image is not None
            for label in _labels(part) or [""]:
                try:
                    areas.add(image, label, _drawing(part))
                except (ValueError, TypeError, KeyError, OverflowError) as error:
                    areas.refuse(str(error))
    return areas.findings()


def _image_name(data: Mapping[str, Any]) -> str | None:
    """The file of a task: what is called image, or the first text that ends like one."""
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    ends = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif")
    likely = [value for value in texts.values() if value.lower().endswith(ends)]
    return texts.get("image") or (likely[0] if likely else None)


def _parts(task: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The values of each area of a task, with the size of its image: of its first annotation that
    was not cancelled."""
    annotations = task.get("annotations", task.get("completions"))
    if isinstance(annotations, list):
        kept = [a for a in annotations if isinstance(a, dict) and not a.get("was_cancelled")]
        results = kept[0].get("result") if kept else None
        for part in results if isinstance(results, list) else ():
            if isinstance(part, dict) and isinstance(part.get("value"), dict):
                sizes = {key: part.get(key) for key in ("original_height", "original_width")}
                yield sizes | part["value"]
        return
    for values in task.values():
        if isinstance(values, list):
            yield from (each for each in values if isinstance(each, dict))


def _labels(part: Mapping[str, Any]) -> list[str]:
    for key, value in part.items():
        if key.endswith("labels") and isinstance(value, list):
            return [str(each) for each in value]
    return []


def _drawing(part: Mapping[str, Any]) -> partial[Mask]:
    """What draws an area. Raises ValueError where there is nothing to draw."""
    if "rle" in part:
        size = (int(part["original_height"]), int(part["original_width"]))
        return partial(_brush, part["rle"], size)
    if "points" in part:
        points_N2 = points_of(np.ravel(np.array(part["points"], dtype=np.float64)).tolist()) / 100
        if len(points_N2) < 3:
            raise ValueError("a polygon of fewer than three points")
        return partial(scaled_polygon_mask, points_N2)
    if "width" in part:
        raise ValueError(BOXES)
    raise ValueError("they are no areas")


def _brush(rle: Sequence[int], annotated: tuple[int, int], height: int, width: int) -> Mask:
    check_size(annotated, (height, width))
    values_P = brush_values(rle)
    if values_P.size != 4 * height * width:
        raise ValueError(f"a brush mask that does not fill {height} x {width} pixels")
    mask_HW: Mask = values_P.reshape(height, width, 4)[..., 3] > 0
    return mask_HW


def brush_values(rle: Sequence[int]) -> NDArray[np.uint8]:
    """The bytes (RGBA of every pixel) of a brush mask, a stream of bits, the highest first.

    32 bits: number of values; 5: bits of a value less one; four times 4: bits of a length less one.
    Then blocks: 1 bit, whether one value is repeated; 2: which of the four sizes the length has;
    the length less one; one value, or as many as the length says. (`@thi.ng/rle-pack`.) Raises
    ValueError for a damaged one.
    """
    bits = np.unpackbits(np.array(rle, dtype=np.uint8))
    place = 0

    def number(count: int) -> int:
        nonlocal place
        if place + count > bits.size:
            raise ValueError("a brush mask that ends too early")
        digits = bits[place : place + count]
        place += count
        return int("".join(map(str, digits.tolist())) or "0", 2)

    total, word = number(32), number(5) + 1
    sizes = [number(4) + 1 for _ in range(4)]
    if total > _MOST_BYTES or word > 8:
        raise ValueError(f"a brush mask of {total:,} values of {word} bits")
    values_P = np.zeros(total, dtype=np.uint8)
    done = 0
    while done < total:
        repeated = number(1)
        end = min(done + 1 + number(sizes[number(2)]), total)
        if repeated:
            values_P[done:end] = number(word)
        else:
            for each in range(done, end):
                values_P[each] = number(word)
        done = end
    return values_P
