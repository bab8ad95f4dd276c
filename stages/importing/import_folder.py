"""Makes a data set of a folder: images and labels in the layout of a description, as links.

Nothing is written into the user's folder. The new folder holds a link to each image (a copy where
the system makes no links) and its label, linked where it can be read as it is, else converted.
"""

import itertools
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.data.class_names import normal_form
from zsseg.stages.data.dataset_check import FileProblem, file_problem
from zsseg.stages.data.images import image_size, read_raw_label, write_png
from zsseg.stages.data.spec import VOID, load_spec
from zsseg.stages.data.splits import splits
from zsseg.stages.errors import DatasetError
from zsseg.stages.importing.annotated import Findings, LabelMaker, check_size
from zsseg.stages.importing.class_list import ClassList, class_list
from zsseg.stages.importing.held_out import splits_of
from zsseg.stages.importing.readers import read_labels
from zsseg.stages.importing.sources import Sources, find_sources
from zsseg.stages.printable import counted
from zsseg.stages.yaml_files import builtin_names

Progress = Callable[[int, int], None]

_BATCH = 32  # images given to the threads at once; Ctrl-C waits until they are done
_EXTENSIONS = {".jpe": ".jpg", ".jfif": ".jpg", ".gif": ".png"}
"""What a description reads is called so; a file is recognised by what it holds."""


@dataclass(frozen=True)
class ImportRequest:
    """What to import, and where to."""

    root: Path
    folder: Path
    """The new folder; it must not be there yet."""
    labels: Path | None = None
    names: tuple[str, ...] = ()
    """Classes that the user names; those without a labelled pixel are unseen."""
    seed: int = 0


@dataclass(frozen=True)
class ImportedFolder:
    """The data set that was made, as its description says it."""

    form: str | None
    """Of the labels; None where there are none."""
    names: ClassList
    encoding: Mapping[int, int] | None
    ignore: tuple[int, ...]
    splits: Mapping[str, tuple[int, int]]
    """Split -> its images, and those of them with a label."""
    from_folders: bool
    """Do the folders of the images say their splits? Otherwise some were held out by chance."""
    pixels: NDArray[np.int64]
    """(C + 1,) labelled pixels of each class, and without one."""
    doubts: tuple[str, ...]
    problems: tuple[FileProblem, ...] = ()
    """Files that are left out."""


@dataclass(frozen=True)
class _Label:
    """What became of the label of one image."""

    made: Path | None = None
    """A converted label; else the file itself is linked."""
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(VOID + 1, dtype=np.int64))
    problem: FileProblem | None = None


