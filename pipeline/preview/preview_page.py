"""What `zsseg preview` leaves: a page, and for each image a picture and an overlay.

Legend: H W pixels of a picture, y x grid of the map of names.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zsseg.pipeline.html_page import render_page
from zsseg.pipeline.tables import percent
from zsseg.stages.cache.disk.durable import write_durably
from zsseg.stages.data.class_names import names_of
from zsseg.stages.data.images import jpeg_bytes, write_png
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.evaluate.colours import name_colours
from zsseg.stages.evaluate.labelling import upsampled_argmax
from zsseg.stages.evaluate.overlay import overlay
from zsseg.stages.evaluate.teacher_evaluation import named_scores
from zsseg.stages.precompute.preview import NamedImage, NameFigures, TeacherPreview, name_figures

PAGE = "index.html"

_EXPLAINED = 12
"""Names found nowhere that the page says more about; the others it lists. [ours]"""

_SMALL = 0.0005
"""Share of an image's pixels below which a name is counted, not listed; it would read 0.0 %."""


@dataclass(frozen=True)
class PageText:
    """What the page says besides names and pictures."""

    title: str
    about: str
    settings: str
    """What the map was made with."""
    command: str
    """The next command."""


def write_preview(out: Path, seen: TeacherPreview, text: PageText, *, spec: DatasetSpec) -> Path:
    """Write the page, and `image_1.png` and `image_1_overlay.png` of each image; returns the page.

    Colours are those of `zsseg predict` for the same names and a run of this data set.
    """
    colours = name_colours(seen.classes, spec)
    figures = name_figures([each.map_4yx for each in seen.images], seen.classes)
    nowhere = sorted((f for f in figures if f.confidence is None), key=lambda f: -f.second)
    cards = []
    for number, image in enumerate(seen.images, start=1):
        label_HW = pixel_labels(image, len(seen.classes))
        tinted_HW3 = overlay(image.picture_HW3, label_HW, colours)
        stem = out / f"image_{number}"
        write_png(stem.with_name(f"{stem.name}.png"), image.picture_HW3)
        write_png(stem.with_name(f"{stem.name}_overlay.png"), tinted_HW3)
        own = [f for f in name_figures([image.map_4yx], seen.classes) if f.share > 0]
        small = sum(each.share < _SMALL for each in own)
        cards.append(
            {
                "id": image.id,
                "picture": _data(image.picture_HW3),
                "overlay": _data(tinted_HW3),
                "names": _chips(own, seen.classes, colours),
                "small": small,
            }
        )
    values = {
        "text": text,
        "rows": _rows(figures, nowhere[_EXPLAINED:], colours, images=len(seen.images)),
        "missing": [_missing(each) for each in nowhere[:_EXPLAINED]],
        "others": [shown_name(each.name) for each in nowhere[_EXPLAINED:]],
        "cards": cards,
        "failures": seen.failures,
    }
    write_durably(out / PAGE, render_page("zsseg.pipeline.preview", "preview.html", values))
    return out / PAGE


def pixel_labels(image: NamedImage, classes: int) -> NDArray[np.uint8]:
    """(H, W) the class of each pixel of the picture, from the map of names as it is scored."""
    return upsampled_argmax(named_scores(image.map_4yx, classes), image.picture_HW3.shape[:2])


def _data(image_HW3: NDArray[np.uint8]) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg_bytes(image_HW3)).decode()}"


def _hex(colours: NDArray[np.uint8], index: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colours[index])


def _rows(
    figures: Sequence[NameFigures],
    without: Sequence[NameFigures],
    colours: NDArray[np.uint8],
    *,
    images: int,
) -> list[dict[str, object]]:
    """The largest first."""
    largest = max(each.share for each in figures)
    order = sorted(enumerate(figures), key=lambda pair: -pair[1].share)
    return [
        {
            "colour": _hex(colours, index),
            "name": shown_name(each.name),
            "share": percent(each.share),
            "bar": f"{100 * each.share / largest:.1f}",
            "images": f"{each.images} of {images}",
            "confidence": "-" if each.confidence is None else percent(each.confidence),
            "missing": each.confidence is None,
        }
        for index, each in order
        if each not in without
    ]


def _chips(
    figures: Sequence[NameFigures], classes: Sequence[str], colours: NDArray[np.uint8]
) -> list[dict[str, str]]:
    """The names of one image, the largest first, without the small ones."""
    return [
        {
            "colour": _hex(colours, classes.index(each.name)),
            "name": shown_name(each.name),
            "share": percent(each.share),
        }
        for each in sorted(figures, key=lambda each: -each.share)
        if each.share >= _SMALL
    ]


def _missing(found: NameFigures) -> dict[str, str]:
    """A name that is nowhere the best one, and where it comes second."""
    near = "nor second best"
    if found.behind is not None:
        near = f"second best at {percent(found.second)} % of the pixels, mostly behind "
        near += f"'{shown_name(found.behind)}'"
    return {"name": shown_name(found.name), "near": near}


def shown_name(text: str) -> str:
    """A class's names as a person reads them."""
    return " / ".join(names_of(text))
