"""Recorded views: which crops of an image get a CLS token, and the pixels that the teacher sees.

View 0 is the whole image; the others are random crops, stored as numbers. The student later cuts
the same crops out of the image, so that token and pixels show the same.
Legend: H W pixels of an image, V views of it with view 0, R C rows and columns of the teacher.
"""

from math import exp, log, sqrt
from typing import TYPE_CHECKING

import numpy as np
import xxhash
from numpy.typing import NDArray

from zsseg.stages.data.geometry import WHOLE, View, crop_image
from zsseg.stages.precompute.make.pictures import Picture, PictureOnDisk
from zsseg.stages.precompute.precompute_config import DenseConfig, ViewConfig

if TYPE_CHECKING:
    from zsseg.stages.precompute.teacher.teacher_protocol import Seen, Teacher


def image_views(image_HW3: NDArray[np.uint8], config: ViewConfig) -> NDArray[np.float32]:
    """(V, 6) the whole image and `config.number` random crops, as the store keeps them.

    They follow from the image's pixels and the configuration alone, not from shard, row or order,
    so an image keeps its crops when others are added or removed. Labels are not used. A larger
    `number` only adds crops.
    """
    height, width = image_HW3.shape[:2]
    content = xxhash.xxh3_128(f"{height} {width} ".encode())
    content.update(np.ascontiguousarray(image_HW3).data)  # without a copy: it may be large
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

    It is cut at the six numbers as they are stored, so that their reader can cut the same pixels.
    View 0 gives the pixels of `Teacher.fitted`.
    """
    return crop_image(
        image_HW3,
        View.from_row(view_6),
        size,
        teacher.mean_colour,
        interpolation=teacher.interpolation,
    )


def seen_whole(teacher: "Teacher", picture: Picture | PictureOnDisk, config: DenseConfig) -> "Seen":
    """A whole image as `Teacher.dense` takes it: in the sizes of its passes, or by its id."""
    if teacher.by_id:
        return picture.id
    sizes = {seen.size for seen in teacher.dense_passes(config)}
    with picture.opened() as here:  # in its sizes, since the picture itself may not stay
        return {size: teacher.fitted(here.image_HW3, size) for size in sizes}


def _random_crop(rng: np.random.Generator, image_size: tuple[int, int], config: ViewConfig) -> View:
    """A random crop of whole pixels inside the image, as the fields of `ViewConfig` describe it."""
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
