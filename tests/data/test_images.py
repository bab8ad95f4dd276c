"""What Pillow gets wrong by itself, and our rules for it."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from zsseg.stages.data.images import image_size, read_image, read_raw_label, resize_image, write_png
from zsseg.stages.errors import DatasetError

# Rows 2, columns 3: no symmetry that could hide a swap or a flip.
GREY_HW = np.array([[0, 50, 100], [150, 200, 250]], dtype=np.uint8)


def _noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_rgb_is_read_as_stored(tmp_path: Path) -> None:
    image_HW3 = _noise(5, 7)
    Image.fromarray(image_HW3).save(tmp_path / "a.png")
    read_HW3 = read_image(tmp_path / "a.png")
    assert read_HW3.flags.writeable
    np.testing.assert_array_equal(read_HW3, image_HW3)
    assert image_size(tmp_path / "a.png") == (5, 7)


def test_grey_is_repeated(tmp_path: Path) -> None:
    Image.fromarray(GREY_HW).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), GREY_HW[:, :, None].repeat(3, 2))


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[True, False, True]])).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[0, :, 0], [255, 0, 255])


def test_palette_gives_its_colours(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        read_image(tmp_path / "a.png"), [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]
    )


def test_transparent_pixels_become_white(tmp_path: Path) -> None:
    # Opaque, fully transparent, and a fifth opaque: 0.2 * 100 + 0.8 * 255 = 224.
    pixels = np.array([[[9, 8, 7, 255], [9, 8, 7, 0], [100, 100, 100, 51]]], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        read_image(tmp_path / "a.png"), [[[9, 8, 7], [255, 255, 255], [224, 224, 224]]]
    )


def test_transparent_grey_and_palette_become_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[30, 255], [30, 0]]], dtype=np.uint8), "LA").save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[0, :, 0], [30, 255])
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "b.png", transparency=1)
    np.testing.assert_array_equal(read_image(tmp_path / "b.png"), [[[10, 20, 30], [255, 255, 255]]])


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_and_never_saturates(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 128, 129, 257, 25700, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    read_HW3 = read_image(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(read_HW3[0, :, 1], np.rint(values[0] / 257))
    np.testing.assert_array_equal(read_HW3[0, :, 1], [0, 0, 1, 1, 100, 128, 255])


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    red = np.zeros((16, 16, 4), dtype=np.uint8)
    red[..., 1:3] = 255
    Image.fromarray(red, "CMYK").save(tmp_path / "a.jpg", quality=100)
    difference = np.abs(read_image(tmp_path / "a.jpg").astype(int) - [255, 0, 0])
    assert difference.max() <= 2


def test_float_image_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((2, 2), dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DatasetError, match=r"a\.tif: pixels of Pillow's mode 'F'.* 8 or 16 bits"):
        read_image(tmp_path / "a.tif")


# What the viewer sees -> how it is stored under each EXIF orientation, from the EXIF standard: the
# orientation names the visual side of the 0th row and of the 0th column.
STORED = {
    1: GREY_HW,
    2: GREY_HW[:, ::-1],
    3: GREY_HW[::-1, ::-1],
    4: GREY_HW[::-1],
    5: GREY_HW.T,
    6: np.rot90(GREY_HW),
    7: np.rot90(GREY_HW, 2).T,
    8: np.rot90(GREY_HW, -1),
}


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_applied(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(STORED[orientation])).save(path, exif=exif)
    np.testing.assert_array_equal(read_image(path)[:, :, 0], GREY_HW)
    assert image_size(path) == (2, 3)


def test_exif_orientation_of_a_jpeg(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(_noise(8, 16)).save(tmp_path / "a.jpg", exif=exif)
    assert image_size(tmp_path / "a.jpg") == read_image(tmp_path / "a.jpg").shape[:2] == (16, 8)


def test_first_frame_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    assert (read_image(tmp_path / "a.gif") == [255, 0, 0]).all()
    assert "a.gif: holds several frames" in caplog.text


def _encoded(kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_noise(64, 64)).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF"])
def test_truncated_file_is_named(tmp_path: Path, kind: str) -> None:
    content = _encoded(kind)
    (tmp_path / "a.img").write_bytes(content)
    assert read_image(tmp_path / "a.img").shape == (64, 64, 3)
    (tmp_path / "a.img").write_bytes(content[: len(content) // 2])
    with pytest.raises(DatasetError, match=r"a\.img: cannot be read as an image \(.+\)\. Replace"):
        read_image(tmp_path / "a.img")


def test_damaged_png_is_named(tmp_path: Path) -> None:
    content = bytearray(_encoded("PNG"))
    content[len(content) // 2] ^= 0x10
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DatasetError, match=r"a\.png: cannot be read"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    for read in (read_image, image_size, read_raw_label):
        with pytest.raises(DatasetError, match=r"a\.jpg: cannot be read as an image"):
            read(tmp_path / "a.jpg")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"a\.jpg: cannot be read .*No such file"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bomb_is_refused_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside of tests, where warnings are no errors."""
    Image.new("1", (10_000, 9_000)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DatasetError, match=r"a\.png: 10000 x 9000 pixels are more than"):
        read_image(tmp_path / "a.png")


