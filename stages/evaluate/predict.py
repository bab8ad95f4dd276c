"""Writes label maps and overlays of any images and videos.

Legend: H W pixels.
"""

import errno
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.cache.disk.durable import write_durably
from zsseg.stages.data.images import read_image
from zsseg.stages.data.video import is_video
from zsseg.stages.errors import DatasetError, ResourceError
from zsseg.stages.evaluate.asked_names import AskedNames
from zsseg.stages.evaluate.predict_video import expected_frames, predict_video
from zsseg.stages.evaluate.prediction import Look
from zsseg.stages.evaluate.prediction_results import (
    RESULTS,
    Failure,
    ImageResult,
    Predictions,
    check_results,
    image_result,
    result_line,
)
from zsseg.stages.evaluate.prediction_targets import find_targets
from zsseg.stages.evaluate.predictor import Predictor
from zsseg.stages.evaluate.read_ahead import read_ahead

logger = logging.getLogger(__name__)


def predict_files(
    predictor: Predictor,
    inputs: Sequence[Path],
    out: Path,
    *,
    look: Look = Look(),  # noqa: B008 (frozen)
    progress: Callable[[int, int], None],
) -> Predictions:
    """Write the label map and the overlay of each image; folders keep their sub-folders.

    `photos/a/b.jpg` of the input `photos` gives `out/a/b.png` (palette PNG: pixel = position in
    the classes) and `out/a/b_overlay.png`; `out/classes.json` says what the numbers and colours
    mean, `out/results.jsonl` what was found (`prediction_results`). Of a video see `predict_video`.
    An image that cannot be read, or written under its name, or that is too large for the memory, is
    reported and the rest go on. `progress(done, total)` counts images and frames.

    Raises UserError, before anything is written, for an input that is not there and where a file
    would be written over an input or over another image's.
    """
    targets = find_targets(inputs, out, look)
    check_results(out)
    _write_classes(out, predictor.asked)
    results: list[ImageResult] = []
    failures: list[Failure] = []
    counts = [expected_frames(source) if is_video(source) else 1 for source in targets]
    done = 0
    images = read_ahead(_read, targets)
    with (out / RESULTS).open("wb", buffering=0) as file:
        for image_HW3, (source, stem), count in zip(images, targets.items(), counts, strict=True):
            try:
                for result in _results(predictor, image_HW3, source, stem, look):
                    results.append(result)
                    file.write(result_line(result, out))
                    if result.frame is not None and result.frame < count:
                        progress(done + result.frame, sum(counts))
            except (DatasetError, ResourceError, MemoryError, OSError) as error:
                failures.append(Failure(source, _reason(error, source)))
                file.write(result_line(failures[-1], out))
                logger.warning("%s", failures[-1].reason)
            done += count
            progress(done, sum(counts))
    return Predictions(tuple(results), tuple(failures))


def _read(source: Path) -> NDArray[np.uint8] | DatasetError | MemoryError | None:
    """An image, or the error of one that cannot be read, so that the others are still predicted;
    None for a video, which is read frame by frame."""
    try:
        return None if is_video(source) else read_image(source)
    except (DatasetError, MemoryError) as error:
        return error


def _results(
    predictor: Predictor,
    image_HW3: NDArray[np.uint8] | DatasetError | MemoryError | None,
    source: Path,
    stem: Path,
    look: Look,
) -> Iterator[ImageResult]:
    """Write the files of an image, or of each frame of a video. Raises an error of reading."""
    if isinstance(image_HW3, Exception):
        raise image_HW3
    if image_HW3 is None:
        yield from predict_video(predictor, source, stem, look=look)
        return
    found = predictor.predict(image_HW3, name=str(source))
    yield image_result(source, found, found.write(stem, look))


def _reason(error: Exception, source: Path) -> str:
    """Why an image has no label map; raises an error of the disk that others would meet too."""
    if isinstance(error, OSError):
        if error.errno not in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):
            raise error
        return f"{source}: its label map cannot be written ({error.strerror}). Give it another name"
    if isinstance(error, MemoryError):
        return (
            f"{source}: out of memory. Scale the image down, or use --set evaluate.mode=slide and "
            "evaluate.short_side=512"
        )
    return str(error) if isinstance(error, DatasetError) else f"{source}: {error}"


def _write_classes(out: Path, asked: AskedNames) -> None:
    entries = [
        {"id": i, "name": name, "colour": asked.palette[i].tolist()}
        for i, name in enumerate(asked.classes)
    ]
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(entries, indent=1, ensure_ascii=False)
    write_durably(out / "classes.json", f"{text}\n".encode())
