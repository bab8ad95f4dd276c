"""The page that `zsseg predict` leaves beside its files: overlays, and what was found in each.

It shows the overlays that lie beside it, by relative addresses.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean
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
        "cards": [
            _card([*results], out, colours)
            for _, results in groupby(found.results, key=lambda each: each.files.overlay)
        ],
        "failures": [one_line(each.reason) for each in found.failures],
    }
    write_durably(out / PAGE, render_page("zsseg.pipeline.sheet", "sheet.html", values))
    return out / PAGE


def _shares(results: Sequence[ImageResult]) -> dict[str, float]:
    """Class -> its share of the pixels of all these, the largest first; those that are there."""
    pixels = sum(each.size[0] * each.size[1] for each in results)
    total: dict[str, float] = {}
    for each in results:
        for name, share in each.shares.items():
            part = share * each.size[0] * each.size[1] / pixels
            total[name] = total.get(name, 0.0) + part
    return dict(sorted(total.items(), key=lambda pair: -pair[1]))


def _rows(results: Sequence[ImageResult], colours: Mapping[str, str]) -> list[dict[str, object]]:
    """The classes that are there."""
    shares = _shares(results)
    return [
        {
            "name": _shown(name),
            "colour": colours[name],
            "share": percent(share),
            "bar": f"{100 * share / max(shares.values()):.1f}",
            "images": f"{_images_with(name, results)} of {len(results)}",
        }
        for name, share in shares.items()
    ]


def _images_with(name: str, results: Sequence[ImageResult]) -> int:
    return sum(name in each.shares for each in results)


def _card(
    results: Sequence[ImageResult], out: Path, colours: Mapping[str, str]
) -> dict[str, object]:
    """An image; or a video, of which the frames' means are shown."""
    first, shares = results[0], _shares(results)
    listed = list(shares.items())[:_LISTED]
    more = len(shares) - len(listed)
    video = first.frame is not None
    labels = first.files.labels.parent if video else first.files.labels
    void = fmean(each.void for each in results)
    return {
        "name": one_line(labels.relative_to(out).with_suffix("")),
        "path": one_line(first.path),
        "video": video,
        "overlay": _address(first.files.overlay, out),
        "labels": _address(labels, out),
        "height": first.size[0],
        "width": first.size[1],
        "frames": counted(len(results), "frame") if video else "",
        "classes": [
            {"name": _shown(name), "colour": colours[name], "share": percent(share)}
            for name, share in listed
        ],
        "more": f"and {counted(more, 'other')}" if more else "",
        "void": percent(void) if void else "",
        "confidence": f"{fmean(each.confidence for each in results):.2f}",
    }


def _address(path: Path, out: Path) -> str:
    """A relative address, whatever the name holds: also `#`, `?`, `%`, bytes that are no UTF-8."""
    return quote_from_bytes(os.fsencode(path.relative_to(out).as_posix()))


def _shown(name: str) -> str:
    return one_line(" / ".join(names_of(name)))
