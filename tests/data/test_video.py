"""Videos: whole, cut short, turned, and none at all."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="videos need the extra `video`")

import av
from helpers.drawn_video import FRAMES, HEIGHT, WIDTH, draw_video, frame
from numpy.typing import NDArray

from zsseg.stages.data import video
from zsseg.stages.data.video import Frame, frames_of, is_video, video_facts, video_writer
from zsseg.stages.errors import DatasetError, UserError

ENCODERS = {".mov": "mpeg4", ".avi": "mpeg4", ".mkv": "mpeg4", ".webm": "libvpx"}


def write_as(path: Path) -> Path:
    """Noise, which takes many bytes a frame; MOV with its index in front, as for the web."""
    rng = np.random.default_rng(0)
    options = {"movflags": "faststart"} if path.suffix == ".mov" else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(ENCODERS[path.suffix], rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for _ in range(FRAMES):
            noise_HW3 = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise_HW3)))
        container.mux(stream.encode(None))
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = draw_video(tmp_path / "new" / "a.mp4")
    assert video_facts(path) == (Fraction(10), FRAMES)
    found = list(frames_of(path))
    np.testing.assert_allclose([each.seconds for each in found], np.arange(FRAMES) / 10)
    for number, each in enumerate(found):
        assert each.image_HW3.dtype == np.uint8
        apart_HW3 = np.abs(each.image_HW3.astype(int) - frame(number))
        assert np.median(apart_HW3) < 8
    assert [each.name for each in path.parent.iterdir()] == ["a.mp4"]


def test_odd_sides_get_a_line_more(tmp_path: Path) -> None:
    with video_writer(tmp_path / "a.mp4", Fraction(30000, 1001)) as add:
        add(np.full((47, 33, 3), 90, np.uint8))
    (only,) = frames_of(tmp_path / "a.mp4")
    assert only.image_HW3.shape == (48, 34, 3)
    assert video_facts(tmp_path / "a.mp4").rate == Fraction(30000, 1001)


@pytest.mark.parametrize("ending", ENCODERS)
def test_a_video_that_ends_early_is_told_after_its_frames(ending: str, tmp_path: Path) -> None:
    whole = write_as(tmp_path / f"whole{ending}")
    assert is_video(whole)
    assert len(list(frames_of(whole))) == FRAMES
    cut = tmp_path / f"cut{ending.upper()}"
    content = whole.read_bytes()
    cut.write_bytes(content[: 6 * len(content) // 10])
    found: list[Frame] = []
    with pytest.raises(DatasetError, match=rf"cut.*ends early: \d frames of {FRAMES} could be"):
        found.extend(frames_of(cut))
    assert 3 <= len(found) < FRAMES - 2


@pytest.mark.parametrize("content", [b"", b"no video", b"\x00\x00\x00\x20ftypisom" + bytes(40)])
def test_a_file_that_is_no_video(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(DatasetError, match=r"a\.mp4: cannot be read as a video"):
        list(frames_of(tmp_path / "a.mp4"))
    with pytest.raises(DatasetError, match="cannot be read as a video"):
        list(frames_of(tmp_path / "nowhere.mp4"))


def test_an_mp4_without_its_end_has_no_index(tmp_path: Path) -> None:
    content = draw_video(tmp_path / "a.mp4").read_bytes()
    # Before its index, which MP4 has at its end, and within it.
    for end in (content.index(b"moov"), len(content) - 100):
        (tmp_path / "a.mp4").write_bytes(content[:end])
        with pytest.raises(DatasetError, match="may have been cut short"):
            list(frames_of(tmp_path / "a.mp4"))


def test_a_playlist_leads_to_no_other_file(tmp_path: Path) -> None:
    secret = write_as(tmp_path / "secret.mkv")
    for name, text in (
        ("list.mp4", f"#EXTM3U\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n"),
        ("list.mkv", f"ffconcat version 1.0\nfile '{secret}'\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(DatasetError, match="cannot be read as a video"):
            list(frames_of(tmp_path / name))


def test_a_video_held_upright_is_upright(tmp_path: Path) -> None:
    """A telephone stores the pictures lying, and how to turn them."""
    path = draw_video(tmp_path / "a.mp4")
    content = bytearray(path.read_bytes())
    # The matrix of the track header (ISO 14496-12, 8.3.2): by 90 degrees with the clock.
    place = content.index(b"tkhd") + 44
    assert content[place : place + 4] == (1 << 16).to_bytes(4, "big")
    turned = (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    content[place : place + 36] = b"".join(each.to_bytes(4, "big", signed=True) for each in turned)
    path.write_bytes(content)
    first = next(frames_of(path)).image_HW3
    upright = np.rot90(frame(0), -1)
    assert first.shape == upright.shape == (WIDTH, HEIGHT, 3)
    assert np.median(np.abs(first.astype(int) - upright)) < 8


def test_nothing_is_left_of_a_video_that_fails(tmp_path: Path) -> None:
    with video_writer(tmp_path / "none.mp4", Fraction(10)):
        pass
    with pytest.raises(ValueError, match="unpack"):
        write_two(tmp_path / "half.mp4", frame(0), np.zeros(3, np.uint8))
    assert not list(tmp_path.iterdir())


def write_two(path: Path, *pictures: NDArray[np.uint8]) -> None:
    with video_writer(path, Fraction(10)) as add:
        for each in pictures:
            add(each)


def test_a_missing_package_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'zsseg\[video\]'"):
        list(frames_of(draw_video(tmp_path / "a.mp4")))
