"""Some images of a split with their true labels and the student's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.data.images import read_image
from zsseg.stages.data.labels import read_label
from zsseg.stages.data.spec import VOID
from zsseg.stages.data.splits import list_samples
from zsseg.stages.evaluate.evaluation import student_label
from zsseg.stages.evaluate.trained_run import load_run

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


def shown_images(
    run: Path, root: Path | None, split: str, *, progress: Callable[[int, int], None]
) -> Gallery:
    """Up to SHOWN images of a split.

    The best and the worst three, by the share of right pixels, of up to 24 that are spread evenly
    over the split. Raises DatasetError where the data set is not there.
    """
    student = load_run(run)
    spec = student.spec
    samples = list_samples(spec, root or student.record.root, split)
    chosen = samples[:: max(1, len(samples) // _LABELLED)][:_LABELLED]
    found = []
    for done, sample in enumerate(chosen, start=1):
        image_HW3 = read_image(sample.image)
        truth_HW = None if sample.label is None else read_label(spec, sample)
        label_HW = student_label(student, image_HW3)
        found.append(ReportImage(sample.id, image_HW3, label_HW, truth_HW))
        progress(done, len(chosen))
    known = [each for each in found if not np.isnan(each.right)]
    if not known:
        few = found[:: max(1, len(found) // SHOWN)][:SHOWN]
        how = f"{len(few)} of {len(samples)} images of '{split}', spread evenly"
        return Gallery(found[0], few, how)
    known = sorted(known, key=lambda each: -each.right)
    half = SHOWN // 2
    few = known if len(known) <= SHOWN else [*known[:half], *known[-half:]]
    how = "the best and the worst by the share of right pixels" if len(known) > SHOWN else "all"
    of = f"{len(known)} of the {len(samples)} images of '{split}', spread evenly"
    return Gallery(found[0], few, f"{how} of {of}")
