"""A student that is asked for names: an image in, a prediction out.

Legend: B images of one size, K names, h w positions of the scores, H W pixels.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsseg.stages.data.spec import VOID
from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.asked_names import AskedNames
from zsseg.stages.evaluate.confidence import confidence_map
from zsseg.stages.evaluate.confidence_measure import Measure, check_measure
from zsseg.stages.evaluate.inference import (
    calibrated,
    images_together,
    predict_scores,
    prepared,
    working_size,
)
from zsseg.stages.evaluate.labelling import upsampled_argmax
from zsseg.stages.evaluate.memory import changed_text, first_that_fits, or_out_of_memory
from zsseg.stages.evaluate.prediction import Prediction
from zsseg.stages.evaluate.scorer import Scorer, class_scorer
from zsseg.stages.evaluate.trained_run import TrainedRun
from zsseg.stages.train.run_config import EvaluateConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predictor:
    """A run, the names it is asked for, and when it says that it does not know.

    Raises UserError for a threshold that no confidence can be held against.
    """

    run: TrainedRun
    asked: AskedNames
    unsure: float = 0.0
    """Pixels of less confidence become VOID; 0: none."""
    measure: Measure = "margin"
    """What the confidence is."""

    def __post_init__(self) -> None:
        if not isinstance(self.unsure, int | float) or not 0 <= self.unsure <= 1:
            raise UserError(f"unsure is {self.unsure!r}. Give a least confidence from 0 to 1")
        check_measure(self.measure)

    @cached_property
    def scorer(self) -> Scorer:
        """Class scores for the names; made on first use."""
        return class_scorer(self.run.student, self.asked.text_KD)

    def predict(self, image_HW3: NDArray[np.uint8], *, name: str = "the image") -> Prediction:
        """Label an RGB image, by settings that fit the memory; `name`: in messages.

        Raises UserError for an array that is no image, ResourceError when the memory is too small.
        """
        _check_image(image_HW3)
        run = self.run

        def make(config: EvaluateConfig) -> Prediction:
            image_3HW = prepared(image_HW3, config=config, stride=run.stride)
            score_Khw = predict_scores(self.scorer, image_3HW, config=config, stride=run.stride)
            return self._prediction(image_HW3, score_Khw)

        found, used = first_that_fits(make, run.evaluate, fixed=run.fixed)
        if used != run.evaluate:
            logger.warning("%s: %s", name, changed_text(run.evaluate, used, "predicted"))
        return found

    def predict_many(
        self, images: Sequence[NDArray[np.uint8]], *, names: Sequence[str]
    ) -> list[Prediction]:
        """`predict` for several images: those that the student sees whole, in one size, go through
        it together, in batches of as many pixels as windows have (`images_together`)."""
        for image_HW3 in images:
            _check_image(image_HW3)
        found: dict[int, Prediction] = {}
        for some in self._batches(images):
            together = self._together([images[i] for i in some])
            if together is None:
                together = [self.predict(images[i], name=names[i]) for i in some]
            found.update(zip(some, together, strict=True))
        return [found[i] for i in range(len(images))]

    def _batches(self, images: Sequence[NDArray[np.uint8]]) -> Iterator[list[int]]:
        """Positions of images that go through the student together."""
        config, stride = self.run.evaluate, self.run.stride
        groups: dict[tuple[int, int], list[int]] = {}
        for i, image_HW3 in enumerate(images):
            size = working_size(image_HW3.shape[:2], short_side=config.short_side, stride=stride)
            groups.setdefault(size, []).append(i)
        for size, places in groups.items():
            together = images_together(size, self.scorer.text_CD.device)
            for first in range(0, len(places), together):
                yield places[first : first + together]

    def _together(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction] | None:
        """What images of one size are, seen together; None: they have to go one by one."""
        run = self.run
        if len(images) == 1 or run.evaluate.mode != "whole":
            return None

        def make(config: EvaluateConfig) -> list[Prediction]:
            seen = [prepared(each, config=config, stride=run.stride) for each in images]
            image_B3HW = torch.from_numpy(np.stack(seen)).to(self.scorer.text_CD.device)
            score_BKhw = self.scorer(image_B3HW)
            return [self._prediction(*each) for each in zip(images, score_BKhw, strict=True)]

        return or_out_of_memory(make, run.evaluate)

    def _prediction(self, image_HW3: NDArray[np.uint8], score_Khw: Tensor) -> Prediction:
        """What the scores of an image say."""
        size, run = image_HW3.shape[:2], self.run
        scale = run.record.config.student.logit_scale
        gamma = run.evaluate.calibration
        lowered_Khw = calibrated(score_Khw, gamma, seen_ids=self.asked.seen_ids)
        label_HW = upsampled_argmax(lowered_Khw, size)
        label_HW[label_HW >= len(self.asked.classes)] = VOID
        if self.unsure > 0:
            sure_HW = confidence_map(lowered_Khw, size, scale=scale, measure=self.measure)
            label_HW[sure_HW < self.unsure] = VOID
        return Prediction(
            image=image_HW3,
            labels=label_HW,
            classes=self.asked.classes,
            palette=self.asked.palette,
            name_scores=lowered_Khw.float().cpu().numpy(),
            scale=scale,
            measure=self.measure,
        )


def _check_image(image_HW3: NDArray[np.uint8]) -> None:
    """Raise UserError for an array that is not (H, W, 3) of uint8, or has no pixel."""
    shape = image_HW3.shape
    if image_HW3.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or not image_HW3.size:
        raise UserError(
            f"an image of {image_HW3.dtype} in the shape {shape}. Give RGB as uint8 in the shape "
            "(height, width, 3), with at least one pixel"
        )
