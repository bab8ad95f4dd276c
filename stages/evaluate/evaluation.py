"""Scores a trained student on a labelled split.

Generalised zero-shot protocol: every class competes in one argmax, IoU is accumulated over the
whole split at the labels' own size, void pixels count nowhere. Where gamma (`calibration`) is above
0, the scores without it are reported too, from the same forward pass.

Inside `joined_processes` the processes share the images; each gets the result of all.

Legend: C classes, D CLIP width, G gammas, H W pixels, h w positions of the scores.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsseg.stages.cache.format.recipe import differing_fields
from zsseg.stages.data.images import read_image
from zsseg.stages.data.labels import read_label
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.data.splits import check_split, list_samples, missing_label
from zsseg.stages.errors import DatasetError, UserError
from zsseg.stages.evaluate.inference import calibrated, predict_scores, prepared
from zsseg.stages.evaluate.labelling import upsampled_argmax
from zsseg.stages.evaluate.memory import FittingScorer, PreparedImage
from zsseg.stages.evaluate.metrics import confusion
from zsseg.stages.evaluate.read_ahead import read_ahead
from zsseg.stages.evaluate.result import EvaluationResult, variant
from zsseg.stages.evaluate.student_result import EvaluatedImages, student_result
from zsseg.stages.evaluate.trained_images import count_trained_on
from zsseg.stages.evaluate.trained_run import TrainedRun
from zsseg.stages.printable import counted
from zsseg.stages.train.processes import agree, processes, sum_in_place, value_from_first

logger = logging.getLogger(__name__)

Input = TypeVar("Input")
"""What scores are made from."""

Progress = Callable[[int, int], None]
"""Called with the numbers of images done (of several processes: about) and in all."""

IMAGES_BETWEEN_CHECKS = 16
"""Images that a process scores before it asks the others for their status: an error in one of them
ends the rest at most so many images later."""


def evaluate_run(
    run: TrainedRun,
    spec: DatasetSpec,
    root: Path,
    split: str,
    *,
    limit: int | None = None,
    progress: Progress,
) -> tuple[EvaluationResult, ...]:
    """Score a student on a split, or on its first `limit` images, at the images' own size.

    One result with gamma 0 and, if the run's gamma is above 0, a second one with it. Images without
    a label, or too large for the memory, are left out and counted. Raises UserError when `spec` has
    other classes, unseen classes or names than the run, DatasetError when there is no such split,
    when no image has a label, when a file cannot be read or is not below `root`, and when image and
    label differ in size, ResourceError when no image fits the memory.
    """
    _check_folder(spec, root)
    _check_same_classes(run, spec)
    if spec.patterns is not None and spec.patterns.labels is None:
        raise _nothing_to_score(f"{root}: '{spec.name}' has no labels to compare with")
    check_split(spec, split)
    scorer = FittingScorer(run)

    def read(sample: Sample) -> tuple[NDArray[np.uint8], PreparedImage]:
        label_HW, image_HW3 = _labelled_image(spec, sample)
        return label_HW, scorer.prepare(sample, image_HW3)

    listed = list_samples(spec, root, split)[:limit]
    samples = labelled(listed, spec, root, split)
    trained_on = value_from_first(
        count_trained_on(run, spec, samples, split) if processes()[0] == 0 else None
    )
    gammas = gammas_of(run.evaluate.calibration)
    confusion_GCC = confusions(spec, samples, read, scorer, gammas, progress)
    memory = scorer.report(len(samples))
    too_large = memory.get("left_out", 0)
    common = EvaluatedImages(
        split=split,
        limit=limit,
        images=len(samples) - too_large,
        left_out=len(listed) - len(samples) + too_large,
        trained_on=trained_on,
        memory=memory,
    )
    return tuple(
        student_result(run, spec, gamma, confusion_CC, common)
        for gamma, confusion_CC in zip(gammas, confusion_GCC, strict=True)
    )


def _check_folder(spec: DatasetSpec, root: Path) -> None:
    if not root.is_dir():
        raise DatasetError(
            f"{root}: there is no such folder. If the data set '{spec.name}' has moved, give its "
            "folder with --root"
        )


def _variant(
    run: TrainedRun, spec: DatasetSpec, settings: dict[str, Any], limit: int | None
) -> tuple[str, ...]:
    return variant(
        dataset=spec.name,
        own_dataset=run.spec.name,
        renamed=run.names != run.spec.prompt_names,
        limit=limit,
        settings=settings,
        own_settings=run.record.config.evaluate.model_dump(),
    )


def _check_same_classes(run: TrainedRun, spec: DatasetSpec) -> None:
    """Raise UserError when a description has other classes, or other names of them, than a run."""
    if changed := differing_fields(class_lists(run.spec), class_lists(spec)):
        raise UserError(
            f"{run.path} was trained for other classes than '{spec.name}' has:",
            *map("  {}".format, changed),
            "Evaluate it with the description that it was trained with",
        )
    if renamed := differing_fields({"names": run.names}, {"names": spec.prompt_names}):
        raise UserError(
            f"{run.path}: '{spec.name}' calls classes by other names:",
            *map("  {}".format, renamed),
            "Give the run their embeddings first (zsseg.stages.evaluate.vocabulary.renamed)",
        )


def _labelled_image(
    spec: DatasetSpec, sample: Sample
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Label (H, W) and image (H, W, 3). Raises DatasetError when they differ in size."""
    label_HW, image_HW3 = read_label(spec, sample), read_image(sample.image)
    if image_HW3.shape[:2] != label_HW.shape:
        height, width = image_HW3.shape[:2]
        raise DatasetError(
            f"{sample.image}: {width} x {height} pixels, but its label {sample.label} has "
            f"{label_HW.shape[1]} x {label_HW.shape[0]}. `zsseg dataset verify` lists all such "
            "pairs"
        )
    return label_HW, image_HW3


