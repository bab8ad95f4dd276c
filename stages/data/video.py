"""Frames of a video in, pictures to a video out, by PyAV (the extra `video`).

A file is handed over open and with the format of its ending: a playlist that is called `a.mp4`
would lead the library to other files and addresses.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.errors import DatasetError, UserError
from zsseg.stages.printable import counted, first_line

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

_FORMATS = {
    ".mp4": "mov",
    ".m4v": "mov",
    ".mov": "mov",
    ".avi": "avi",
    ".mkv": "matroska",
    ".webm": "matroska",
}
VIDEO_EXTENSIONS = tuple(_FORMATS)
"""Endings of files that are taken for videos."""

_MAX_PIXELS = 89_478_485
"""Of a frame, as of an image."""

_USUAL_RATE = Fraction(25)
"""Frames per second where a video does not say."""


class Frame(NamedTuple):
    """A picture of a video."""

    image_HW3: NDArray[np.uint8]
    """RGB, upright."""
    seconds: float
    """Since the beginning."""


class VideoFacts(NamedTuple):
    """What a video says of itself."""

    rate: Fraction
    """Frames per second, the mean."""
    frames: int | None
    """How many there should be; None where it is not said."""


def is_video(path: Path) -> bool:
    """Is the file taken for a video, by its ending?"""
    return path.suffix.lower() in _FORMATS


def check_reader(path: Path) -> None:
    """Raise UserError where the package that reads videos is not installed."""
    if find_spec("av") is None:
        raise UserError(
            f"{path}: is a video, and reading one needs the package av. Install zsseg's extra: "
            "pip install 'zsseg[video]', or give the video's frames as a folder of images"
        )


def video_facts(path: Path) -> VideoFacts:
    """What a video says of itself. Raises DatasetError where it cannot be read."""
    with _opened(path) as (container, stream):
        rate = stream.average_rate or stream.guessed_rate or _USUAL_RATE
        if stream.frames:
            return VideoFacts(rate, stream.frames)
        seconds = _seconds(container, stream)
        return VideoFacts(rate, None if seconds is None else max(1, round(seconds * rate)))


def frames_of(path: Path) -> Iterator[Frame]:
    """The frames of a video, in order.

    Raises DatasetError where it cannot be read, and after its last frame where that is not the last
    one that it should have.
    """
    expected = video_facts(path).frames
    found, why = 0, ""
    with _opened(path) as (container, stream):
        try:
            for frame in container.decode(stream):
                image_HW3 = frame.to_ndarray(format="rgb24")
                # `rotation`: degrees against the clock by which it is to be turned.
                upright_HW3 = np.rot90(image_HW3, round(frame.rotation / 90) % 4)
                yield Frame(np.ascontiguousarray(upright_HW3), float(frame.time or 0))
                found += 1
        except _library_errors() as error:
            why = f" ({first_line(error)})"
    if not found:
        raise _no_video(path, why.strip(" ()") or "not one frame of it")
    # Of an estimate from the length one may be missing, or of some kinds two.
    if why or (expected is not None and found < expected - 2):
        of = "" if expected is None else f" of {expected:,}"
        raise DatasetError(
            f"{path}: the video ends early: {counted(found, 'frame')}{of} could be read{why}. What "
            "there is has been used; copy the file again if it should be longer"
        )


@contextmanager
def video_writer(path: Path, rate: Fraction) -> Iterator[Callable[[NDArray[np.uint8]], None]]:
    """Gives a function that adds a picture (H, W, 3), all of one size; the file (MP4) appears whole
    when the block ends, and not at all where it fails or nothing was added.

    A side of odd length gets its last line twice: colours are stored for two pixels by two.
    """
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)  # of a killed process, or a link that somebody has put there
    rate = rate.limit_denominator(1001)
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    try:
        with ExitStack() as stack:
            opened: list[Any] = []

            def add(image_HW3: NDArray[np.uint8]) -> None:
                height, width = image_HW3.shape[:2]
                even = ((0, height % 2), (0, width % 2), (0, 0))
                if not opened:
                    file = stack.enter_context(partial.open("xb"))
                    container = stack.enter_context(av.open(file, "w", format="mp4"))
                    stream = container.add_stream(codec, rate=rate)
                    stream.height, stream.width = height + height % 2, width + width % 2
                    stream.pix_fmt = "yuv420p"
                    opened.extend((container, stream))
                container, stream = opened
                frame = av.VideoFrame.from_ndarray(np.pad(image_HW3, even, mode="edge"))
                container.mux(stream.encode(frame))

            yield add
            if opened:
                container, stream = opened
                container.mux(stream.encode(None))
        if opened:
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path) -> "Iterator[tuple[InputContainer, VideoStream]]":
    """A video and its first stream of pictures."""
    check_reader(path)
    import av

    with ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
            opened = av.open(file, format=_FORMATS[path.suffix.lower()], metadata_errors="replace")
            container = stack.enter_context(opened)
        except _library_errors() as error:
            raise _no_video(path, first_line(error)) from error
        if not container.streams.video:
            raise DatasetError(f"{path}: has no pictures. Give a file with a video in it")
        stream = container.streams.video[0]
        if stream.width * stream.height > _MAX_PIXELS:
            raise DatasetError(
                f"{path}: its frames have {stream.width:,} x {stream.height:,} pixels, more than "
                f"the {_MAX_PIXELS:,} that are read. Scale it down"
            )
        yield container, stream


def _no_video(path: Path, reason: str) -> DatasetError:
    return DatasetError(
        f"{path}: cannot be read as a video ({reason}); it may have been cut short. Copy it again, "
        "or convert it to MP4"
    )


def _seconds(container: "InputContainer", stream: "VideoStream") -> Fraction | None:
    """How long the pictures are said to last."""
    if stream.duration is not None and stream.time_base is not None:
        return Fraction(stream.duration * stream.time_base)
    microseconds = container.duration
    return None if microseconds is None else Fraction(microseconds, 1_000_000)


def _library_errors() -> tuple[type[Exception], ...]:
    import av

    return (av.FFmpegError, ValueError, OSError)
