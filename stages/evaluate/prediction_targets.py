"""Which files a prediction reads, and where what it finds is written."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from zsseg.stages.data.folders import is_leftover
from zsseg.stages.data.spec import FolderPatterns
from zsseg.stages.data.video import check_reader, is_video
from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.predict_video import overlay_video
from zsseg.stages.evaluate.prediction import Look, written_files
from zsseg.stages.printable import counted

logger = logging.getLogger(__name__)

_EXTENSIONS = FolderPatterns().image_extensions


def find_targets(inputs: Sequence[Path], out: Path, look: Look) -> dict[Path, Path]:
    """Each image or video to predict -> its output path without ending.

    Raises UserError for an input that is not there, where a file would be written over an input or
    over that of another one, and for a video that cannot be read or drawn so.
    """
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
            if is_video(given):
                _check_video(given, look)
            targets[given] = out / given.stem
        else:
            raise UserError(f"{given}: there is no such image, video or folder. Correct the path")
    _refuse_overwriting(targets, look)
    return targets


def _check_video(path: Path, look: Look) -> None:
    check_reader(path)
    if look.legend:
        raise UserError(
            f"{path}: a legend has another height on each frame, and a video one. Leave --legend "
            "out; the page has the names"
        )


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
            "%s: %s left out, such as %s (%s): not among %s",
            folder,
            counted(len(others), "file is", "files are"),
            others[0].name,
            ", ".join(f"{number} {ending}" for ending, number in sorted(counts.items())),
            " ".join(_EXTENSIONS),
        )
    if videos := [path for path in others if is_video(path)]:
        logger.warning("%s: give a video by its own path, such as %s", folder, videos[0])


def _refuse_overwriting(targets: dict[Path, Path], look: Look) -> None:
    sources = {source.resolve() for source in targets}
    owner: dict[Path, Path] = {}
    for source, stem in targets.items():
        # The frames of a video lie in a folder of their own.
        written = [stem, overlay_video(stem)] if is_video(source) else written_files(stem, look)
        for target in filter(None, written):
            if target.resolve() in sources:
                raise UserError(
                    f"{target} is one of the images to predict and would be written over; "
                    "choose another output folder"
                )
            if target in owner:
                raise _both(owner[target], source, target)
            owner[target] = source
    for source, stem in targets.items():
        if folder := next((each for each in stem.parents if each in owner), None):
            raise _both(owner[folder], source, folder)


def _both(one: Path, other: Path, target: Path) -> UserError:
    return UserError(
        f"{one} and {other} would both be written to {target}; predict them one at a time, each "
        "into its own output folder"
    )