def test_pillows_own_bomb_limit_is_named(tmp_path: Path) -> None:
    Image.new("1", (20000, 10000)).save(tmp_path / "a.png")
    with pytest.raises(DatasetError, match=r"a\.png: "):
        image_size(tmp_path / "a.png")


def test_label_palette_indices_are_kept(tmp_path: Path) -> None:
    label_HW = np.array([[0, 1, 20, 255]], dtype=np.uint8)
    image = Image.fromarray(label_HW)
    image.putpalette(bytes(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8)))
    image.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as stored:
        assert stored.mode == "P"
    raw_HW = read_raw_label(tmp_path / "a.png")
    assert raw_HW.dtype == np.uint8
    np.testing.assert_array_equal(raw_HW, label_HW)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("grey", [True, False])
def test_label_of_few_bits_keeps_its_numbers(tmp_path: Path, bits: int, grey: bool) -> None:
    """2- and 4-bit grey is the trap: Pillow spreads it over 0..255."""
    label_HW = np.arange(2**bits, dtype=np.uint8)[None].repeat(3, 0)
    image = Image.fromarray(label_HW)
    if not grey:
        image.putpalette(list(range(3 * 2**bits)))
    image.save(tmp_path / "a.png", bits=bits)
    if grey:  # Pillow writes grey with 8 bits only
        (tmp_path / "a.png").write_bytes(_grey_png(label_HW, bits))
    assert (tmp_path / "a.png").read_bytes()[24] == bits
    np.testing.assert_array_equal(read_raw_label(tmp_path / "a.png"), label_HW)


