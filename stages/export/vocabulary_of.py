"""The names that are fixed in an export."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.evaluate.trained_run import TrainedRun
from zsseg.stages.evaluate.vocabulary import checked_names, class_text, own_class
from zsseg.stages.export.agreement import Vocabulary


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
    own_ids = [own_class(run.spec, name) for name in names]
    seen_ids = tuple(i for i, own in enumerate(own_ids) if own in run.spec.seen_ids)
    return Vocabulary(names, text_CD, len(background), seen_ids)
