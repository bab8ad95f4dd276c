"""What stage one is asked for: the arguments of `zsseg precompute`."""

from dataclasses import dataclass
from pathlib import Path

from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.precompute.precompute_config import PrecomputeConfig


@dataclass(frozen=True, kw_only=True)
class PrecomputeRequest:
    """A store of a split's images, made by a teacher with settings, in a folder of stores."""

    spec: DatasetSpec
    root: Path
    """Folder of the data set; never written to."""
    split: str
    teacher: str
    """Named in one of the forms that `teacher_files.py` lists."""
    typed: bool = False
    """Did a person type this teacher? Only then the code of `python:FILE.py:NAME` runs."""
    cache: StorePath
    """Folder of the stores; the store's own name follows from the rest."""
    config: PrecomputeConfig
    limit: int | None = None
    """Number of images, the first of the split; None: all."""
    store: StorePath | None = None
    """A store in `cache` that is asked about: it is taken if it is of these settings, also where
    another one of them lies beside it."""
    copy_from: StorePath | None = None
    """A finished store of these images, whatever classes are unseen there: what does not depend on
    these is copied. It is only read."""
