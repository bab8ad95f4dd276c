"""Recorded views: which crops of an image the teacher is asked about, and the pixels it then sees.

View 0 is the whole image; the others are random crops, kept as numbers. The student later cuts the
same numbers out of the same image, so that token and pixels speak of the same thing.
Legend: H W pixels of an image, V views of it with view 0, R C rows and columns of the teacher.
"""

from math import exp, log, sqrt
from typing import TYPE_CHECKING

import numpy as np
import xxhash
from numpy.typing import NDArray

from zsseg.stages.data.geometry import WHOLE, View, crop_image
from zsseg.stages.precompute.precompute_config import ViewConfig

if TYPE_CHECKING:
    from zsseg.stages.precompute.teacher.clip_teacher import Teacher


def image_views(image_HW3: NDArray[np.uint8], config: ViewConfig) -> NDArray[np.float32]:
    """(V, 6) the whole image and `config.number` random crops, as the store keeps them.

    They follow from the image's pixels and the configuration alone: from no shard, row or order, so
    an image keeps its crops when others come and go. Labels are never looked at. The first crops
    of a larger `number` are those of a smaller one.
    """
    height, width = image_HW3.shape[:2]
    content = xxhash.xxh3_128(f"{height} {width} ".encode())
    content.update(image_HW3.tobytes())
    rng = np.random.default_rng((config.seed, content.intdigest()))
    crops = (_random_crop(rng, (height, width), config) for _ in range(config.number))
    return np.stack([view.as_row() for view in (WHOLE, *crops)])


def seen_by_teacher(
    teacher: "Teacher",
    image_HW3: NDArray[np.uint8],
    view_6: NDArray[np.float32],
    size: tuple[int, int],
) -> NDArray[np.uint8]:
    """(R, C, 3) a view as the teacher sees it at `size` (R, C), flip included.

    Of the six numbers as they are stored, so that whoever reads them can cut the same pixels. Of
    view 0 these are the pixels of `Teacher.fitted`.
    """
    return crop_image(
        image_HW3,
        View.from_row(view_6),
        size,
        teacher.mean_colour,
        interpolation=teacher.interpolation,
    )


def _random_crop(rng: np.random.Generator, image_size: tuple[int, int], config: ViewConfig) -> View:
    """A crop of whole pixels inside the image; the parts of `ViewConfig` say which."""
    height, width = image_size
    scale = float(rng.uniform(*config.scale))
    narrowest, widest = config.aspect
    aspect = exp(float(rng.uniform(log(narrowest), log(widest))))
    side = min(height, width) / scale
    rows = min(max(round(side / sqrt(aspect)), 1), height)
    columns = min(max(round(side * sqrt(aspect)), 1), width)
    top = int(rng.integers(height - rows + 1))
    left = int(rng.integers(width - columns + 1))
    flip = bool(rng.random() < config.flip)
    return View(top / height, left / width, rows / height, columns / width, flip, scale)