def import_folder(request: ImportRequest, *, progress: Progress) -> ImportedFolder:
    """Make the data set; calls `progress(files done, files)`, images and then labels.

    Raises DatasetError where there are no images, or neither labels nor names of classes.
    """
    if request.folder.exists():
        raise DatasetError(
            f"{request.folder}: is there already, and is not overwritten. Remove it, or give "
            "another --out"
        )
    sources = find_sources(request.root, request.labels)
    findings, doubts = read_labels(sources, request.names)
    if findings is None and len(request.names) < 2:
        raise DatasetError(
            f"{request.labels or request.root}: no labels were found, so the classes are not "
            'known. Name them, two or more: --classes "road, car, sky"',
            *doubts,
        )
    work = request.folder.with_name(f"{request.folder.name}.partial")
    shutil.rmtree(work, ignore_errors=True)  # of a killed process; it holds links and labels
    try:
        imported = _import(request, sources.images, findings, work, progress)
        work.rename(request.folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    told = (*_known(request.root), *doubts, *_left_out(sources), *imported.doubts)
    return replace(imported, doubts=told)


def _import(
    request: ImportRequest,
    images: Sequence[Path],
    findings: Findings | None,
    work: Path,
    progress: Progress,
) -> ImportedFolder:
    steps = len(images) + (findings.count if findings else 0)
    sizes, problems = _sizes(images, lambda done: progress(done, steps))
    if not sizes:
        raise DatasetError(
            f"{request.root}: no image in it can be read. Replace them, such as {problems[0].path}"
        )
    labels: dict[Path, _Label] = {}
    if findings:
        for number, (image, label) in enumerate(_labels(findings, sizes, work / "made")):
            progress(len(images) + number, steps)
            if label.problem:
                problems.append(label.problem)
            else:
                labels[image] = label
    progress(steps, steps)
    total_V = sum((label.counts for label in labels.values()), np.zeros(VOID + 1, dtype=np.int64))
    used = findings if labels else None
    named = class_list(used.classes if used else (), request.names, pixels=total_V[:VOID].tolist())
    shown = {i: np.flatnonzero(label.counts[:VOID]).tolist() for i, label in labels.items()}
    split_of, from_folders = splits_of([*sizes], shown, request.root, seed=request.seed)
    split_of, doubts = _labelled_splits(split_of, labels)
    names = _ids(split_of)
    for image, split in split_of.items():
        ending = _EXTENSIONS.get(image.suffix.lower(), image.suffix.lower())
        _link(image, work / "images" / split / f"{names[image]}{ending}")
        if image in labels:
            target = work / "labels" / split / f"{names[image]}.png"
            if (made := labels[image].made) is None:
                assert findings is not None
                _link(findings.files[image], target)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                made.rename(target)
    shutil.rmtree(work / "made", ignore_errors=True)
    return ImportedFolder(
        form=used.form if used else None,
        names=named,
        encoding=used.encoding if used else None,
        ignore=used.ignore if used else (VOID,),
        splits=_counts(split_of, labels),
        from_folders=from_folders,
        pixels=np.append(total_V[: len(named.classes)], total_V[VOID]),
        doubts=(*(findings.doubts if findings else ()), *doubts),
        problems=tuple(problems),
    )


def _sizes(
    images: Sequence[Path], progress: Callable[[int], None]
) -> tuple[dict[Path, tuple[int, int]], list[FileProblem]]:
    """(H, W) of each image that can be read."""
    sizes: dict[Path, tuple[int, int]] = {}
    problems = []

    def size(path: Path) -> tuple[int, int] | FileProblem:
        try:
            return image_size(path)
        except DatasetError as error:
            return file_problem(path, error, "image")

    with ThreadPoolExecutor() as threads:
        for start in range(0, len(images), _BATCH):
            batch = images[start : start + _BATCH]
            for path, found in zip(batch, threads.map(size, batch), strict=True):
                if isinstance(found, FileProblem):
                    problems.append(found)
                else:
                    sizes[path] = found
            progress(start + len(batch))
    return sizes, problems


def _labels(
    findings: Findings, sizes: Mapping[Path, tuple[int, int]], made: Path
) -> Iterator[tuple[Path, _Label]]:
    """The label of each image, converted into `made` where it must be."""
    images = [i for i in sizes if i in findings.files or i in findings.makers]

    def one(number: int) -> _Label:
        image = images[number]
        file = findings.files.get(image)
        try:
            if file:
                return _as_it_is(file, findings.encoding or {}, sizes[image])
            return _converted(findings.makers[image], sizes[image], made / f"{number}.png")
        except (DatasetError, ValueError) as error:
            found = file_problem(file or image, error, "label")
            reason = f"its label is not used: {found.reason}"
            return _Label(problem=replace(found, reason=reason))

    with ThreadPoolExecutor() as threads:
        for start in range(0, len(images), _BATCH):
            numbers = range(start, min(start + _BATCH, len(images)))
            for number, label in zip(numbers, threads.map(one, numbers), strict=True):
                yield images[number], label


def _converted(make: LabelMaker, size: tuple[int, int], target: Path) -> _Label:
    label_HW = make(size)
    write_png(target, label_HW)
    return _Label(target, np.bincount(label_HW.ravel(), minlength=VOID + 1))


def _as_it_is(file: Path, encoding: Mapping[int, int], size: tuple[int, int]) -> _Label:
    raw_HW = read_raw_label(file)
    check_size(raw_HW.shape, size)
    counts_V = np.zeros(VOID + 1, dtype=np.int64)
    values = zip(*(each.tolist() for each in np.unique(raw_HW, return_counts=True)), strict=True)
    for value, count in values:
        counts_V[encoding.get(value, VOID)] += count
    return _Label(counts=counts_V)


def _labelled_splits(
    split_of: Mapping[Path, str], labels: Mapping[Path, _Label]
) -> tuple[dict[Path, str], list[str]]:
    """Without splits that have no label where others do: they can be neither used nor scored."""
    with_label = {split_of[image] for image in labels}
    if not with_label:
        return dict(split_of), []
    kept = {image: split for image, split in split_of.items() if split in with_label}
    dropped = Counter(split for image, split in split_of.items() if image not in kept)
    return kept, [
        f"{count} images of '{split}' have no label among them and are left out; `zsseg predict` "
        "takes them as a folder."
        for split, count in sorted(dropped.items())
    ]


def _ids(images: Mapping[Path, str]) -> dict[Path, str]:
    """A name for each image: its path below the folder of all of them, without extension.

    Images that differ in their extension only keep it as a part of their name; where another image
    is called so, a number follows. No two names differ in capitals or Unicode's form alone.
    """
    top = os.path.commonpath([image.parent for image in images])
    stems = {image: image.relative_to(top).with_suffix("").as_posix() for image in images}
    count = Counter(normal_form(stem) for stem in stems.values())
    taken = {form for form, number in count.items() if number == 1}
    ids = {}
    for image, stem in stems.items():
        ids[image] = stem
        if count[normal_form(stem)] > 1:
            name = f"{stem}_{image.suffix[1:]}"
            tries = chain([name], (f"{name}_{number}" for number in itertools.count(2)))
            ids[image] = next(each for each in tries if normal_form(each) not in taken)
            taken.add(normal_form(ids[image]))
    return ids


def _link(file: Path, target: Path) -> None:
    """A link to a file; a second name of it or a copy where the system makes none.

    Raises DatasetError where something is there: a copy would go through a link into its file.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(target):
        raise DatasetError(
            f"{file}: two images would be called {target.name}. Rename one, and run this again"
        )
    for make in (os.symlink, os.link):
        with suppress(OSError, NotImplementedError):
            make(file.resolve(), target)
            return
    shutil.copy2(file, target)


def _counts(
    split_of: Mapping[Path, str], labels: Mapping[Path, _Label]
) -> dict[str, tuple[int, int]]:
    images = Counter(split_of.values())
    labelled = Counter(split for image, split in split_of.items() if image in labels)
    return {split: (images[split], labelled[split]) for split in sorted(images)}


def _known(root: Path) -> list[str]:
    """That a folder is laid out like a built-in data set, where it is."""
    layouts: dict[str, str] = {}
    for name in builtin_names("datasets"):
        spec = load_spec(name)
        with suppress(DatasetError, OSError):
            if spec.layout != "folder" and splits(spec, root):
                layouts.setdefault(spec.layout, name)
    return [
        f"This folder is laid out like the built-in data set `{name}`, which needs no init: "
        f"`zsseg dataset verify {name} --root {root}`."
        for name in sorted(layouts.values())
    ]


def _left_out(sources: Sources) -> list[str]:
    told = [
        f"{counted(count, 'file')} {extension} left out: convert to JPEG or PNG."
        for extension, count in sorted(sources.left_out.items())
    ]
    if sources.lone:
        told.append(
            f"{counted(len(sources.lone), 'picture')} left out that look like labels and belong to "
            f"no image by their names, such as {sources.lone[0]}."
        )
    return told
