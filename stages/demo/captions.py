"""Pictures with captions for the small CLIP: crops of scenes, and the names of what they show.

A caption says what is to be seen in a picture, never where: no label map reaches the training.
Legend: H W pixels, S the side of a training picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.data.images import resize_image
from stages.demo.scenes import CLASSES, SIZE, Scene

_VISIBLE = 0.04
"""What covers less of a picture goes without mention."""
_SIDES = (20, 88)
"""Smallest and largest side of a crop in pixels."""
_WHOLE, _OF_THINGS = 0.05, 0.65
"""Shares of whole scenes and of crops around a thing; the rest lies anywhere."""
_TEMPLATES = ("a photo of {}.", "a picture of {}.", "a street with {}.", "{}.", "here is {}.")


@dataclass(frozen=True)
class Picture:
    """A training picture (S, S, 3) uint8 and the names of what it shows, most prominent first."""

    image_SS3: NDArray[np.uint8]
    names: tuple[str, ...]


def take_picture(scene: Scene, side: int, rng: np.random.Generator) -> Picture:
    """A window of a scene, resized to (side, side) pixels, in one of two directions."""
    subject, (x0, y0, x1, y1) = _window(scene, rng)
    image_SS3 = resize_image(scene.image_HW3[y0:y1, x0:x1], (side, side), interpolation="bicubic")
    if rng.random() < 0.5:
        image_SS3 = image_SS3[:, ::-1]
    count_C = np.bincount(scene.label_HW[y0:y1, x0:x1].ravel(), minlength=256)[: len(CLASSES)]
    shown = np.flatnonzero(count_C >= _VISIBLE * (x1 - x0) * (y1 - y0))
    names = sorted((CLASSES[i] for i in shown), key=lambda name: -count_C[CLASSES.index(name)])
    # Who photographs a dog says "dog" first, however much road there is around it.
    return Picture(image_SS3, tuple(sorted(names, key=lambda name: name != subject)))


def _window(scene: Scene, rng: np.random.Generator) -> tuple[str | None, tuple[int, int, int, int]]:
    """A thing and the square around it, or no thing and a square anywhere, or the whole scene."""
    height, width = SIZE
    kind = rng.random()
    if kind < _WHOLE:
        return None, (0, 0, width, height)
    subject, length = None, rng.uniform(*_SIDES)
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    if kind < _WHOLE + _OF_THINGS and scene.placed:
        subject = str(rng.choice(sorted({placed.name for placed in scene.placed})))
        things = [placed.box for placed in scene.placed if placed.name == subject]
        left, top, right, bottom = things[rng.integers(len(things))]
        x, y = (left + right) / 2, (top + bottom) / 2
        length = np.clip(max(right - left, bottom - top) * rng.uniform(0.9, 1.9), *_SIDES)
    x0 = int(np.clip(x - length / 2, 0, width - length))
    y0 = int(np.clip(y - length / 2, 0, height - length))
    return subject, (x0, y0, x0 + int(length), y0 + int(length))


def caption(names: Sequence[str], rng: np.random.Generator) -> str:
    """A sentence that says the names."""
    said = [f"a {name}" for name in names]
    listed = said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"
    return _TEMPLATES[rng.integers(len(_TEMPLATES))].format(listed)
