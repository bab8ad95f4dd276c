"""What stage one reads of an image: pixels, visible label, and hashes of both.

An image that cannot be used is a row with a reason and zeros in every array; the run goes on.
Legend: N images, H W pixels.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from zsseg.stages.data.images import image_content, pixel_count, read_image
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import VOID, DatasetSpec
from zsseg.stages.data.visible import read_visible_label
from zsseg.stages.errors import CacheError, DatasetError
from zsseg.stages.precompute.make.pixel_gate import AT_WORK
from zsseg.stages.printable import one_line

Read = TypeVar("Read")

_COUNTED_AT_ONCE = 2**20


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
    id: str = ""
    """Of the image, in its data set."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.visible_HW.shape
        return height, width

    @property
    def class_pixels(self) -> NDArray[np.int64]:
        """(256,) pixels of each value of the visible label."""
        return _class_pixels(self.visible_HW)

    @contextmanager
    def opened(self) -> Iterator[Self]:
        """Itself, to work on."""
        with AT_WORK.held(self.visible_HW.size):
            yield self

    @contextmanager
    def opened_label(self) -> Iterator[NDArray[np.uint8]]:
        """Its visible label, to work on."""
        with AT_WORK.held(self.visible_HW.size):
            yield self.visible_HW


@dataclass(frozen=True)
class PictureOnDisk:
    """A picture that is read again whenever it is looked at: there is no room to keep it."""

    spec: DatasetSpec
    sample: Sample
    hashes: Hashes
    """Of what was read first; it must not change until the shard is done."""
    shape: tuple[int, int]
    """Height and width in pixels."""
    class_pixels: NDArray[np.int64]
    """(256,) pixels of each value of the visible label."""

    @property
    def id(self) -> str:
        """Of the image, in its data set."""
        return self.sample.id

    @contextmanager
    def opened(self) -> Iterator[Picture]:
        """The picture, decoded. Raises CacheError when its files are no longer what they were."""
        with AT_WORK.held(self.shape[0] * self.shape[1]):
            content = self._read(lambda: image_content(self.sample.image))
            self._check(_content_hash(content) == self.hashes.image)
            image_HW3 = self._read(lambda: read_image(self.sample.image, content))
            yield Picture(image_HW3, self._visible(), self.id)

    @contextmanager
    def opened_label(self) -> Iterator[NDArray[np.uint8]]:
        """The visible label, decoded. Raises as `opened`."""
        with AT_WORK.held(self.shape[0] * self.shape[1]):
            yield self._visible()

    def _visible(self) -> NDArray[np.uint8]:
        visible_HW = self._read(lambda: read_visible_label(self.spec, self.sample))
        self._check(_label_hash(visible_HW) == self.hashes.label)
        return visible_HW

    def _read(self, read: Callable[[], Read]) -> Read:
        try:
            return read()
        except DatasetError as error:
            raise CacheError(f"{self._changed()} ({error})") from error

    def _check(self, same: bool) -> None:
        if not same:
            raise CacheError(self._changed())

    def _changed(self) -> str:
        return (
            f"{self.sample.image}: it or its label changed while the run was going on. What is "
            "committed is safe: run the same command again"
        )


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


@dataclass(frozen=True)
class ShardRow:
    """The same while a shard is made, where a picture may be kept or read again."""

    hashes: Hashes
    picture: Picture | PictureOnDisk | None
    failure: str | None


def read_image_row(spec: DatasetSpec, root: Path, sample: Sample) -> ImageRow:
    """Decode one image and its visible label.

    A failure's reason names files relative to `root`, so that it is the same on every machine.
    """
    with _read_row(spec, root, sample) as row:
        return row


def read_shard_row(
    spec: DatasetSpec, root: Path, sample: Sample, *, keep: Callable[[int], bool]
) -> ShardRow:
    """The same; `keep` is asked whether an image of so many pixels stays in memory."""
    with _read_row(spec, root, sample) as row:
        picture: Picture | PictureOnDisk | None = row.picture
        if row.picture is not None and not keep(row.picture.visible_HW.size):
            seen = row.picture
            picture = PictureOnDisk(spec, sample, row.hashes, seen.shape, seen.class_pixels)
        return ShardRow(row.hashes, picture, row.failure)


@contextmanager
def _read_row(spec: DatasetSpec, root: Path, sample: Sample) -> Iterator[ImageRow]:
    """The row; within, its pixels count as worked on."""
    try:
        # Read once: what is hashed is what is decoded.
        content = image_content(sample.image)
    except DatasetError as error:
        visible_HW, _ = _read_visible(spec, sample)
        hashes = Hashes(None, _label_hash(visible_HW))
        yield ImageRow(hashes, None, _relative(str(error), sample, root))
        return
    with AT_WORK.held(_pixels(sample, content)):
        visible_HW, label_failure = _read_visible(spec, sample)
        hashes = Hashes(_content_hash(content), _label_hash(visible_HW))
        picture, failure = None, label_failure
        try:
            image_HW3 = read_image(sample.image, content)
            if visible_HW is not None:
                failure = _unequal_sizes(sample, image_HW3.shape, visible_HW.shape)
                picture = None if failure else Picture(image_HW3, visible_HW, sample.id)
        except DatasetError as error:
            failure = str(error)
        yield ImageRow(hashes, picture, _relative(failure, sample, root) if failure else None)


def _pixels(sample: Sample, content: bytes) -> int:
    """The pixels that an image says it has; 0 where it cannot be decoded anyway."""
    try:
        return pixel_count(sample.image, content)
    except DatasetError:
        return 0


def _unequal_sizes(sample: Sample, image: Sequence[int], label: Sequence[int]) -> str:
    """What is wrong with the two shapes; empty: nothing."""
    (height, width), (rows, columns) = image[:2], label[:2]
    if (height, width) == (rows, columns):
        return ""
    return (
        f"{sample.label}: {columns} x {rows} pixels, but its image has {width} x {height}. "
        "Replace the one that is wrong"
    )


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
    seen = xxhash.xxh3_128(f"{height} {width} ".encode())
    seen.update(np.ascontiguousarray(visible_HW).data)  # without a copy: it may be large
    return seen.hexdigest()


def _class_pixels(visible_HW: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(256,) pixels of each value; in pieces, because counting takes 8 bytes per pixel."""
    flat, pixels_V = visible_HW.reshape(-1), np.zeros(VOID + 1, dtype=np.int64)
    for start in range(0, flat.size, _COUNTED_AT_ONCE):
        pixels_V += np.bincount(flat[start : start + _COUNTED_AT_ONCE], minlength=VOID + 1)
    return pixels_V


def _relative(reason: str, sample: Sample, root: Path) -> str:
    """The reason in one line, with the paths of the sample's files made relative to the root."""
    files = [sample.image, *([sample.label] if sample.label else [])]
    places = {one_line(file): one_line(file.relative_to(root).as_posix()) for file in files}
    # In one pass, longest first: one path may be part of the other.
    named = "|".join(re.escape(file) for file in sorted(places, key=len, reverse=True))
    return re.sub(named, lambda match: places[match[0]], one_line(reason))
