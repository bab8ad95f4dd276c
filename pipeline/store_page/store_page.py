"""The page of a store: what it has of some of its images, as one file that loads nothing else.

No teacher is loaded: names are those whose stored embeddings the stored tokens are nearest to.
Legend: H W pixels, N tokens, C classes.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zsseg.pipeline.html_page import render_page
from zsseg.pipeline.stored_image import CachedImage, region_colours
from zsseg.stages.cache.disk.durable import write_durably
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.images import jpeg_bytes, read_image, resize_image
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import FIRST_REGION, VOID, DatasetSpec
from zsseg.stages.data.visible import read_visible_label
from zsseg.stages.errors import DatasetError
from zsseg.stages.evaluate.colours import name_colours
from zsseg.stages.precompute.make.class_crops import class_crops

_WIDTH = 480
"""Pixels of a picture's longer side at most. [ours]"""
_CROP = 96
"""The same of a crop."""
_TOP = 5
"""Classes listed for the whole image."""


@dataclass(frozen=True)
class ShownRows:
    """Which images of a store are shown."""

    rows: Sequence[int]
    how: str
    """In words."""


def spread_rows(store: Store, number: int) -> ShownRows:
    """At most `number` usable images, evenly spread over the store."""
    usable = np.flatnonzero(store.read_all("status") == 0)
    if len(usable) <= number:
        return ShownRows([*map(int, usable)], f"all {len(usable)} images")
    rows = usable[np.linspace(0, len(usable) - 1, number).round().astype(int)]
    how = f"{number} of {len(usable)} images, evenly spread"
    return ShownRows([*map(int, rows)], how)


def write_store_page(
    store: Store,
    spec: DatasetSpec,
    samples: Mapping[str, Sample],
    chosen: ShownRows,
    file: Path,
) -> Path:
    """Write the page; returns its path. `samples`: by id those whose files are there."""
    palette = name_colours(spec.classes, spec)
    cards = [_card(CachedImage(store, row), spec, samples, palette) for row in chosen.rows]
    named = {name for card in cards for name in card["names"]}  # type: ignore[attr-defined]
    values = {
        "title": store.path.name,
        "about": _about(store, spec, chosen),
        "key": [
            {"name": name, "colour": _css(colour), "unseen": name in spec.unseen}
            for name, colour in zip(spec.classes, palette, strict=False)
            if name in named
        ],
        "cards": cards,
    }
    write_durably(file, render_page("zsseg.pipeline.store_page", "store.html", values))
    return file


def _about(store: Store, spec: DatasetSpec, chosen: ShownRows) -> list[str]:
    teacher = store.info.get("teacher", "")
    lacking = [
        words
        for array, words in (
            ("dense", "dense tokens"),
            ("pixel_names", "map of names"),
            ("local", "tokens of crops"),
        )
        if not store.has(array)
    ]
    return [
        f"{spec.name}, split {store.identity['split']}; teacher {teacher}; shown: {chosen.how}.",
        "Names are those whose embedding is nearest to a stored token, of "
        f"{len(spec.classes)} classes ({len(spec.unseen)} unseen); no label of an unseen class is "
        "read." + (f" This store keeps no {' and no '.join(lacking)}." if lacking else ""),
    ]


def _card(
    image: CachedImage,
    spec: DatasetSpec,
    samples: Mapping[str, Sample],
    palette: NDArray[np.uint8],
) -> dict[str, object]:
    """Everything of one image; where its file is gone, what the store has alone."""
    problem, image_HW3 = "", None
    try:
        image_HW3 = read_image(image.file if image.id not in samples else samples[image.id].image)
    except DatasetError as error:
        problem = str(error)
    small = _blank(image) if image_HW3 is None else _smaller(image_HW3, _WIDTH)
    pictures = [] if image_HW3 is None else [("image", _uri(small))]
    pictures += [(what, _uri(drawn)) for what, drawn in image.drawn(small).items()]
    names = [] if image.named is None else _shares(image.named, spec)
    crops = []
    if image_HW3 is not None and image.id in samples:
        crops = _crops(image, image_HW3, samples[image.id], spec)
    return {
        "id": image.id,
        "problem": problem,
        "pictures": [{"what": what, "uri": uri} for what, uri in pictures],
        "cls": _cls(image, spec),
        "shares": [
            {"name": name, "share": f"{100 * share:.0f} %", "colour": _css(palette[place])}
            for name, share, place in names
        ],
        "names": [name for name, _, _ in names],
        "crops": crops,
    }


