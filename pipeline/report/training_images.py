"""A few training images with their visible labels and the pseudo labels of the rest.

Legend: C classes, H W pixels, h w positions of the student's scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsseg.pipeline.report.shown_teacher import StoredTeacher
from zsseg.stages.cache.format.codec import DENSE
from zsseg.stages.data.images import read_image
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import VOID
from zsseg.stages.data.splits import training_samples
from zsseg.stages.data.visible import read_visible_label
from zsseg.stages.evaluate.inference import predict_scores, prepared
from zsseg.stages.evaluate.trained_run import TrainedRun
from zsseg.stages.train.batches.store_check import name_map
from zsseg.stages.train.losses.resample import bilinear, nearest
from zsseg.stages.train.losses.self_training import confident_labels, pseudo_labels, score_of_codes
from zsseg.stages.train.students.student import class_logits

_SHOWN = 3


@dataclass(frozen=True)
class TrainingImage:
    """An image that the student was trained on."""

    id: str
    image_HW3: NDArray[np.uint8]
    visible_HW: NDArray[np.uint8]
    """Labels of seen classes, VOID elsewhere."""
    pseudo_HW: NDArray[np.uint8] | None
    """Pseudo labels, VOID elsewhere; None: the run has none."""
    teacher_HW: NDArray[np.uint8] | None


@dataclass(frozen=True)
class TrainingImages:
    """Some of them, and in words what is shown."""

    images: Sequence[TrainingImage]
    how: str


def training_images(run: TrainedRun, teacher: StoredTeacher, root: Path) -> TrainingImages:
    """Three images of the run's own store, evenly spread over it.

    Pseudo labels are those that the run's settings give the whole image now: with the student as it
    is at the end, or the teacher's tokens. In training the image is a crop, and the student young.
    Raises DatasetError where the images are not there.
    """
    split = str(teacher.store.identity["split"])
    samples = [each for each in training_samples(run.spec, root, split) if each.id in teacher.rows]
    places = np.linspace(0, len(samples) - 1, min(_SHOWN, len(samples))).round().astype(int)
    images = [_shown(run, teacher, samples[place]) for place in dict.fromkeys(places)]
    config = run.record.config.self_training
    how = f"{len(images)} of {len(samples)} images of '{split}', evenly spread; "
    if config.method == "none":
        return TrainingImages(images, f"{how}this run gives no pseudo labels")
    by = "the teacher" if config.source == "teacher" else "the student as it is at the end"
    return TrainingImages(images, f"{how}pseudo labels of the whole image by {by}")


def _shown(run: TrainedRun, teacher: StoredTeacher, sample: Sample) -> TrainingImage:
    image_HW3 = read_image(sample.image)
    visible_HW = read_visible_label(run.spec, sample)
    return TrainingImage(
        sample.id,
        image_HW3,
        visible_HW,
        _pseudo(run, teacher, sample.id, image_HW3, visible_HW),
        teacher.label(sample.id, visible_HW.shape),
    )


def _pseudo(
    run: TrainedRun,
    teacher: StoredTeacher,
    name: str,
    image_HW3: NDArray[np.uint8],
    visible_HW: NDArray[np.uint8],
) -> NDArray[np.uint8] | None:
    """(H, W) the pseudo labels of an image (paper 1, Algorithm 1), VOID where there are none."""
    config, store, row = run.record.config.self_training, teacher.store, teacher.rows[name]
    if config.method == "none":
        return None
    named = name_map(store, run.record.config)
    size = (visible_HW.shape[0], visible_HW.shape[1])
    if named is not None:
        class_yx, _, best_yx, second_yx = torch.from_numpy(np.asarray(store.read(named, row)))
        class_1hw = class_yx[None].long()
        sure_1hw = score_of_codes(best_yx[None])
        if config.confidence == "margin":
            sure_1hw = sure_1hw - score_of_codes(second_yx[None])
        labels = partial(confident_labels, class_1hw, sure_1hw)
        grid = (class_1hw.shape[1], class_1hw.shape[2])
    else:
        score_Chw = _scores(run, teacher, row, image_HW3)
        unseen_U = torch.tensor(run.spec.unseen_ids, dtype=torch.int64)
        labels = partial(
            pseudo_labels, score_Chw[None], unseen_ids=unseen_U, confidence=config.confidence
        )
        grid = (score_Chw.shape[1], score_Chw.shape[2])
    region_yx = store.read("regions", row) if store.has("regions") else np.zeros_like(visible_HW)
    pseudo_1hw = labels(
        unlabelled_Bhw=nearest(torch.from_numpy(visible_HW)[None] == VOID, grid),
        region_Bhw=nearest(torch.from_numpy(np.asarray(region_yx, np.int64))[None], grid),
        share=config.top_percent / 100,
        method=config.method,
    )
    pseudo_HW = nearest(pseudo_1hw, size)[0].numpy().astype(np.uint8)
    return np.where(visible_HW == VOID, pseudo_HW, VOID).astype(np.uint8)


def _scores(
    run: TrainedRun, teacher: StoredTeacher, row: int, image_HW3: NDArray[np.uint8]
) -> Tensor:
    """(C, h, w) scores of whom the run's settings ask, at the positions of the student's."""
    image_3HW = prepared(image_HW3, config=run.evaluate, stride=run.stride)
    score_Chw = predict_scores(run.scorer, image_3HW, config=run.evaluate, stride=run.stride).cpu()
    if run.record.config.self_training.source != "teacher":
        return score_Chw
    token_1Dhw = torch.from_numpy(teacher.store.read(DENSE, row).astype(np.float32))[None]
    scores_1Chw = class_logits(token_1Dhw, run.text_CD.cpu(), 1.0)
    return bilinear(scores_1Chw, (score_Chw.shape[1], score_Chw.shape[2]))[0]
