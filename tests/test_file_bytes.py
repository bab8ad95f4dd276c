"""Files that a user names: what is no ordinary file is refused, a passing error tried again."""

import errno
import os
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zsseg.stages.data.images import image_size, read_image
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import load_spec
from zsseg.stages.errors import DatasetError
from zsseg.stages.file_bytes import IMAGE_BYTES, read_file, read_text_file
from zsseg.stages.precompute.make.pictures import file_hash, read_image_row


def _flaky(monkeypatch: pytest.MonkeyPatch, number: int, times: int) -> list[int]:
    """Have reading fail `times` times with this error; returns one entry per pause."""
    real, pauses, left = os.open, list[int](), [times]

    def opened(path: Path, flags: int) -> int:
        if left[0]:
            left[0] -= 1
            raise OSError(number, os.strerror(number), str(path))
        return real(path, flags)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(time, "sleep", lambda seconds: pauses.append(seconds))
    return pauses


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_passing_error_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    image = tmp_path / "a.png"
    Image.new("RGB", (4, 3), (1, 2, 3)).save(image)
    known = file_hash(image)
    pauses = _flaky(monkeypatch, number, 2)
    assert file_hash(image) == known
    assert len(pauses) == 2
    _flaky(monkeypatch, number, 3)
    assert read_image(image).shape == (3, 4, 3)


def test_an_error_that_stays_is_a_failed_row_without_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "a.png"
    Image.new("RGB", (4, 3)).save(image)
    label = tmp_path / "a_label.png"
    Image.new("L", (4, 3)).save(label)
    pauses = _flaky(monkeypatch, errno.EIO, 10_000)
    row = read_image_row(load_spec("camvid"), tmp_path, Sample("a", image, label))
    assert row.picture is None
    assert row.hashes.image is None
    assert row.failure is not None
    assert row.failure.startswith("a.png: cannot be read as an image ([Errno 5]")
    assert sum(pauses) < 5


def test_other_errors_are_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = _flaky(monkeypatch, errno.EACCES, 1)
    with pytest.raises(PermissionError):
        read_file(tmp_path / "a", at_most=9)
    assert not pauses


@pytest.mark.parametrize("kind", ["a named pipe", "a device", "a folder", "MiB are more than the"])
def test_what_is_no_ordinary_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.jpg"
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "a folder":
        path.mkdir()
    else:
        with path.open("wb") as stream:
            stream.truncate(IMAGE_BYTES + 1)
    begin = time.monotonic()
    for read in (read_image, image_size):
        with pytest.raises(DatasetError, match=rf"a\.jpg: cannot be read as an image.*{kind}"):
            read(path)
    assert file_hash(path) is None
    with pytest.raises(DatasetError, match=rf"a\.jpg: cannot be read.*{kind}"):
        read_text_file(path, error=DatasetError)
    assert time.monotonic() - begin < 2


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, progressive=True)
    assert read_image(path).shape == (64, 64, 3)
    content = path.read_bytes()
    last = content.rindex(b"\xff\xda")
    path.write_bytes(content[:last] + content[last:-2] * 3000 + content[-2:])
    begin = time.monotonic()
    with pytest.raises(DatasetError, match=r"a\.jpg: a JPEG of 3,\d+ scans"):
        read_image(path)
    assert time.monotonic() - begin < 1


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_byte_order_mark_and_line_ends_are_read(tmp_path: Path, ends: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf" + f"é{ends}b{ends}".encode())
    assert read_text_file(path) == "é\nb\n"


@pytest.mark.parametrize(
    ("encoding", "reason"),
    [
        ("latin-1", "0xe9 in line 2"),
        ("utf-16", "UTF-16"),
        ("utf-16-be", "UTF-16"),
        ("utf-32", "UTF-16"),
    ],
)
def test_another_encoding_is_named(tmp_path: Path, encoding: str, reason: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("first\ncafé\n".encode(encoding))
    with pytest.raises(DatasetError, match=rf"a\.txt: is not UTF-8 text \(.*{reason}\)\. Save it"):
        read_text_file(path, error=DatasetError)


def test_no_more_memory_is_asked_for_than_the_file_needs(tmp_path: Path) -> None:
    """Python allocates what a read may give at most, before it reads."""
    (tmp_path / "small").write_bytes(b"four")
    tracemalloc.start()
    try:
        assert read_file(tmp_path / "small", at_most=1 << 30) == b"four"
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()
