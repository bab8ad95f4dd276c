"""Windows of scenes with captions, to train the small CLIP on.

A caption names what a window shows, not where: no label map reaches the training.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zsseg.stages.demo.scenes import CLASSES, SIZE, Scene

_VISIBLE = 0.04
"""Classes that cover a smaller share of a window are not named."""
_SIDES = (20, 88)
"""Smallest and largest side of a window in pixels."""
_WHOLE, _OF_THINGS = 0.05, 0.6
"""Shares of windows that are the whole scene, and that lie around a thing; the rest is anywhere."""
_TEMPLATES = ("a photo of {}.", "a picture of {}.", "a street with {}.", "{}.", "here is {}.")


@dataclass(frozen=True)
class Window:
    """A part of a scene, (x0, y0, x1, y1) in pixels, and the names of what it shows.

    The most prominent name stands first.
    """

    box: tuple[int, int, int, int]
    names: tuple[str, ...]


def look(scene: Scene, rng: np.random.Generator) -> Window:
    """The whole scene, a square around one of its things, or a square anywhere."""
    subject, (x0, y0, x1, y1) = _aim(scene, rng)
    count_C = np.bincount(scene.label_HW[y0:y1, x0:x1].ravel(), minlength=256)[: len(CLASSES)]
    shown = np.flatnonzero(count_C >= _VISIBLE * (x1 - x0) * (y1 - y0))
    names = sorted((CLASSES[i] for i in shown), key=lambda name: -count_C[CLASSES.index(name)])
    # The subject is named first, as in people's captions, however much road is around it.
    return Window((x0, y0, x1, y1), tuple(sorted(names, key=lambda name: name != subject)))


def _aim(scene: Scene, rng: np.random.Generator) -> tuple[str | None, tuple[int, int, int, int]]:
    """The window's subject, if it lies around a thing, and its corners."""
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
        length = np.clip(max(right - left, bottom - top) * rng.uniform(0.6, 1.4), *_SIDES)
    x0 = int(np.clip(x - length / 2, 0, width - length))
    y0 = int(np.clip(y - length / 2, 0, height - length))
    return subject, (x0, y0, x0 + int(length), y0 + int(length))


def caption(names: Sequence[str], rng: np.random.Generator) -> str:
    """A sentence with the names, in their order."""
    nouns = [f"a {name}" for name in names]
    listed = nouns[0] if len(nouns) == 1 else f"{', '.join(nouns[:-1])} and {nouns[-1]}"
    return _TEMPLATES[rng.integers(len(_TEMPLATES))].format(listed)
