"""What a run learns from: a store, and the data set that it was made from."""

from pathlib import Path
from typing import NamedTuple

from zsseg.stages.cache.reader import Store
from zsseg.stages.data.spec import DatasetSpec


class TrainingData(NamedTuple):
    """A store, and where its images and labels are."""

    store: Store
    spec: DatasetSpec
    root: Path
    """Folder of the data set."""
