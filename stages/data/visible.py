"""Reads labels for training: pixels of unseen classes are void.

Precompute and training import this module and never `stages/data/labels.py` (an import contract
checks it), so none of their code can use a label of an unseen class by mistake.
"""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.data.images import image_size
from zsseg.stages.data.labels import read_label
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import VOID, DatasetSpec
from zsseg.stages.errors import DatasetError

_BATCH = 64  # labels given to the threads at once


def read_visible_label(spec: DatasetSpec, sample: Sample) -> NDArray[np.uint8]:
    """(H, W) ids of seen classes; VOID for unseen classes, void, and all of an unlabelled image."""
    if sample.label is None:
        return np.full(image_size(sample.image), VOID, dtype=np.uint8)
    visible_V = np.arange(VOID + 1, dtype=np.uint8)
    visible_V[list(spec.unseen_ids)] = VOID
    return visible_V[read_label(spec, sample)]


def count_visible(spec: DatasetSpec, samples: Sequence[Sample]) -> dict[str, int]:
    """Pixels by value (as text) of visible labels: of all, or of enough to show every seen class.

    Labels are read in a shuffled order, so that enough are soon read where every class is common.
    One that cannot be read counts for nothing.
    """
    pixels, seen = Counter[int](), set(spec.seen_ids)
    order = np.random.default_rng(0).permutation([i for i, s in enumerate(samples) if s.label])
    with ThreadPoolExecutor() as threads:
        for start in range(0, len(order), _BATCH):
            batch = [samples[int(place)] for place in order[start : start + _BATCH]]
            for found in threads.map(lambda sample: _pixels(spec, sample), batch):
                pixels.update(found)
            if seen <= pixels.keys():
                break
    return {str(value): count for value, count in sorted(pixels.items())}


def _pixels(spec: DatasetSpec, sample: Sample) -> dict[int, int]:
    try:
        values, counts = np.unique(read_visible_label(spec, sample), return_counts=True)
    except DatasetError:
        return {}
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
