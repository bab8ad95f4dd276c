"""The names that an export is tried with, or that are fixed in it, and whose embeddings they are.

Legend: C classes, D CLIP width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from zsseg.stages.evaluate.trained_run import TrainedRun
from zsseg.stages.evaluate.vocabulary import checked_names, class_text


@dataclass(frozen=True)
class Vocabulary:
    """Names that pixels are given, with their embeddings."""

    names: tuple[str, ...]
    """Classes, then background names."""
    text_CD: Tensor
    background: int = 0
    """How many of them are background: their pixels become VOID."""
    seen_ids: tuple[int, ...] = ()
    """Those that are seen classes of the run, from which gamma is taken."""


def fixed_vocabulary(
    run: TrainedRun,
    classes: Sequence[str],
    background: Sequence[str] = (),
    *,
    encode: Callable[[Sequence[str]], NDArray[np.float32]],
    teacher: str | None = None,
) -> Vocabulary:
    """Names with their embeddings; arguments and errors as `vocabulary.class_text`."""
    names = checked_names([*classes, *background])
    text_CD = class_text(run, names, encode=encode, teacher=teacher)
    own_ids = [run.spec.class_of(name) for name in names]
    seen_ids = tuple(i for i, own in enumerate(own_ids) if own in run.spec.seen_ids)
    return Vocabulary(names, text_CD, len(background), seen_ids)


def teacher_name(run: TrainedRun) -> str:
    """The run's teacher, without the folder that it lay in: for files that are handed on."""
    kind, colon, place = run.record.teacher.partition(":")
    return f"{kind}:{Path(place).name}" if colon else kind
