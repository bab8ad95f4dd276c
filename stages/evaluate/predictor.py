"""A student that is asked for names: an image in, a prediction out.

Legend: K names, h w positions of the scores, H W pixels.
"""

import logging
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from zsseg.stages.data.spec import VOID
from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.asked_names import AskedNames
from zsseg.stages.evaluate.confidence import confidence_map
from zsseg.stages.evaluate.confidence_measure import Measure, check_measure
from zsseg.stages.evaluate.inference import calibrated, predict_scores, prepared
from zsseg.stages.evaluate.labelling import upsampled_argmax
from zsseg.stages.evaluate.memory import changed_text, first_that_fits
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
        run, size = self.run, image_HW3.shape[:2]
        scale = run.record.config.student.logit_scale

        def make(config: EvaluateConfig) -> tuple[Tensor, NDArray[np.uint8]]:
            image_3HW = prepared(image_HW3, config=config, stride=run.stride)
            score_Khw = predict_scores(self.scorer, image_3HW, config=config, stride=run.stride)
            lowered_Khw = calibrated(score_Khw, config.calibration, seen_ids=self.asked.seen_ids)
            label_HW = upsampled_argmax(lowered_Khw, size)
            label_HW[label_HW >= len(self.asked.classes)] = VOID
            if self.unsure > 0:
                sure_HW = confidence_map(lowered_Khw, size, scale=scale, measure=self.measure)
                label_HW[sure_HW < self.unsure] = VOID
            return lowered_Khw.float().cpu(), label_HW

        (lowered_Khw, label_HW), used = first_that_fits(make, run.evaluate, fixed=run.fixed)
        if used != run.evaluate:
            logger.warning("%s: %s", name, changed_text(run.evaluate, used, "predicted"))
        return Prediction(
            image=image_HW3,
            labels=label_HW,
            classes=self.asked.classes,
            palette=self.asked.palette,
            name_scores=lowered_Khw.numpy(),
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
