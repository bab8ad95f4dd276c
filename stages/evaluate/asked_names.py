"""The names that a student is asked for: classes, what else is there, embeddings and colours.

Legend: K names, D CLIP width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from zsseg.stages.data.class_names import names_of, normal_form
from zsseg.stages.data.spec import Colour
from zsseg.stages.evaluate.colours import name_colours
from zsseg.stages.evaluate.trained_run import TrainedRun
from zsseg.stages.evaluate.vocabulary import checked_names, class_text


@dataclass(frozen=True)
class AskedNames:
    """What each pixel can be."""

    classes: tuple[str, ...]
    background: tuple[str, ...]
    """Names of what else the images show; its pixels become VOID."""
    text_KD: Tensor
    """Embeddings of the classes, then of the background; or (K, S, D), see `class_text`."""
    palette: NDArray[np.uint8]
    """(256, 3) RGB of the label ids."""
    seen_ids: tuple[int, ...]
    """Positions of the names that are seen classes of the run: gamma is taken off these."""

    @property
    def names(self) -> tuple[str, ...]:
        """The classes, then the background."""
        return (*self.classes, *self.background)


def default_background(run: TrainedRun, classes: Sequence[str]) -> tuple[str, ...]:
    """The run's own background words (`evaluate.background`), less those that are asked for."""
    forms = {normal_form(name) for each in classes for name in names_of(each)}
    return tuple(word for word in run.evaluate.background if normal_form(word) not in forms)


def ask_names(
    run: TrainedRun,
    classes: Sequence[str],
    background: Sequence[str] = (),
    *,
    encode: Callable[[Sequence[str]], NDArray[np.float32]],
    teacher: str | None = None,
    colours: Mapping[str, Colour] | None = None,
) -> AskedNames:
    """The names with their embeddings, those new to the run by `encode` (see `class_text`).

    `colours`: see `name_colours`. Raises UserError for names that cannot be told apart, and for
    another teacher than the run's.
    """
    everything = checked_names([*checked_names(classes), *background])
    text_KD = class_text(run, everything, encode=encode, teacher=teacher)
    return with_text(run, classes, background, text_KD, colours=colours)


def with_text(
    run: TrainedRun,
    classes: Sequence[str],
    background: Sequence[str],
    text_KD: Tensor,
    *,
    colours: Mapping[str, Colour] | None = None,
) -> AskedNames:
    """The names with embeddings that are there already, of `classes`, then of `background`."""
    names = checked_names(classes)
    everything = checked_names([*names, *background])
    assert len(text_KD) == len(everything)
    own_ids = [run.spec.class_of(name) for name in everything]
    seen_ids = tuple(i for i, own in enumerate(own_ids) if own in run.spec.seen_ids)
    palette = name_colours(names, run.spec, chosen=colours)
    return AskedNames(names, everything[len(names) :], text_KD, palette, seen_ids)
