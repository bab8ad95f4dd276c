"""Writes label maps and overlays of any images.

Legend: C classes, D CLIP width, H W pixels.
"""

import errno
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from zsseg.stages.cache.disk.durable import write_durably
from zsseg.stages.data.folders import is_leftover
from zsseg.stages.data.images import read_image, write_png
from zsseg.stages.data.spec import VOID, FolderPatterns
from zsseg.stages.errors import DatasetError, ResourceError, UserError
from zsseg.stages.evaluate.inference import calibrated, predict_scores, prepared
from zsseg.stages.evaluate.labelling import upsampled_argmax
from zsseg.stages.evaluate.memory import changed_text, first_that_fits
from zsseg.stages.evaluate.overlay import overlay, palette, with_legend
from zsseg.stages.evaluate.read_ahead import read_ahead
from zsseg.stages.evaluate.scorer import Scorer, class_scorer
from zsseg.stages.evaluate.trained_run import TrainedRun
from zsseg.stages.evaluate.vocabulary import checked_names, own_class
from zsseg.stages.train.run_config import EvaluateConfig

logger = logging.getLogger(__name__)

_EXTENSIONS = FolderPatterns().image_extensions


@dataclass(frozen=True)
class Failure:
    """An image without a label map, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Predictions:
    """The label maps that `predict_files` wrote, and the images that have none."""

    labels: tuple[Path, ...]
    failures: tuple[Failure, ...]


def predict_files(
    run: TrainedRun,
    inputs: Sequence[Path],
    out: Path,
    *,
    text_CD: Tensor,
    classes: Sequence[str],
    background: Sequence[str] = (),
    progress: Callable[[int, int], None],
) -> Predictions:
    """Write the label map and the overlay of each image; folders keep their sub-folders.

    `photos/a/b.jpg` of the input `photos` gives `out/a/b.png` (palette PNG: pixel = position in
    `classes`) and `out/a/b_overlay.png`; `out/classes.json` says what the numbers mean. Without
    `background` every pixel gets one of the classes; `background` names what else the images show;
    its pixels become VOID. `text_CD` has the embeddings of `classes`, then of `background`. An
    image that cannot be read, or written under its name, or that is too large for the memory, is
    reported and the rest go on. `progress(done, total)`.

    Raises UserError, before anything is written, for an input that is not there and where a file
    would be written over an input or over another image's.
    """
    names = checked_names(classes)
    everything = checked_names([*names, *background])
    assert len(text_CD) == len(everything)
    targets = _targets(inputs, out)
    colours = palette(len(names))
    _write_classes(out, names, colours)
    own_ids = [own_class(run.spec, name) for name in everything]
    seen_ids = tuple(i for i, own in enumerate(own_ids) if own in run.spec.seen_ids)
    scorer = class_scorer(run.student, text_CD)

    def predict(image_HW3: NDArray[np.uint8], source: Path, stem: Path) -> None:
        label_HW = _label(run, scorer, image_HW3, seen_ids, source)
        label_HW[label_HW >= len(names)] = VOID
        picture_HW3 = overlay(image_HW3, label_HW, colours)
        # The longer name first: where it is too long, nothing is written.
        write_png(_overlay_png(stem), with_legend(picture_HW3, label_HW, colours, names))
        write_png(_png(stem), label_HW, palette=colours)

    written, failures = [], []
    images = read_ahead(_read, targets)
    for done, (image_HW3, (source, stem)) in enumerate(
        zip(images, targets.items(), strict=True), start=1
    ):
        try:
            if isinstance(image_HW3, Exception):
                raise image_HW3
            predict(image_HW3, source, stem)
            written.append(_png(stem))
        except (DatasetError, ResourceError, MemoryError, OSError) as error:
            failures.append(Failure(source, _reason(error, source)))
            logger.warning("%s", failures[-1].reason)
        progress(done, len(targets))
    return Predictions(tuple(written), tuple(failures))


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


def _label(
    run: TrainedRun,
    scorer: Scorer,
    image_HW3: NDArray[np.uint8],
    seen_ids: Sequence[int],
    source: Path,
) -> NDArray[np.uint8]:
    """(H, W) the best of all names at each pixel, by settings that fit the memory."""

    def make(config: EvaluateConfig) -> NDArray[np.uint8]:
        image_3HW = prepared(image_HW3, config=config, stride=run.stride)
        score_Chw = predict_scores(scorer, image_3HW, config=config, stride=run.stride)
        lowered_Chw = calibrated(score_Chw, config.calibration, seen_ids=seen_ids)
        return upsampled_argmax(lowered_Chw, image_HW3.shape[:2])

    label_HW, used = first_that_fits(make, run.evaluate, fixed=run.fixed)
    if used != run.evaluate:
        logger.warning("%s: %s", source, changed_text(run.evaluate, used, "predicted"))
    return label_HW


def _png(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.png")


def _overlay_png(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}_overlay.png")


def _targets(inputs: Sequence[Path], out: Path) -> dict[Path, Path]:
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
    _refuse_overwriting(targets)
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


def _refuse_overwriting(targets: dict[Path, Path]) -> None:
    sources = {source.resolve() for source in targets}
    owner: dict[Path, Path] = {}
    for source, stem in targets.items():
        for target in (_png(stem), _overlay_png(stem)):
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


def _write_classes(out: Path, names: Sequence[str], colours: NDArray[np.uint8]) -> None:
    entries = [
        {"id": i, "name": name, "colour": colours[i].tolist()} for i, name in enumerate(names)
    ]
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(entries, indent=1, ensure_ascii=False)
    write_durably(out / "classes.json", f"{text}\n".encode())
