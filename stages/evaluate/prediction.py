"""What a student says of one image: labels, scores, confidence, and how they look.

Legend: C classes, K names (classes, then background words), h w positions of the scores, H W
pixels.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from zsseg.stages.data.images import Picture, as_picture, write_png
from zsseg.stages.data.spec import VOID
from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.confidence import confidence_map
from zsseg.stages.evaluate.confidence_measure import Measure
from zsseg.stages.evaluate.overlay import overlay, with_legend


@dataclass(frozen=True)
class Look:
    """How a prediction is drawn, and what is written beside it.

    Raises UserError for an alpha that is no share.
    """

    alpha: float = 0.5
    """Share of the class colour inside a segment, 0 to 1."""
    legend: bool = False
    """Draw a legend below the overlay, which makes it larger than the image?"""
    confidence: bool = False
    """Write a map of confidence?"""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise UserError(f"alpha is {self.alpha}. Give a share of the class colour, 0 to 1")


class Written(NamedTuple):
    """The files of one prediction."""

    labels: Path
    """Palette PNG: the position in the classes at each pixel, VOID (255) for none."""
    overlay: Path
    """The image tinted by class; of a frame the video that has it."""
    confidence: Path | None
    """Grey: 255 times the confidence."""


@dataclass(frozen=True)
class Prediction:
    """The label of every pixel of an image, and all that it was decided by."""

    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    labels: NDArray[np.uint8]
    """(H, W) position in `classes`; VOID (255) where a background word won, or none was sure."""
    classes: tuple[str, ...]
    palette: NDArray[np.uint8]
    """(256, 3) RGB of every label id."""
    name_scores: NDArray[np.float32]
    """(K, h, w) cosines of the classes and of the background words, on the student's grid, with
    gamma taken off the seen classes."""
    scale: float
    """The student's logit scale: the softmax of `scale` times the cosines is its probability."""
    measure: Measure
    """What its confidence is."""
    stem: str = "image"
    """What its files are called when it is saved."""

    @property
    def scores(self) -> NDArray[np.float32]:
        """(C, h, w) cosine of every class on the student's grid."""
        return self.name_scores[: len(self.classes)]

    @property
    def colours(self) -> NDArray[np.uint8]:
        """(C, 3) RGB of the classes; each follows from its name (`name_colours`)."""
        return self.palette[: len(self.classes)]

    @cached_property
    def confidence(self) -> NDArray[np.float32]:
        """(H, W) confidence in the best name at each pixel, 0 to 1; computed on first use."""
        return self._confidence(self.labels.shape)

    @cached_property
    def mean_confidence(self) -> float:
        """The mean over the student's grid, which is a cheap one of the whole image."""
        return float(self._confidence(self.name_scores.shape[1:]).mean())

    def shares(self) -> dict[str, float]:
        """Class -> its share of the image's pixels, the largest first; those that are there."""
        count_C = np.bincount(self.labels.ravel(), minlength=256)[: len(self.classes)]
        order = np.argsort(-count_C, kind="stable")
        return {self.classes[i]: float(count_C[i] / self.labels.size) for i in order if count_C[i]}

    def void_share(self) -> float:
        """The share of the image's pixels that have no class."""
        return float((self.labels == VOID).mean())

    def overlay(self, look: Look = Look()) -> Picture:
        """The image tinted by class, as Pillow's image, which can `.show()` itself."""
        return as_picture(self.overlay_pixels(look))

    def overlay_pixels(self, look: Look = Look()) -> NDArray[np.uint8]:
        """(H, W, 3) the image tinted by class; with a legend a panel stands below it."""
        tinted_HW3 = overlay(self.image, self.labels, self.palette, alpha=look.alpha)
        if not look.legend:
            return tinted_HW3
        return with_legend(tinted_HW3, self.labels, self.palette, self.classes)

    def write(self, stem: Path, look: Look = Look(), *, video: Path | None = None) -> Written:
        """Write the files of `written_files`; without the overlay where it goes into a `video`."""
        files = written_files(stem, look)
        # The longest name first: where it is too long, nothing is written.
        if files.confidence is not None:
            write_png(files.confidence, np.rint(255 * self.confidence).astype(np.uint8))
        if video is None:
            write_png(files.overlay, self.overlay_pixels(look))
        else:
            files = files._replace(overlay=video)
        write_png(files.labels, self.labels, palette=self.palette)
        return files

    def save(self, folder: str | Path, look: Look = Look()) -> Written:
        """Write its files into a folder, which is made where it is not there."""
        into = Path(folder)
        into.mkdir(parents=True, exist_ok=True)
        return self.write(into / self.stem, look)

    def _confidence(self, size: tuple[int, ...]) -> NDArray[np.float32]:
        scores_Khw = torch.from_numpy(self.name_scores)
        return confidence_map(scores_Khw, size, scale=self.scale, measure=self.measure)


def written_files(stem: Path, look: Look) -> Written:
    """The files of a prediction whose path without ending is `stem`."""
    labels, tinted, grey = (
        stem.with_name(f"{stem.name}{ending}.png") for ending in ("", "_overlay", "_confidence")
    )
    return Written(labels, tinted, grey if look.confidence else None)
