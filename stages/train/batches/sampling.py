"""Draws the image at each position of a run, and its crop: a random one or one the store recorded.

`crops` cuts it; nothing is recorded here.

A run's crops are numbered by position: step s with batches of B shows positions s B to s B + B - 1.
What stands at a position follows from (seed, position) alone, so it depends neither on the number
of loader processes nor on where a run was resumed.

Legend: H W pixels of the source image, V views that the store keeps of it.
"""

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.data.geometry import View, crop_map
from zsseg.stages.data.spec import VOID
from zsseg.stages.train.run_config import AugmentationConfig

TRIES = 10
"""How often a crop full of one class is drawn again (mmsegmentation's RandomCrop)."""

# The purpose is part of each seed: epoch 3 and position 3 must not draw the same numbers.
_ORDER, _VIEW, _JITTER = range(3)


def epoch_order(seed: int, epoch: int, rows: int) -> NDArray[np.intp]:
    """(rows,) the permutation in which an epoch shows its images."""
    return np.random.default_rng((seed, _ORDER, epoch)).permutation(rows)


def view_rng(seed: int, position: int) -> np.random.Generator:
    """The generator that draws the view at a position."""
    return np.random.default_rng((seed, _VIEW, position))


def jitter_rng(seed: int, position: int) -> np.random.Generator:
    """The generator that draws the photometric jitter at a position."""
    return np.random.default_rng((seed, _JITTER, position))


def largest_class_share(visible_HW: NDArray[np.uint8]) -> float:
    """Share of the labelled pixels that the most frequent class covers; 0 if none is labelled."""
    count_C = np.bincount(visible_HW.reshape(-1), minlength=VOID + 1)[:VOID]
    return float(count_C.max() / max(count_C.sum(), 1))


def full_of_one_class(
    visible_HW: NDArray[np.uint8], view: View, config: AugmentationConfig
) -> bool:
    """Does one visible class cover more of what a view shows than `largest_class_share`?"""
    # Every fourth pixel each way is enough to know a share and costs a sixteenth.
    rows, columns = (-(-side // 4) for side in config.crop)
    seen_HW = crop_map(visible_HW, view, (rows, columns), VOID)
    return largest_class_share(seen_HW) > config.largest_class_share


def recorded_view(
    rng: np.random.Generator,
    view_V6: NDArray[np.float32],
    config: AugmentationConfig,
    *,
    visible_HW: NDArray[np.uint8],
) -> int:
    """The number of a random one of the crops that the store keeps of an image: 1 to V - 1.

    Drawn again, TRIES times at most, while it is full of one visible class.
    """
    for _ in range(1 + TRIES):
        number = int(rng.integers(1, len(view_V6)))
        if not full_of_one_class(visible_HW, View.from_row(view_V6[number]), config):
            break
    return number


def random_view(
    rng: np.random.Generator,
    image_size: tuple[int, int],
    config: AugmentationConfig,
    *,
    visible_HW: NDArray[np.uint8] | None = None,
) -> View:
    """A random enlargement, crop position and flip of an image of `image_size` (H, W) pixels.

    The short side is brought to `short_side`, enlarged by a uniform factor, and a crop of fixed
    size in pixels is cut at a uniform whole-pixel position; a crop larger than the image begins at
    its top left corner and is padded below and right of it. With `visible_HW`, the position (not
    the factor) is drawn again, TRIES times at most, while one class covers more than
    `largest_class_share` of the labelled pixels; the last draw is taken as it is
    (mmsegmentation: RandomResize, RandomCrop with cat_max_ratio, RandomFlip). A crop without any
    label is kept, unlike there: distillation and self-training learn from it.
    """
    height, width = image_size
    crop_rows, crop_columns = config.crop
    scale = float(rng.uniform(*config.scale))
    base = 1.0 if config.short_side is None else config.short_side / min(height, width)
    rows = max(round(height * base * scale), 1)
    columns = max(round(width * base * scale), 1)
    flip = bool(rng.random() < config.flip)
    for _ in range(1 + TRIES):
        top = int(rng.integers(max(rows - crop_rows, 0) + 1))
        left = int(rng.integers(max(columns - crop_columns, 0) + 1))
        view = View(
            top / rows, left / columns, crop_rows / rows, crop_columns / columns, flip, scale
        )
        if visible_HW is None or not full_of_one_class(visible_HW, view, config):
            break
    return view
