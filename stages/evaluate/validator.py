"""What scores a student while it trains: on held-out images with labels, or beside the teacher.

Labels are read as training reads them: a pixel of an unseen class is void, so that no label of one
chooses a checkpoint or ends a run. In the inductive protocol only seen classes compete for pixels,
as training may not know the names of the others either. Only `validation.unseen` looks at all.

Where no class has labels, the student is compared with the teacher's labels of images that it is
trained on; as it can be better than its teacher, that chooses nothing.

Legend: C classes, h w positions of the scores, H W pixels.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsseg.stages.cache.format.codec import DENSE, stored_format
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.held_out_split import held_out_split, labelled_samples
from zsseg.stages.data.images import read_image, resize_image
from zsseg.stages.data.labels import read_label
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.data.visible import read_visible_label
from zsseg.stages.errors import DatasetError, UserError
from zsseg.stages.evaluate.colours import name_colours
from zsseg.stages.evaluate.evaluation import confusions
from zsseg.stages.evaluate.inference import calibrated
from zsseg.stages.evaluate.labelling import upsampled_argmax
from zsseg.stages.evaluate.memory import FittingScorer, PreparedImage
from zsseg.stages.evaluate.metrics import Scores, scores
from zsseg.stages.evaluate.overlay import overlay
from zsseg.stages.evaluate.teacher_evaluation import PIXEL_NAMES, named_scores, teacher_label
from zsseg.stages.evaluate.trained_run import TrainedRun
from zsseg.stages.printable import counted
from zsseg.stages.train.batches.training_data import TrainingData
from zsseg.stages.train.processes import processes, sum_in_place
from zsseg.stages.train.run.run_folder import RunRecord
from zsseg.stages.train.students.student import Student, feature_stride
from zsseg.stages.train.validation import ValidationScores, Validator

logger = logging.getLogger(__name__)

_PICTURE_SIDE = 320
"""Pixels of the longer side of an image in a picture."""
_NO_CHANCE = -1e3
"""A score below every cosine, also after gamma."""

ReadLabel = Callable[[Sample], NDArray[np.uint8]]


@dataclass(frozen=True)
class _Ways:
    """How a student is scored."""

    read_label: ReadLabel
    """(H, W) what the student's labels are compared with."""
    named: Callable[[Scores], Mapping[str, float]]
    """The scores that are told, by name."""
    classes: Sequence[int]
    """Ids of the classes whose IoU is told."""
    competing: Sequence[int]
    """Ids of the classes that may win a pixel."""