def _grey_png(values_HW: NDArray[np.uint8], bits: int) -> bytes:
    """A grey PNG of few bits, written by hand from the PNG specification."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    height, width = values_HW.shape
    rows = b""
    for row in values_HW:
        text = "".join(format(value, f"0{bits}b") for value in row)
        text += "0" * (-len(text) % 8)
        rows += b"\0" + bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_label_of_16_and_32_bits(tmp_path: Path) -> None:
    values_HW = np.array([[0, 300, 65535]], dtype=np.uint16)
    Image.fromarray(values_HW).save(tmp_path / "a.png")
    raw_HW = read_raw_label(tmp_path / "a.png")
    assert raw_HW.dtype == np.uint16
    np.testing.assert_array_equal(raw_HW, values_HW)
    wide_HW = np.array([[-1, 70000, 3]], dtype=np.int32)
    Image.fromarray(wide_HW).save(tmp_path / "b.tif")
    np.testing.assert_array_equal(read_raw_label(tmp_path / "b.tif"), wide_HW)


@pytest.mark.parametrize("channels", [3, 4])
def test_colour_label_is_refused(tmp_path: Path, channels: int) -> None:
    Image.fromarray(np.zeros((2, 2, channels), dtype=np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(DatasetError, match=r"a\.png: .*holds colours.*palette or grey PNG"):
        read_raw_label(tmp_path / "a.png")


def test_lossy_label_is_refused(tmp_path: Path) -> None:
    Image.fromarray(GREY_HW).save(tmp_path / "a.jpg")
    with pytest.raises(DatasetError, match=r"a\.jpg: JPEG changes pixel values.*PNG"):
        read_raw_label(tmp_path / "a.jpg")


def test_resize_by_a_whole_factor_averages_blocks() -> None:
    """Bilinear with antialiasing is a triangle filter; on linear ramps it is exact inside."""
    row_H, column_W = np.arange(0, 40), np.arange(0, 60)
    ramp_HW = (3 * row_H[:, None] + 2 * column_W[None, :]).astype(np.uint8)
    small_HW3 = resize_image(ramp_HW[:, :, None].repeat(3, 2), (10, 15))
    assert small_HW3.shape == (10, 15, 3)
    blocks_HW = ramp_HW.reshape(10, 4, 15, 4).mean((1, 3))
    np.testing.assert_allclose(small_HW3[1:-1, 1:-1, 0], blocks_HW[1:-1, 1:-1], atol=0.51)


def test_resize_box_cuts_and_is_clipped() -> None:
    image_HW3 = _noise(12, 16)
    inner_HW3 = resize_image(image_HW3, (4, 5), box=(3, 2, 8, 6))
    np.testing.assert_array_equal(inner_HW3, image_HW3[2:6, 3:8])
    beyond_HW3 = resize_image(image_HW3, (6, 8), box=(-4, -3, 8, 6))
    np.testing.assert_array_equal(beyond_HW3, resize_image(image_HW3, (6, 8), box=(0, 0, 8, 6)))


def test_bicubic_overshoots_where_bilinear_does_not() -> None:
    step_HW3 = np.full((8, 8, 3), 100, dtype=np.uint8)
    step_HW3[:, 4:] = 200
    assert resize_image(step_HW3, (8, 32)).max() == 200
    assert resize_image(step_HW3, (8, 32), interpolation="bicubic").max() > 200


def test_png_round_trip(tmp_path: Path) -> None:
    image_HW3 = _noise(4, 6)
    write_png(tmp_path / "new" / "a.png", image_HW3)
    np.testing.assert_array_equal(read_image(tmp_path / "new" / "a.png"), image_HW3)
    palette = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)
    write_png(tmp_path / "b.png", GREY_HW, palette=palette)
    np.testing.assert_array_equal(read_raw_label(tmp_path / "b.png"), GREY_HW)
    np.testing.assert_array_equal(read_image(tmp_path / "b.png"), palette[GREY_HW])


def test_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_png(tmp_path / "a.png", GREY_HW)

    def fail(_self: Image.Image, stream: io.BufferedWriter, **_options: object) -> None:
        stream.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="No space"):
        write_png(tmp_path / "a.png", GREY_HW.T)
    np.testing.assert_array_equal(read_raw_label(tmp_path / "a.png"), GREY_HW)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(("largest", "bits"), [(1023, "10 bits"), (4095, "12 bits"), (9000, "")])
def test_few_bits_in_16_are_warned_of_once_per_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, largest: int, bits: str
) -> None:
    grey_HW = np.linspace(0, largest, 12).round().astype(np.uint16).reshape(3, 4)
    for name in ("a.png", "b.png", "c.tif"):
        Image.fromarray(grey_HW).save(tmp_path / name)
        np.testing.assert_array_equal(read_image(tmp_path / name)[..., 0], (grey_HW + 128) // 257)
    assert len(caplog.records) == (1 if bits else 0)
    if bits:
        assert "a.png: 16-bit grey whose largest value is" in caplog.text
        assert bits in caplog.text


def test_a_black_16_bit_image_is_not_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.fromarray(np.zeros((3, 4), np.uint16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").max() == 0
    assert not caplog.records
