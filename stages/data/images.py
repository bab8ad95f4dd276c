"""Reads and writes image files, resizes images, draws text; Pillow behind one door.

Beside this module only `stages/demo/canvas.py` imports Pillow, to draw polygons.

Whatever a file holds, `read_image` gives 8-bit RGB by these rules:

    grey (1, L), palette (P)       the colours they stand for
    transparency (LA, PA, RGBA,    composited on white, because the colour stored under a
    a transparent palette entry)   transparent pixel is arbitrary
    CMYK, YCbCr                    Pillow's conversion
    16-bit grey                    v / 257, rounded (0..65535 -> 0..255)
    16-bit colour                  the high byte (Pillow's decoder)
    32-bit integer, float, others  refused: their range is unknown
    several frames or pages        the first, with a warning
    EXIF orientation               applied

Labels keep the stored numbers instead: palette indices, never the colours they stand for.
"""

import io
import logging
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageDraw, ImageFile, ImageFont, ImageOps, UnidentifiedImageError

from zsseg.stages.errors import DatasetError
from zsseg.stages.file_bytes import IMAGE_BYTES, read_file

_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF")
_LOSSY = frozenset({"JPEG", "MPO", "WEBP"})
_MAX_PIXELS = 89_478_485  # where Pillow starts to warn of a decompression bomb
_MAX_SCANS = 100  # a progressive JPEG has about ten; each costs a pass over all pixels
_SCAN = b"\xff\xda"  # begins a scan; in the coded data 0xff is always followed by something else
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
_LOW_RANGE = 1 << 12  # 16-bit grey below it becomes 0..15 of 255
_dark_folders: set[Path] = set()  # of which a warning has been given
_SIDEWAYS = frozenset({5, 6, 7, 8})  # EXIF orientations that swap rows and columns
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

Picture = Image.Image
"""Pillow's, for those who show or keep one."""

logger = logging.getLogger(__name__)


@contextmanager
def _opened(path: Path, content: bytes | None = None) -> Iterator[Image.Image]:
    """The image of a file, decoded on use; within, Pillow's errors become DatasetErrors.

    `content`: the file's bytes, where they have been read.
    """
    if content is None:
        content = image_content(path)
    try:
        # Given a path, Pillow maps uncompressed files into memory, and then scrambles a TIFF that
        # its EXIF orientation turns by 90 degrees (seen with 13.0); given a stream, it does not.
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            # Pillow only warns here, and turning its warning into an error is not thread-safe.
            if image.width * image.height > _MAX_PIXELS:
                raise DatasetError(
                    f"{path}: {image.width} x {image.height} pixels are more than the "
                    f"{_MAX_PIXELS} that are read (a decompression bomb?). Scale the image down"
                )
            if image.format in {"JPEG", "MPO"}:
                scans = content.count(_SCAN)
                if scans > _MAX_SCANS:
                    raise DatasetError(
                        f"{path}: a JPEG of {scans:,} scans, more than the {_MAX_SCANS} that are "
                        "read (made to keep its reader busy?). Save the image again"
                    )
            yield image
    except DatasetError:
        raise
    except _UNREADABLE as error:
        known = isinstance(error, UnidentifiedImageError)
        raise _unreadable(path, "not an image" if known else error) from error


def _unreadable(path: Path, reason: object) -> DatasetError:
    return DatasetError(
        f"{path}: cannot be read as an image ({reason}). Replace it with an intact file of one "
        f"of the formats {', '.join(_FORMATS)}, or take it out of the data set"
    )


def image_content(path: Path) -> bytes:
    """The bytes of an image file, by `read_file`. Raises DatasetError when it cannot be read."""
    try:
        return read_file(path, at_most=IMAGE_BYTES)
    except OSError as error:
        raise _unreadable(path, error) from error


def read_image(path: Path, content: bytes | None = None) -> NDArray[np.uint8]:
    """An image file as (H, W, 3) RGB, upright, converted by the rules above.

    `content`: the file's bytes, where they have been read. Raises DatasetError for a file that is
    missing, damaged, truncated, too large or of a kind whose range is unknown.
    """
    with _opened(path, content) as image:
        if image.format != "MPO" and getattr(image, "is_animated", False):
            logger.warning("%s: holds several frames; only the first is used", path)
        return rgb_of(image, path)


def rgb_of(image: Picture, where: Path) -> NDArray[np.uint8]:
    """(H, W, 3) RGB of Pillow's image, upright, converted by the rules above; `where`: in messages.

    Raises DatasetError for pixels whose range is unknown.
    """
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):
        raw_HW = np.asarray(upright).astype(np.uint32)
        if 0 < (largest := int(raw_HW.max())) < _LOW_RANGE:
            _warn_of_low_range(where, largest)
        grey_HW = (raw_HW + 128) // 257
        return np.repeat(grey_HW.astype(np.uint8)[:, :, None], 3, axis=2)
    if upright.mode in {"LA", "La", "PA", "RGBA", "RGBa"} or upright.has_transparency_data:
        colour = upright.convert("RGBA")
        white = Image.new("RGBA", colour.size, "white")
        return np.array(Image.alpha_composite(white, colour).convert("RGB"))
    if upright.mode in {"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr"}:
        # Already RGB it would be copied, which counts for large images.
        return np.array(upright if upright.mode == "RGB" else upright.convert("RGB"))
    raise DatasetError(
        f"{where}: pixels of Pillow's mode '{upright.mode}' have no known range. Save the image "
        "with 8 or 16 bits per channel"
    )


