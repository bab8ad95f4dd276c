"""Some images of a split with their true labels, the teacher's and the student's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from zsseg.pipeline.named_stores import teacher_store
from zsseg.pipeline.report.shown_cost import Cost, student_cost, teacher_cost
from zsseg.pipeline.report.shown_teacher import StoredTeacher, stored_teacher
from zsseg.pipeline.report.training_images import TrainingImages, training_images
from zsseg.stages.cache.disk.store_path import store_path
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.images import read_image
from zsseg.stages.data.labels import read_label
from zsseg.stages.data.spec import VOID
from zsseg.stages.data.splits import list_samples
from zsseg.stages.errors import CacheError, DatasetError, ResourceError
from zsseg.stages.evaluate.evaluation import student_label
from zsseg.stages.evaluate.trained_run import TrainedRun, load_run

SHOWN = 6
_LABELLED = 24
"""Images that are labelled to find the best and the worst of them."""


@dataclass(frozen=True)
class ReportImage:
    """An image with what a student made of it."""

    id: str
    image_HW3: NDArray[np.uint8]
    label_HW: NDArray[np.uint8]
    truth_HW: NDArray[np.uint8] | None
    """None: the image has no label."""
    teacher_HW: NDArray[np.uint8] | None = None
    """None: no store has the teacher's tokens of this image."""

    @property
    def right(self) -> float:
        """Share of the labelled pixels that are right; NaN without any."""
        if self.truth_HW is None or not (known_HW := self.truth_HW != VOID).any():
            return float("nan")
        return float((self.label_HW == self.truth_HW)[known_HW].mean())


@dataclass(frozen=True)
class Gallery:
    """Images of a run, the best first."""

    first: ReportImage
    """The first that was labelled, whatever it scores."""
    images: Sequence[ReportImage]
    how: str
    """In words: how they were taken."""
    teacher: str | None = None
    """In words: what the teacher's labels are from."""
    cost: Cost | None = None
    """Of the student."""
    teacher_cost: Cost | None = None
    training: TrainingImages | None = None


def shown_images(
    run: Path, root: Path | None, split: str, *, progress: Callable[[int, int], None]
) -> Gallery:
    """Up to SHOWN images of a split, without gamma, and a few that the run was trained on.

    The best and the worst three, by the share of right pixels, of up to 24 that are spread evenly
    over the split. Raises DatasetError where the data set is not there.
    """
    student = load_run(run)
    student = replace(student, evaluate=student.evaluate.model_copy(update={"calibration": 0.0}))
    spec, folder = student.spec, root or student.record.root
    samples = list_samples(spec, folder, split)
    chosen = samples[:: max(1, len(samples) // _LABELLED)][:_LABELLED]
    teacher = stored_teacher(teacher_store(student.record.store, split))
    found, seconds = [], []
    for done, sample in enumerate(chosen, start=1):
        image_HW3 = read_image(sample.image)
        truth_HW = None if sample.label is None else read_label(spec, sample)
        start = perf_counter()
        label_HW = student_label(student, image_HW3)
        seconds.append(perf_counter() - start)
        named_HW = None if teacher is None else teacher.label(sample.id, label_HW.shape)
        found.append(ReportImage(sample.id, image_HW3, label_HW, truth_HW, named_HW))
        progress(done, len(chosen))
    trained_on = _own_teacher(student)
    measured = teacher or trained_on
    return replace(
        _chosen(found, f"{len(samples)} images of '{split}', spread evenly"),
        teacher=None if teacher is None else teacher.source,
        cost=student_cost(student, seconds),
        teacher_cost=None if measured is None else teacher_cost(measured.store),
        training=None if trained_on is None else _training(student, trained_on, folder),
    )


def _own_teacher(student: TrainedRun) -> StoredTeacher | None:
    """The teacher of the store that the run was trained from; None where it is gone."""
    try:
        return stored_teacher(Store.open(store_path(student.record.store)))
    except (CacheError, ResourceError):
        return None


def _training(student: TrainedRun, teacher: StoredTeacher, root: Path) -> TrainingImages | None:
    try:
        return training_images(student, teacher, root)
    except DatasetError:  # the data set that is scored may be another one
        return None


def _chosen(found: Sequence[ReportImage], of: str) -> Gallery:
    """The best and the worst of those with labels; without labels a few of all."""
    known = [each for each in found if not np.isnan(each.right)]
    if not known:
        few = found[:: max(1, len(found) // SHOWN)][:SHOWN]
        return Gallery(found[0], few, f"{len(few)} of {of}")
    known = sorted(known, key=lambda each: -each.right)
    half = SHOWN // 2
    few = known if len(known) <= SHOWN else [*known[:half], *known[-half:]]
    how = "the best and the worst by the share of right pixels" if len(known) > SHOWN else "all"
    return Gallery(found[0], few, f"{how} of {len(known)} of the {of}")
