"""What stage one reads of an image: pixels, visible label, and hashes of both.

An image that cannot be used is a row with a reason and zeros in every array; the run goes on.
Legend: N images, H W pixels.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from zsseg.stages.data.images import image_content, read_image
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.data.visible import read_visible_label
from zsseg.stages.errors import DatasetError
from zsseg.stages.printable import one_line


@dataclass(frozen=True)
class Hashes:
    """xxh3_128 of an image file's bytes and of its visible label; None where it cannot be read.

    In the visible label unseen classes are void, so a change among them leaves the hash as it is.
    """

    image: str | None
    label: str | None


@dataclass(frozen=True)
class Picture:
    """A decoded image and its visible label, of one size."""

    image_HW3: NDArray[np.uint8]
    visible_HW: NDArray[np.uint8]


@dataclass(frozen=True)
class OldRow:
    """What an earlier store knows of a row's image."""

    row: int
    """Its row there."""
    hashes: Hashes
    failure: str | None
    crops: tuple[str, ...] = ()
    """Hash of the crop of each of its local tokens, in the order of the tokens."""
    left_out: int = 0
    """Masks beyond `local.max_masks`, which have no token."""
    same: bool = True
    """Image and visible label are unchanged."""
    relabelled: bool = False
    """Only the visible label has changed."""


@dataclass(frozen=True)
class ImageRow:
    """One image as it was read: its picture, or the reason why it cannot be used."""

    hashes: Hashes
    picture: Picture | None
    failure: str | None


def read_image_row(spec: DatasetSpec, root: Path, sample: Sample) -> ImageRow:
    """Decode one image and its visible label.

    A failure's reason names files relative to `root`, so that it is the same on every machine.
    """
    visible_HW, label_failure = _read_visible(spec, sample)
    hashes = Hashes(None, _label_hash(visible_HW))
    try:
        # Read once: what is hashed is what is decoded.
        content = image_content(sample.image)
        hashes = replace(hashes, image=_content_hash(content))
        image_HW3 = read_image(sample.image, content)
    except DatasetError as error:
        return ImageRow(hashes, None, _relative(str(error), sample, root))
    if visible_HW is None:
        return ImageRow(hashes, None, _relative(label_failure, sample, root))
    if image_HW3.shape[:2] != visible_HW.shape:
        (height, width), (rows, columns) = image_HW3.shape[:2], visible_HW.shape
        reason = (
            f"{sample.label}: {columns} x {rows} pixels, but its image has {width} x {height}. "
            "Replace the one that is wrong"
        )
        return ImageRow(hashes, None, _relative(reason, sample, root))
    return ImageRow(hashes, Picture(image_HW3, visible_HW), None)


def content_hashes(spec: DatasetSpec, sample: Sample) -> Hashes:
    """The hashes of `read_image_row` without decoding the image."""
    return Hashes(file_hash(sample.image), _label_hash(_read_visible(spec, sample)[0]))


def _read_visible(spec: DatasetSpec, sample: Sample) -> tuple[NDArray[np.uint8] | None, str]:
    """The visible label, or None and the reason."""
    try:
        return read_visible_label(spec, sample), ""
    except DatasetError as error:
        return None, str(error)


def file_hash(path: Path) -> str | None:
    """xxh3_128 of a file's bytes; None where it cannot be read."""
    try:
        return _content_hash(image_content(path))
    except DatasetError:
        return None


def _content_hash(content: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(content)


def _label_hash(visible_HW: NDArray[np.uint8] | None) -> str | None:
    if visible_HW is None:
        return None
    height, width = visible_HW.shape
    return xxhash.xxh3_128_hexdigest(f"{height} {width} ".encode() + visible_HW.tobytes())


def _relative(reason: str, sample: Sample, root: Path) -> str:
    """The reason in one line, with the paths of the sample's files made relative to the root."""
    files = [sample.image, *([sample.label] if sample.label else [])]
    places = {one_line(file): one_line(file.relative_to(root).as_posix()) for file in files}
    # In one pass, longest first: one path may be part of the other.
    named = "|".join(re.escape(file) for file in sorted(places, key=len, reverse=True))
    return re.sub(named, lambda match: places[match[0]], one_line(reason))