def _warn_of_low_range(path: Path, largest: int) -> None:
    """Once per folder and process: a data set may have thousands of such images."""
    if path.parent not in _dark_folders:
        _dark_folders.add(path.parent)
        logger.warning(
            "%s: 16-bit grey whose largest value is %d, as of a camera of %d bits: read as "
            "value / 257 it is nearly black, and so may be other images in this folder. Scale "
            "the values to 0..65535, or save the images with 8 bits",
            path,
            largest,
            largest.bit_length(),
        )


def pixel_count(path: Path, content: bytes) -> int:
    """The pixels that the header of an image file says it has; `content`: the file's bytes."""
    with _opened(path, content) as image:
        return image.width * image.height


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) of `read_image(path)`, from the header.

    A PNG without EXIF data before its pixels is decoded, because the data may follow them.
    """
    with _opened(path) as image:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        # Pillow gives the size of a TIFF with its orientation applied, of other formats without.
        if orientation in _SIDEWAYS and image.format != "TIFF":
            return image.width, image.height
        return image.height, image.width


def read_raw_label(
    path: Path, content: bytes | None = None
) -> NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.int32]:
    """A label file's stored numbers (H, W): grey values or palette indices, never colours.

    `content`: the bytes of the label, where they have been read. Raises DatasetError for a file
    that is missing, damaged, lossy, or holds colours.
    """
    with _opened(path, content) as image:
        if image.format in _LOSSY:
            raise DatasetError(
                f"{path}: {image.format} changes pixel values, so it cannot hold labels. "
                "Save the labels as PNG"
            )
        # Pillow spreads 2- and 4-bit grey over 0..255.
        packing = image.tile[0].args if isinstance(image, ImageFile.ImageFile) else ""
        spread = {"L;2": 85, "L;4": 17}.get(str(packing))
        if image.mode in {"P", "L", "1"}:
            raw_HW = np.array(image, dtype=np.uint8)
            return raw_HW // np.uint8(spread) if spread else raw_HW
        if image.mode.startswith("I;16"):
            return np.array(image).astype(np.uint16)
        if image.mode == "I":
            return np.array(image, dtype=np.int32)
        raise DatasetError(
            f"{path}: a label must hold one number per pixel, but this file holds colours or "
            f"fractions (Pillow's mode '{image.mode}'). Save it as an 8-bit palette or grey PNG "
            "whose pixel values are class ids"
        )


def palette_colours(path: Path) -> dict[int, tuple[int, int, int]]:
    """The colour of each palette index of an image file; {} where it has no palette."""
    with _opened(path) as image:
        flat = image.getpalette("RGB") if image.mode == "P" else None
    colours = np.array(flat or [], dtype=int).reshape(-1, 3).tolist()
    return {index: (red, green, blue) for index, (red, green, blue) in enumerate(colours)}


def resize_image(
    image_HW3: NDArray[np.uint8],
    size: tuple[int, int],
    *,
    box: tuple[float, float, float, float] | None = None,
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
) -> NDArray[np.uint8]:
    """An image, or the part of it in `box`, resized to `size` (rows, columns); antialiased.

    `box` is (x0, y0, x1, y1) in pixels, may have fractions and is clipped into the image.
    """
    height, width = image_HW3.shape[:2]
    if box is not None:
        x0, y0, x1, y1 = box
        box = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
    rows, columns = size
    image = Image.fromarray(image_HW3)
    return np.array(image.resize((columns, rows), _RESAMPLING[interpolation], box=box))


def write_png(
    path: Path, array: NDArray[np.uint8], *, palette: NDArray[np.uint8] | None = None
) -> None:
    """Write RGB (H, W, 3), grey (H, W) or, with a (256, 3) palette, indices (H, W) as PNG.

    The file appears whole or not at all; folders are made as needed.
    """
    image = _png(array, palette)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)  # of a killed process, or a link that somebody has put there
    try:
        with partial.open("xb") as stream:
            image.save(stream, format="PNG")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def png_bytes(array: NDArray[np.uint8]) -> bytes:
    """RGB (H, W, 3) or grey (H, W) as the content of a PNG file."""
    stream = io.BytesIO()
    _png(array, None).save(stream, format="PNG")
    return stream.getvalue()


def jpeg_bytes(image_HW3: NDArray[np.uint8], *, quality: int = 88) -> bytes:
    """RGB (H, W, 3) as the content of a JPEG file."""
    stream = io.BytesIO()
    Image.fromarray(image_HW3).save(stream, format="JPEG", quality=quality)
    return stream.getvalue()


def as_picture(array: NDArray[np.uint8]) -> Picture:
    """RGB (H, W, 3) or grey (H, W) as Pillow's image, which can show itself."""
    return Image.fromarray(array)


def _png(array: NDArray[np.uint8], palette: NDArray[np.uint8] | None) -> Image.Image:
    image = Image.fromarray(array)
    if palette is not None:
        assert array.ndim == 2
        image.putpalette(palette.tobytes())
    return image


def text_mask(text: str, size_px: float) -> NDArray[np.uint8]:
    """(H, W) coverage of each pixel by a line of text, 0 to 255; H is the font's line height."""
    font = ImageFont.load_default(size_px)
    assert isinstance(font, ImageFont.FreeTypeFont)
    mask = Image.new("L", (math.ceil(font.getlength(text)), sum(font.getmetrics())))
    ImageDraw.Draw(mask).text((0, 0), text, fill=255, font=font)
    return np.asarray(mask)
