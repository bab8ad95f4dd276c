"""Checks every file of a split by decoding it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.data.images import read_image
from zsseg.stages.data.label_warning import label_warning
from zsseg.stages.data.labels import UnknownValuesError, read_label
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import VOID, DatasetSpec
from zsseg.stages.data.splits import check_split, list_samples, unpaired_labels
from zsseg.stages.errors import DatasetError
from zsseg.stages.printable import one_line

_BATCH = 64  # samples given to the threads at once; Ctrl-C waits until they are done


Kind = Literal["image", "label", "values", "size", "unlabelled", "label-alone"]
"""What is wrong: an image or a label cannot be read; a label holds unknown values, or has another
size than its image; an image has no label, or a label no image."""


@dataclass(frozen=True)
class FileProblem:
    """What is wrong with one file."""

    path: Path
    reason: str
    kind: Kind
    values: tuple[int, ...] = ()
    """Of kind `values`: those that the description does not know."""


@dataclass(frozen=True)
class VerifyReport:
    """How much a split holds, and every problem in it."""

    samples: int
    unlabelled: int
    """Images without a label; a problem each, unless the description says that there may be."""
    problems: tuple[FileProblem, ...]
    pixels: NDArray[np.int64]
    """(C,) labelled pixels of each class, over all labels that could be read."""
    void: int
    """Labelled pixels without a class."""

    def warning(self, spec: DatasetSpec, split: str) -> str | None:
        """Classes that no label of the split shows, in one line; None where there are none."""
        pixels = self.pixels.tolist()
        classes = range(len(spec.classes))
        return label_warning(spec, split, pixels=pixels, void=self.void, classes=classes)


def verify_split(
    spec: DatasetSpec, root: Path, split: str, *, progress: Callable[[int, int], None]
) -> VerifyReport:
    """Decode every image and label of a split; calls `progress(samples done, samples)`.

    One problem never hides another: missing partners in both directions, files that cannot be read,
    labels of another size than their image, and values outside the encoding are all listed, sorted
    by path. Raises DatasetError only when there is no such split.
    """
    check_split(spec, split)
    samples = list_samples(spec, root, split)
    problems = [
        FileProblem(path, "a label without an image of the same name", "label-alone")
        for path in unpaired_labels(spec, root, split)
    ]
    pixels_V = np.zeros(VOID + 1, dtype=np.int64)
    with ThreadPoolExecutor() as threads:
        for start in range(0, len(samples), _BATCH):
            batch = samples[start : start + _BATCH]
            for found, counts_V in threads.map(lambda sample: _check(spec, sample), batch):
                problems += found
                pixels_V += counts_V
            progress(start + len(batch), len(samples))
    return VerifyReport(
        samples=len(samples),
        unlabelled=sum(sample.label is None for sample in samples),
        problems=tuple(sorted(problems, key=lambda problem: (str(problem.path), problem.reason))),
        pixels=pixels_V[: len(spec.classes)],
        void=int(pixels_V[VOID]),
    )


def _check(spec: DatasetSpec, sample: Sample) -> tuple[list[FileProblem], NDArray[np.int64]]:
    """The problems of one sample, and (256,) its number of pixels of each label value."""
    problems: list[FileProblem] = []
    pixels_V = np.zeros(VOID + 1, dtype=np.int64)
    image_shape = label_shape = None
    try:
        image_shape = read_image(sample.image).shape[:2]
    except DatasetError as error:
        problems.append(file_problem(sample.image, error, "image"))
    if sample.label is None:
        has_labels = spec.patterns is None or spec.patterns.labels is not None
        if has_labels and spec.seen_ids and spec.labelled == "all":
            problems.append(FileProblem(sample.image, "an image without a label", "unlabelled"))
        return problems, pixels_V
    try:
        label_HW = read_label(spec, sample)
        label_shape = label_HW.shape
        pixels_V += np.bincount(label_HW.ravel(), minlength=VOID + 1)
    except UnknownValuesError as error:
        problems.append(file_problem(sample.label, error, "values", values=error.values))
    except DatasetError as error:
        problems.append(file_problem(sample.label, error, "label"))
    if image_shape and label_shape and image_shape != label_shape:
        reason = "the label of '{}' has {} x {} pixels (rows x columns), its image {} x {}".format(
            sample.id, *label_shape, *image_shape
        )
        if image_shape == label_shape[::-1]:
            reason += "; one of them lies on its side (images are turned by their EXIF orientation)"
        problems.append(FileProblem(sample.label, reason, "size"))
    return problems, pixels_V


def file_problem(
    path: Path, error: ValueError, kind: Kind, *, values: tuple[int, ...] = ()
) -> FileProblem:
    """An error about a file as its problem, which names the file by itself."""
    return FileProblem(path, str(error).removeprefix(f"{one_line(path)}: "), kind, values)
