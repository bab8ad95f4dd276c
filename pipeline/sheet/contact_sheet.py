"""The page that `zsseg predict` leaves beside its files: overlays, and what was found in each.

It shows the overlays that lie beside it, by relative addresses.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_from_bytes

import numpy as np
from numpy.typing import NDArray

from zsseg.pipeline.html_page import render_page
from zsseg.pipeline.tables import percent
from zsseg.stages.cache.disk.durable import write_durably
from zsseg.stages.data.class_names import names_of
from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.prediction_results import ImageResult, Predictions
from zsseg.stages.printable import counted, one_line

PAGE = "index.html"

_MADE_BY = b'<meta name="generator" content="zsseg predict">'

_LISTED = 8
"""Classes listed below an image; the others are counted. [ours]"""


@dataclass(frozen=True)
class SheetText:
    """What the page says besides pictures and names."""

    title: str
    about: str


def check_page(out: Path) -> None:
    """Raise UserError where the folder has a page of another maker."""
    page = out / PAGE
    if page.exists() and not (page.is_file() and _MADE_BY in page.read_bytes()[:1000]):
        raise UserError(
            f"{page}: is there, and not from zsseg predict. Give --out another folder, or move it "
            "away"
        )


def write_sheet(
    out: Path,
    found: Predictions,
    classes: Sequence[str],
    palette: NDArray[np.uint8],
    *,
    text: SheetText,
) -> Path:
    """Write the page of predictions below `out`; returns it. `palette`: RGB by class."""
    colours = {
        name: "#{:02x}{:02x}{:02x}".format(*colour)
        for name, colour in zip(classes, palette, strict=False)
    }
    values = {
        "text": text,
        "rows": _rows(found.results, colours),
        "absent": [_shown(name) for name in classes if not _images_with(name, found.results)],
        "cards": [_card(each, out, colours) for each in found.results],
        "failures": [one_line(each.reason) for each in found.failures],
    }
    write_durably(out / PAGE, render_page("zsseg.pipeline.sheet", "sheet.html", values))
    return out / PAGE


def _rows(results: Sequence[ImageResult], colours: Mapping[str, str]) -> list[dict[str, object]]:
    """The classes that are there, by their share of all pixels, the largest first."""
    pixels = sum(each.size[0] * each.size[1] for each in results)
    total = dict.fromkeys(colours, 0.0)
    for each in results:
        for name, share in each.shares.items():
            total[name] += share * each.size[0] * each.size[1] / pixels
    largest = max(total.values(), default=0)
    return [
        {
            "name": _shown(name),
            "colour": colours[name],
            "share": percent(share),
            "bar": f"{100 * share / largest:.1f}",
            "images": f"{_images_with(name, results)} of {len(results)}",
        }
        for name, share in sorted(total.items(), key=lambda pair: -pair[1])
        if share
    ]


def _images_with(name: str, results: Sequence[ImageResult]) -> int:
    return sum(name in each.shares for each in results)


def _card(result: ImageResult, out: Path, colours: Mapping[str, str]) -> dict[str, object]:
    listed = list(result.shares.items())[:_LISTED]
    more = len(result.shares) - len(listed)
    return {
        "name": one_line(result.files.labels.relative_to(out).with_suffix("")),
        "path": one_line(result.path),
        "overlay": _address(result.files.overlay, out),
        "labels": _address(result.files.labels, out),
        "height": result.size[0],
        "width": result.size[1],
        "classes": [
            {"name": _shown(name), "colour": colours[name], "share": percent(share)}
            for name, share in listed
        ],
        "more": f"and {counted(more, 'other')}" if more else "",
        "void": percent(result.void) if result.void else "",
        "confidence": f"{result.confidence:.2f}",
    }


def _address(path: Path, out: Path) -> str:
    """A relative address, whatever the name holds: also `#`, `?`, `%`, bytes that are no UTF-8."""
    return quote_from_bytes(os.fsencode(path.relative_to(out).as_posix()))


def _shown(name: str) -> str:
    return one_line(" / ".join(names_of(name)))
