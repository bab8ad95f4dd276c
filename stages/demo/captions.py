"""Captions for the small CLIP: windows of scenes, and the names of what they show.

A caption says what is to be seen in a window, never where: no label map reaches the training.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zsseg.stages.demo.scenes import CLASSES, SIZE, Scene

_VISIBLE = 0.04
"""What covers less of a window goes without mention."""
_SIDES = (20, 88)
"""Smallest and largest side of a window in pixels."""
_WHOLE, _OF_THINGS = 0.05, 0.6
"""Shares of whole scenes and of windows around a thing; the rest lies anywhere."""
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
    # Who photographs a dog says "dog" first, however much road there is around it.
    return Window((x0, y0, x1, y1), tuple(sorted(names, key=lambda name: name != subject)))


def _aim(scene: Scene, rng: np.random.Generator) -> tuple[str | None, tuple[int, int, int, int]]:
    """What a window is about, if about one thing, and its corners."""
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
    """A sentence that says the names."""
    said = [f"a {name}" for name in names]
    listed = said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"
    return _TEMPLATES[rng.integers(len(_TEMPLATES))].format(listed)
