"""What the teacher says of the images of a store; no teacher is loaded.

Legend: H W pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from zsseg.stages.cache.format.codec import DENSE
from zsseg.stages.cache.reader import Store
from zsseg.stages.evaluate.labelling import upsampled_argmax
from zsseg.stages.evaluate.teacher_evaluation import PIXEL_NAMES, named_scores, teacher_label


@dataclass(frozen=True)
class StoredTeacher:
    """The teacher's answers for the images of a store."""

    store: Store
    rows: dict[str, int]
    """Row of each image that was not left out, by its name."""

    @property
    def source(self) -> str:
        """In words: what its answers are made from."""
        return "map of names" if self.store.has(PIXEL_NAMES) else "dense tokens"

    def label(self, name: str, size: tuple[int, ...]) -> NDArray[np.uint8] | None:
        """(H, W) the class of each pixel, without gamma; None: not of this store."""
        if (row := self.rows.get(name)) is None:
            return None
        text = torch.from_numpy(self.store.read_all("text").astype(np.float32))
        if self.store.has(PIXEL_NAMES):
            scores = named_scores(self.store.read(PIXEL_NAMES, row), len(text))
            return upsampled_argmax(scores, size)
        return teacher_label(self.store.read(DENSE, row), text, size)


def stored_teacher(store: Store | None) -> StoredTeacher | None:
    """The teacher of a store; None without one, or where it has nothing that names pixels."""
    if store is None or not (store.has(PIXEL_NAMES) or store.has(DENSE)):
        return None
    failed = store.read_all("status") != 0
    rows = {str(each["id"]): int(each["row"]) for each in store.index}
    return StoredTeacher(store, {name: row for name, row in rows.items() if not failed[row]})