def _shares(named_yx: NDArray[np.uint8], spec: DatasetSpec) -> list[tuple[str, float, int]]:
    """Classes of the teacher's map with their share of it, the largest first."""
    count_V = np.bincount(named_yx.ravel(), minlength=VOID + 1)
    order = np.argsort(-count_V[: len(spec.classes)], kind="stable")
    return [
        (spec.classes[place], float(count_V[place] / named_yx.size), int(place))
        for place in order
        if count_V[place]
    ]


def _cls(image: CachedImage, spec: DatasetSpec) -> list[dict[str, str]]:
    """The classes that the token of the whole image is nearest to."""
    if image.cls is None:
        return []
    (cosine_C,) = image.cosines(image.cls[None])
    best = np.argsort(-cosine_C, kind="stable")[:_TOP]
    return [{"name": spec.classes[place], "cosine": f"{cosine_C[place]:.3f}"} for place in best]


def _crops(
    image: CachedImage, image_HW3: NDArray[np.uint8], sample: Sample, spec: DatasetSpec
) -> list[dict[str, object]]:
    """The crop of each mask that has a token, with the class of the mask and the token's name."""
    if not image.local or image.regions is None:
        return []
    settings = image.store.recipes["local"]
    crops, ids, _ = class_crops(
        image_HW3,
        read_visible_label(spec, sample),
        image.regions,
        margin=settings["margin"],
        max_masks=settings["max_masks"],
    )
    palette, shown = name_colours(spec.classes, spec), []
    for crop, mask in zip(crops, ids, strict=True):
        if mask not in image.local:
            continue
        (cosine_C,) = image.cosines(image.local[mask][None])
        first, second = np.argsort(-cosine_C, kind="stable")[[0, min(1, len(cosine_C) - 1)]]
        region = mask >= FIRST_REGION
        own = f"region {mask - FIRST_REGION}" if region else spec.classes[mask]
        colour = region_colours()[mask - FIRST_REGION] if region else palette[mask]
        shown.append(
            {
                "uri": _uri(_smaller(crop.masked((255, 255, 255)), _CROP)),
                "mask": own,
                "colour": _css(colour),
                "name": spec.classes[first],
                "second": spec.classes[second],
                "cosines": f"{cosine_C[first]:.3f}, {cosine_C[second]:.3f}",
                "wrong": not region and first != mask,
            }
        )
    return shown


def _blank(image: CachedImage) -> NDArray[np.uint8]:
    """A picture of the shape of the store's grids, where that of the image is not known."""
    grids = (image.named, image.regions)
    rows, columns = next((grid.shape for grid in grids if grid is not None), (1, 1))
    factor = max(1, _WIDTH // max(rows, columns))
    return np.zeros((rows * factor, columns * factor, 3), np.uint8)


def _smaller(image_HW3: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The image with its longer side at most so long."""
    height, width = image_HW3.shape[:2]
    factor = min(1.0, side / max(height, width))
    size = max(1, round(height * factor)), max(1, round(width * factor))
    return image_HW3 if size == (height, width) else resize_image(image_HW3, size)


def _uri(image_HW3: NDArray[np.uint8]) -> str:
    content = jpeg_bytes(np.ascontiguousarray(image_HW3), quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()


def _css(colour: NDArray[np.uint8]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*(int(value) for value in colour))