class StudentValidator:
    """Scores a student on the same samples every time: a `Validator`."""

    def __init__(
        self,
        run: Callable[[Student, int], TrainedRun],
        samples: Sequence[Sample],
        ways: _Ways,
        *,
        chooses_by: str | None,
        about: str,
    ) -> None:
        self.chooses_by, self.about = chooses_by, about
        self._run, self._samples, self._ways = run, samples, ways
        self._unreadable: set[str] = set()

    def __call__(self, student: Student, step: int) -> ValidationScores:
        """The scores, of all processes together. A file that cannot be read is left out."""
        run = self._run(student, step)
        scorer, spec = FittingScorer(run), run.spec
        images = torch.zeros(1, dtype=torch.int64)

        def read(sample: Sample) -> tuple[NDArray[np.uint8], PreparedImage | None]:
            if (pair := self._read(sample)) is None:
                return np.zeros((0, 0), np.uint8), None
            image_HW3, label_HW = pair
            return label_HW, scorer.prepare(sample, image_HW3)

        def score(given: PreparedImage | None) -> Tensor | None:
            score_Chw = None if given is None else self._competing(scorer(given), spec)
            images.add_(score_Chw is not None)
            return score_Chw

        gammas = (run.evaluate.calibration,)
        (counts_CC,) = confusions(spec, self._samples, read, score, gammas, lambda *_: None)
        sum_in_place([images])
        found = scores(counts_CC, spec.unseen_ids)
        if not images:
            logger.warning("validation of step %d: no image could be scored", step)
        return ValidationScores(
            scores=self._ways.named(found),
            iou={spec.classes[i]: found.iou[i] for i in self._ways.classes},
            images=int(images),
            pictures=self._pictures(run) if processes()[0] == 0 else {},
        )

    def _competing(self, score_Chw: Tensor | None, spec: DatasetSpec) -> Tensor | None:
        """The scores without a chance for classes that must not be known."""
        if score_Chw is None or len(self._ways.competing) == len(spec.classes):
            return score_Chw
        lowered_Chw = torch.full_like(score_Chw, _NO_CHANCE)
        known = list(self._ways.competing)
        lowered_Chw[known] = score_Chw[known]
        return lowered_Chw

    def _read(self, sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
        """Image and label; None, which is told once, where they cannot be read."""
        try:
            return read_image(sample.image), self._ways.read_label(sample)
        except DatasetError as error:
            if sample.id not in self._unreadable:
                logger.warning("validation: left out: %s", error)
            self._unreadable.add(sample.id)
            return None

    def _pictures(self, run: TrainedRun) -> dict[str, NDArray[np.uint8]]:
        """Image, prediction and label of a few of the samples, always the same ones."""
        scorer, spec = FittingScorer(run), run.spec
        palette = name_colours(spec.classes, spec)
        pictures = {}
        for sample in spread(self._samples, run.record.config.validation.pictures):
            if (pair := self._read(sample)) is None:
                continue
            image_HW3, label_HW = pair
            score_Chw = self._competing(scorer(scorer.prepare(sample, image_HW3)), spec)
            if score_Chw is None:
                continue
            lowered_Chw = calibrated(score_Chw, run.evaluate.calibration, seen_ids=spec.seen_ids)
            found_HW = upsampled_argmax(lowered_Chw, image_HW3.shape[:2])
            shown = [image_HW3, overlay(image_HW3, found_HW, palette, alpha=0.6)]
            if label_HW.shape == found_HW.shape:
                shown.append(overlay(image_HW3, label_HW, palette, alpha=0.6))
            factor = min(1.0, _PICTURE_SIDE / max(image_HW3.shape[:2]))
            rows, columns = (max(1, round(side * factor)) for side in image_HW3.shape[:2])
            small = [resize_image(each, (rows, columns)) for each in shown]
            pictures[sample.id] = np.concatenate(small, axis=1)
        return pictures


def make_validator(
    record: RunRecord, data: TrainingData, out: Path, text_CD: Tensor
) -> Validator | None:
    """The validator that a run's settings ask for; None where there is nothing to validate on.

    `text_CD`: embeddings of the classes, on the student's device. What is validated, or why nothing
    is, is logged in one line. Raises UserError for a split that is trained on, or is not there.
    """
    spec = data.spec

    def run(student: Student, step: int) -> TrainedRun:
        return TrainedRun(
            path=out,
            record=record,
            evaluate=record.config.evaluate,
            student=student,
            step=step,
            stride=feature_stride(student),
            text_CD=text_CD,
            names=spec.prompt_names,
        )

    if spec.seen_ids or record.config.validation.unseen:
        return _by_labels(record, data, run)
    return _beside_teacher(record, data, run, text_CD)


def _by_labels(
    record: RunRecord, data: TrainingData, run: Callable[[Student, int], TrainedRun]
) -> Validator | None:
    config, spec = record.config.validation, data.spec
    name, samples = _validated_split(record, data)
    if not samples:
        _tell(f"nothing is validated, because {name}")
        return None
    chosen = spread(samples, config.images or len(samples))
    groups = bool(spec.seen_ids and spec.unseen_ids)
    kind = "all" if config.unseen else "seen" if groups else None
    ways, best = _ways(spec, kind, inductive=record.config.protocol == "inductive")
    of = f"{counted(len(chosen), 'image')} of '{name}'"
    which = {None: "labels", "seen": "labels of seen classes", "all": "labels of ALL classes"}[kind]
    about = f"{which}, {of}"
    if kind == "all" and spec.unseen_ids:
        logger.warning(
            "validation: looks at labels of unseen classes (validation.unseen). What this run "
            "chooses by them is no zero-shot result; its record and its reports say so"
        )
    _tell(f"by {about}, every {counted(config.every, 'step')}; the best {best} is kept")
    return StudentValidator(run, chosen, ways, chooses_by=best, about=about)


def _ways(spec: DatasetSpec, kind: str | None, *, inductive: bool) -> tuple[_Ways, str]:
    """How labels are looked at, and the score that chooses."""
    every = range(len(spec.classes))
    if kind == "seen":
        ways = _Ways(
            read_label=lambda sample: read_visible_label(spec, sample),
            named=lambda found: {"seen_mIoU": found.siou, "seen_pAcc": found.pacc},
            classes=spec.seen_ids,
            competing=spec.seen_ids if inductive else every,
        )
        return ways, "seen_mIoU"
    groups = bool(spec.seen_ids and spec.unseen_ids)
    names = ("hIoU", "sIoU", "uIoU", "mIoU", "pAcc") if groups else ("mIoU", "pAcc")
    ways = _Ways(
        read_label=lambda sample: read_label(spec, sample),
        named=lambda found: {name: found.means[name] for name in names},
        classes=every,
        competing=every,
    )
    return ways, names[0]


def _validated_split(record: RunRecord, data: TrainingData) -> tuple[str, Sequence[Sample]]:
    """The split and its images with labels; without any, why there are none."""
    _, spec, root = data
    if (name := record.config.validation.split) is not None:
        if name == record.split:
            raise UserError(
                f"validation.split: '{name}' is what the run learns from. Give another split"
            )
        if not (samples := labelled_samples(spec, root, name)):
            raise UserError(
                f"validation.split: no image of '{name}' in {root} has a label, or there is no "
                "such split. Give one that has (`zsseg dataset verify` counts them)"
            )
        return name, samples
    try:
        found = held_out_split(spec, root)
    except DatasetError as error:
        return str(error).splitlines()[0], ()
    if found is None or found.name == record.split:
        return f"no split of '{spec.name}' is held out of training and has labels", ()
    return found.name, found.samples


def _beside_teacher(
    record: RunRecord,
    data: TrainingData,
    run: Callable[[Student, int], TrainedRun],
    text_CD: Tensor,
) -> Validator | None:
    """Agreement with the teacher on images of the store."""
    store, spec, root = data
    has_map = store.has(PIXEL_NAMES)
    dense = store.has(DENSE) and stored_format(store.recipes.get(DENSE, {})) != "none"
    if not (has_map or dense):
        _tell("nothing is validated: no class has labels, and the store no names of the teacher")
        return None
    config, failed_N = record.config.validation, store.read_all("status") != 0
    entries = [each for each in store.index if not failed_N[each["row"]]]
    row_of = {str(each["id"]): int(each["row"]) for each in entries}
    samples = [Sample(str(each["id"]), root / str(each["image"]), None) for each in entries]
    chosen = spread(samples, config.images or len(samples))
    text_CD = text_CD.cpu()

    def read_teacher(sample: Sample) -> NDArray[np.uint8]:
        size = read_image(sample.image).shape[:2]
        return _teacher_names(store, row_of[sample.id], text_CD, size, has_map=has_map)

    every = range(len(spec.classes))
    ways = _Ways(
        read_label=read_teacher,
        named=lambda found: {"teacher_pAcc": found.pacc, "teacher_mIoU": found.miou},
        classes=every,
        competing=every,
    )
    about = f"agreement with the teacher, {counted(len(chosen), 'image')} that are trained on"
    waits = "; patience has nothing to go by" if config.patience else ""
    _tell(f"no class has labels: {about}, which chooses no checkpoint{waits}")
    return StudentValidator(run, chosen, ways, chooses_by=None, about=about)


def _teacher_names(
    store: Store, row: int, text_CD: Tensor, size: tuple[int, ...], *, has_map: bool
) -> NDArray[np.uint8]:
    """(H, W) the teacher's labels of an image: by its map of names, else by its dense tokens."""
    if has_map:
        return upsampled_argmax(named_scores(store.read(PIXEL_NAMES, row), len(text_CD)), size)
    return teacher_label(store.read(DENSE, row), text_CD, size)


def spread(samples: Sequence[Sample], number: int) -> list[Sample]:
    """At most so many of the samples, evenly over all of them."""
    if number >= len(samples):
        return list(samples)
    return [samples[place * len(samples) // number] for place in range(number)]


def _tell(line: str) -> None:
    if processes()[0] == 0:
        logger.info("validation: %s", line)
