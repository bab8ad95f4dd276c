"""An image as a person has it in Python, brought to RGB.

Legend: H W pixels.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.data.images import Picture, read_image, rgb_of
from zsseg.stages.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

GivenImage: TypeAlias = Union[str, Path, Picture, NDArray[np.uint8], "Tensor"]
"""A file, Pillow's image, or (H, W, 3) RGB of uint8 as a numpy array or a torch tensor."""

_ADVICE = "Give RGB as uint8 in the shape (height, width, 3), Pillow's image, or the path of a file"


def rgb_image(image: GivenImage) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB, upright.

    Files and Pillow's images may be grey, transparent or turned by EXIF (`data.images`); an array
    has to be what is asked for, because its values do not say what they are. Raises UserError for
    anything else, DatasetError for a file that cannot be read.
    """
    if isinstance(image, str | Path):  # both are what a person writes for a file
        return read_image(Path(image))
    if isinstance(image, Picture):
        if not all(image.size):
            raise UserError(f"an image of {image.width} x {image.height} pixels. {_ADVICE}")
        return rgb_of(image, Path(getattr(image, "filename", "") or "an image"))
    array = _as_array(image)
    if array is None:
        raise UserError(f"an image of type {type(image).__name__}. {_ADVICE}")
    if array.dtype != np.uint8:
        raise UserError(
            f"an image with values of type {array.dtype}, which may be in 0..1, in 0..255 or "
            f"normalised. {_ADVICE}"
        )
    if array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise UserError(f"an image in the shape {array.shape}{_guess(array.shape)}. {_ADVICE}")
    return np.ascontiguousarray(array)


def checked_path(path: str | Path) -> Path:
    """A path as a person writes one. Raises UserError for anything else."""
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"a path of type {type(path).__name__}. Give a text or a pathlib.Path")
    return Path(path)


def _as_array(image: Any) -> NDArray[Any] | None:
    """The values of an array or tensor, in the machine's memory; None: it is neither."""
    if isinstance(image, np.ndarray):
        return image
    if hasattr(image, "detach"):  # a tensor; torch is not imported to see that
        values: NDArray[Any] = image.detach().cpu().numpy()
        return values
    return None


def _guess(shape: tuple[int, ...]) -> str:
    """What an array of a wrong shape probably is."""
    if len(shape) == 2:
        return ", which is grey"
    if len(shape) == 3 and shape[0] == 3:
        return ", which has its channels first"
    if len(shape) == 3 and shape[2] == 4:
        return ", which has an alpha channel"
    if len(shape) == 4:
        return ", which is a batch: several images are given as a list"
    return ""
