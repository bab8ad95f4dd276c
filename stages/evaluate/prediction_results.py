"""What `zsseg predict` found in each image, and the file that says so (`results.jsonl`).

One line per image, in the order of the images: JSON with `file`, `width`, `height`, `classes` (a
list of `name` and `share` of the pixels, the largest first, those that are there), `void` (share
without a class), `confidence` (mean), `measure` of it, and the files written, relative to the
folder: `labels`, `overlay`, `confidence_map` (or null). A video has such a line for each frame,
with `frame` (1, 2, ...) and `seconds` behind `file`. What has no label map has `file` and `error`;
so has, behind its frames, a video that ends early. Bytes of a file name that are no UTF-8 stand as
`\\udcXX`, as in Python.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.confidence_measure import Measure
from zsseg.stages.evaluate.prediction import Prediction, Written

RESULTS = "results.jsonl"

_BEGINNING = b'{"file": '


@dataclass(frozen=True)
class ImageResult:
    """What was found in an image, and where its files are."""

    path: Path
    """The image, or the video."""
    size: tuple[int, int]
    """Height and width."""
    shares: Mapping[str, float]
    """Class -> share of the pixels, the largest first; those that are there."""
    void: float
    """Share of the pixels without a class."""
    confidence: float
    """The mean."""
    measure: Measure
    """What it is."""
    files: Written
    frame: int | None = None
    """Of a video: which, from 1."""
    seconds: float | None = None
    """Of a video: when."""


@dataclass(frozen=True)
class Failure:
    """An image without a label map, or a video without some or all of them, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Predictions:
    """The images and frames that `predict_files` wrote label maps of, and what has none."""

    results: tuple[ImageResult, ...]
    failures: tuple[Failure, ...]

    @property
    def labels(self) -> tuple[Path, ...]:
        """The label maps."""
        return tuple(each.files.labels for each in self.results)


def image_result(path: Path, found: Prediction, files: Written) -> ImageResult:
    """What to keep of a prediction whose files are written."""
    height, width = found.labels.shape
    return ImageResult(
        path=path,
        size=(height, width),
        shares=found.shares(),
        void=found.void_share(),
        confidence=found.mean_confidence,
        measure=found.measure,
        files=files,
    )


def result_line(result: ImageResult | Failure, folder: Path) -> bytes:
    """A line of `results.jsonl` in this folder."""
    values: dict[str, object] = {"file": str(result.path)}
    if isinstance(result, Failure):
        values["error"] = result.reason
    else:
        labels, tinted, grey = (
            None if path is None else path.relative_to(folder).as_posix() for path in result.files
        )
        if result.frame is not None:
            values |= {"frame": result.frame, "seconds": result.seconds}
        height, width = result.size
        shares = [{"name": name, "share": round(share, 6)} for name, share in result.shares.items()]
        values |= {"width": width, "height": height, "classes": shares}
        values |= {"void": round(result.void, 6), "confidence": round(result.confidence, 4)}
        values |= {"measure": result.measure}
        values |= {"labels": labels, "overlay": tinted, "confidence_map": grey}
    # What UTF-8 cannot hold is written as `\udcXX`, which is JSON's own escape.
    return json.dumps(values, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def check_results(folder: Path) -> None:
    """Raise UserError where the folder's `results.jsonl` is something else's."""
    path = folder / RESULTS
    if not path.exists():
        return
    ours = False
    if path.is_file():
        with path.open("rb") as file:
            ours = file.read(len(_BEGINNING)) in (_BEGINNING, b"")
    if not ours:
        raise UserError(
            f"{path}: is there, and not from zsseg predict. Give --out another folder, or move it "
            "away"
        )
