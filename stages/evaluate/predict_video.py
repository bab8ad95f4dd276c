"""Label maps of the frames of a video, and a video of their overlays.

`walk.mp4` gives `walk/frame_000001.png` and so on, and `walk_overlay.mp4`.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from zsseg.stages.data.video import frames_of, video_facts, video_writer
from zsseg.stages.errors import DatasetError
from zsseg.stages.evaluate.prediction import Look
from zsseg.stages.evaluate.prediction_results import ImageResult, image_result
from zsseg.stages.evaluate.predictor import Predictor


def predict_video(
    predictor: Predictor, source: Path, stem: Path, *, look: Look
) -> Iterator[ImageResult]:
    """Label the frames of a video one by one; `stem` is the path of what is written, without
    ending.

    Raises DatasetError for a file that is no video, and, when all else is written, for one that
    ends early.
    """
    ends_early: DatasetError | None = None
    overlay = overlay_video(stem)
    with video_writer(overlay, video_facts(source).rate) as add:
        frames = enumerate(frames_of(source), start=1)
        while True:
            try:
                number, (image_HW3, seconds) = next(frames)
            except StopIteration:
                break
            except DatasetError as error:
                ends_early = error
                break
            found = predictor.predict(image_HW3, name=f"{source}, frame {number}")
            files = found.write(stem / f"frame_{number:06d}", look, video=overlay)
            add(found.overlay_pixels(look))
            result = image_result(source, found, files)
            yield replace(result, frame=number, seconds=round(seconds, 3))
    if ends_early is not None:
        raise ends_early


def overlay_video(stem: Path) -> Path:
    """The video of the overlays of the video whose path without ending is `stem`."""
    return stem.with_name(f"{stem.name}_overlay.mp4")


def expected_frames(source: Path) -> int:
    """How many frames a video says to have; 1 where it says nothing that can be read."""
    try:
        return video_facts(source).frames or 1
    except DatasetError:
        return 1
