"""Images that an export is tried on, and that its 8-bit numbers are calibrated with."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.data.images import read_image, resize_image
from zsseg.stages.data.spec import FolderPatterns
from zsseg.stages.data.splits import list_samples
from zsseg.stages.errors import DatasetError, UserError
from zsseg.stages.evaluate.trained_run import TrainedRun

_GENERATED_SIZES = ((120, 160), (150, 100), (96, 96))


class Images(NamedTuple):
    """Some images, and in words where they are from."""

    arrays: Sequence[NDArray[np.uint8]]
    """(H, W, 3) each."""
    source: str
    real: bool


def images_for(run: TrainedRun, folder: Path | None, count: int) -> Images:
    """Up to `count` images: of a folder, else of the data set that the run was trained on, else
    generated ones.

    Spread evenly over what is there. Raises UserError for a folder without images, DatasetError for
    an image that cannot be read.
    """
    if folder is not None:
        endings = FolderPatterns().image_extensions
        found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in endings)
        if not found:
            raise UserError(f"--images {folder}: holds no image. Give a folder that does")
        return _read(found, count, f"images of {folder}")
    record = run.record
    try:
        samples = list_samples(record.dataset, record.root, record.split)
    except DatasetError:
        return Images(_generated(), "generated images, as the data set is not here", real=False)
    source = f"images of '{record.dataset.name}' ({record.split})"
    return _read([each.image for each in samples], count, source)


def _read(paths: Sequence[Path], count: int, source: str) -> Images:
    step = max(1, len(paths) // count)
    chosen = [*paths[::step]][:count]
    return Images([read_image(path) for path in chosen], f"{len(chosen)} {source}", real=True)


def _generated() -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    coarse = [rng.integers(0, 256, (6, 8, 3), dtype=np.uint8) for _ in _GENERATED_SIZES]
    return [resize_image(each, size) for each, size in zip(coarse, _GENERATED_SIZES, strict=True)]
