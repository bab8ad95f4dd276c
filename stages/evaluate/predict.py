"""Writes label maps and overlays of any images.

Legend: H W pixels.
"""

import errno
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.cache.disk.durable import write_durably
from zsseg.stages.data.folders import is_leftover
from zsseg.stages.data.images import read_image
from zsseg.stages.data.spec import FolderPatterns
from zsseg.stages.errors import DatasetError, ResourceError, UserError
from zsseg.stages.evaluate.asked_names import AskedNames
from zsseg.stages.evaluate.prediction import Look, written_files
from zsseg.stages.evaluate.prediction_results import (
    RESULTS,
    Failure,
    ImageResult,
    Predictions,
    check_results,
    image_result,
    result_line,
)
from zsseg.stages.evaluate.predictor import Predictor
from zsseg.stages.evaluate.read_ahead import read_ahead

logger = logging.getLogger(__name__)

_EXTENSIONS = FolderPatterns().image_extensions


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
    mean, `out/results.jsonl` what was found (`prediction_results`). An image that cannot be read,
    or written under its name, or that is too large for the memory, is reported and the rest go on.
    `progress(done, total)`.

    Raises UserError, before anything is written, for an input that is not there and where a file
    would be written over an input or over another image's.
    """
    targets = _targets(inputs, out, look)
    check_results(out)
    _write_classes(out, predictor.asked)
    results: list[ImageResult] = []
    failures: list[Failure] = []
    images = read_ahead(_read, targets)
    with (out / RESULTS).open("wb", buffering=0) as file:
        for done, (image_HW3, (source, stem)) in enumerate(
            zip(images, targets.items(), strict=True), start=1
        ):
            try:
                if isinstance(image_HW3, Exception):
                    raise image_HW3
                found = predictor.predict(image_HW3, name=str(source))
                results.append(image_result(source, found, found.write(stem, look)))
                file.write(result_line(results[-1], out))
            except (DatasetError, ResourceError, MemoryError, OSError) as error:
                failures.append(Failure(source, _reason(error, source)))
                file.write(result_line(failures[-1], out))
                logger.warning("%s", failures[-1].reason)
            progress(done, len(targets))
    return Predictions(tuple(results), tuple(failures))


def _read(source: Path) -> NDArray[np.uint8] | DatasetError | MemoryError:
    """An image, or the error of one that cannot be read, so that the others are still predicted."""
    try:
        return read_image(source)
    except (DatasetError, MemoryError) as error:
        return error


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


def _targets(inputs: Sequence[Path], out: Path, look: Look) -> dict[Path, Path]:
    """Each image to predict -> its output path without suffix."""
    targets: dict[Path, Path] = {}
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file. Give --out a folder, which may be a new one")
    if out.resolve() in {given.resolve() for given in inputs}:
        raise UserError(f"{out} is both input and output; choose another output folder")
    for given in inputs:
        if given.is_dir():
            # An output folder inside the input folder holds earlier predictions, no images.
            files = [
                path
                for path in _files_below(given)
                if not path.resolve().is_relative_to(out.resolve())
            ]
            found = [path for path in files if path.suffix.lower() in _EXTENSIONS]
            _tell_of_others(
                given, [path for path in files if path.suffix.lower() not in _EXTENSIONS]
            )
            if not found:
                raise UserError(
                    f"{given}: no image below this folder. Give one that holds "
                    f"{', '.join(_EXTENSIONS)}, or single images"
                )
            targets |= {path: out / path.relative_to(given).with_suffix("") for path in found}
        elif given.is_file():
            targets[given] = out / given.stem
        else:
            raise UserError(f"{given}: there is no such image or folder. Correct the path")
    _refuse_overwriting(targets, look)
    return targets


def _files_below(folder: Path) -> list[Path]:
    """All files, sorted, but for leftovers of systems and tools: ._photo.jpg, Thumbs.db."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not is_leftover(path.relative_to(folder).as_posix())
    )


def _tell_of_others(folder: Path, others: Sequence[Path]) -> None:
    """Warn of the files of a folder that are not taken for images, with their endings."""
    if others:
        counts = Counter(path.suffix.lower() or "without ending" for path in others)
        logger.warning(
            "%s: %d files are left out, such as %s (%s): not among %s",
            folder,
            len(others),
            others[0].name,
            ", ".join(f"{number} {ending}" for ending, number in sorted(counts.items())),
            " ".join(_EXTENSIONS),
        )


def _refuse_overwriting(targets: dict[Path, Path], look: Look) -> None:
    sources = {source.resolve() for source in targets}
    owner: dict[Path, Path] = {}
    for source, stem in targets.items():
        for target in filter(None, written_files(stem, look)):
            if target.resolve() in sources:
                raise UserError(
                    f"{target} is one of the images to predict and would be written over; "
                    "choose another output folder"
                )
            if target in owner:
                raise UserError(
                    f"{owner[target]} and {source} would both be written to {target}; "
                    "predict them one at a time, each into its own output folder"
                )
            owner[target] = source


def _write_classes(out: Path, asked: AskedNames) -> None:
    entries = [
        {"id": i, "name": name, "colour": asked.palette[i].tolist()}
        for i, name in enumerate(asked.classes)
    ]
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(entries, indent=1, ensure_ascii=False)
    write_durably(out / "classes.json", f"{text}\n".encode())