def student_label(run: TrainedRun, image_HW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W) class ids that a run gives an image, its gamma taken off the seen classes."""
    image_3HW = prepared(image_HW3, config=run.evaluate, stride=run.stride)
    score_Chw = predict_scores(run.scorer, image_3HW, config=run.evaluate, stride=run.stride)
    lowered_Chw = calibrated(score_Chw, run.evaluate.calibration, seen_ids=run.spec.seen_ids)
    return upsampled_argmax(lowered_Chw, image_HW3.shape[:2])


def gammas_of(calibration: float) -> tuple[float, ...]:
    """The gammas to score with: 0, and `calibration` if it is above 0."""
    return (0.0, calibration) if calibration else (0.0,)


def class_lists(spec: DatasetSpec) -> dict[str, tuple[str, ...]]:
    """What has to be equal where scores of one class list are asked of another's subject."""
    return {"classes": spec.classes, "unseen": spec.unseen}


def labelled(samples: Sequence[Sample], spec: DatasetSpec, root: Path, split: str) -> list[Sample]:
    """The samples that have a label. Raises DatasetError when none has."""
    found = [sample for sample in samples if sample.label is not None]
    if not found:
        where = missing_label(spec, root, split, samples[0].id) if samples else None
        raise _nothing_to_score(
            f"{root}: none of the {len(samples)} images of '{split}' has a label to compare with"
            + (f", such as {where}" if where else "")
        )
    if missing := len(samples) - len(found):
        left = counted(missing, "image")
        logger.warning("%s: left out without a label: %s of '%s'", root, left, split)
    return found


def _nothing_to_score(text: str) -> DatasetError:
    return DatasetError(
        f"{text}. Scores need a split with labels: say under `patterns` in the description where "
        "they lie, or give a split that has some. To see what a student makes of images without "
        "labels: zsseg predict --run RUN IMAGES --out predictions"
    )


def confusions(
    spec: DatasetSpec,
    samples: Sequence[Sample],
    read: Callable[[Sample], tuple[NDArray[np.uint8], Input]],
    score: Callable[[Input], Tensor | None],
    gammas: Sequence[float],
    progress: Progress,
) -> NDArray[np.int64]:
    """(G, C, C) pixel counts over all samples, one matrix per gamma.

    `read` gives a sample's label and what `score` makes scores (C, h, w) without gamma from, the
    next sample's while one is scored; where `score` gives None, the sample is left out. Process p
    of n has the samples p, p + n, ...; raises DatasetError where they are not the same in every
    process.
    """
    number, count = processes()
    _check_same(samples)
    classes = len(spec.classes)
    total_GCC = np.zeros((len(gammas), classes, classes), dtype=np.int64)
    for done, (label_HW, given) in enumerate(read_ahead(read, samples[number::count]), start=1):
        score_Chw = score(given)
        if score_Chw is not None:
            for total_CC, gamma in zip(total_GCC, gammas, strict=True):
                lowered_Chw = calibrated(score_Chw, gamma, seen_ids=spec.seen_ids)
                predicted_HW = upsampled_argmax(lowered_Chw, label_HW.shape)
                total_CC += confusion(predicted_HW, label_HW, classes)
        # Not in the last round, in which some processes may have no image.
        if done % IMAGES_BETWEEN_CHECKS == 0 and done * count <= len(samples):
            agree()
        progress(min(done * count, len(samples)), len(samples))
    sum_in_place([torch.from_numpy(total_GCC)])
    return total_GCC


def _check_same(samples: Sequence[Sample]) -> None:
    """Raise DatasetError where a process finds other images than the first one."""
    ids = [sample.id for sample in samples]
    if (expected := value_from_first(ids)) != ids:
        raise DatasetError(
            f"process {processes()[0]} finds {len(ids)} images with a label and process 0 finds "
            f"{len(expected)}; '{min(set(ids) ^ set(expected))}' is not in both. Give all "
            "processes the same data set"
        )
