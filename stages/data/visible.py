"""Reads labels for training: pixels of unseen classes are void.

Precompute and training import this module and never `stages/data/labels.py` (an import contract
checks it), so none of their code can use a label of an unseen class by mistake.
"""

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.data.images import image_size
from zsseg.stages.data.labels import read_label
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import VOID, DatasetSpec


def read_visible_label(spec: DatasetSpec, sample: Sample) -> NDArray[np.uint8]:
    """(H, W) ids of seen classes; VOID for unseen classes, void, and all of an unlabelled image."""
    if sample.label is None:
        return np.full(image_size(sample.image), VOID, dtype=np.uint8)
    visible_V = np.arange(VOID + 1, dtype=np.uint8)
    visible_V[list(spec.unseen_ids)] = VOID
    return visible_V[read_label(spec, sample)]
