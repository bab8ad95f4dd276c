"""Images that are too large for the memory: tried again with settings that need less of it."""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsseg.stages.data.images import read_image
from zsseg.stages.data.samples import Sample
from zsseg.stages.errors import ResourceError
from zsseg.stages.evaluate.inference import predict_scores, prepared
from zsseg.stages.evaluate.trained_run import TrainedRun
from zsseg.stages.printable import counted
from zsseg.stages.train.processes import sum_in_place
from zsseg.stages.train.resource_errors import is_out_of_memory
from zsseg.stages.train.run_config import EvaluateConfig

Made = TypeVar("Made")
"""What is made of an image."""

logger = logging.getLogger(__name__)

SMALLER_SIDE = 512
"""Short side in pixels of the last try."""


def smaller_settings(config: EvaluateConfig, fixed: Collection[str]) -> list[EvaluateConfig]:
    """The settings, then others that need less memory, in the order to try them.

    First windows instead of the whole image, then a smaller image too. What is in `fixed` (`mode`,
    `short_side`) stays as it is.
    """
    tries = [config]
    if config.mode == "whole" and "mode" not in fixed:
        tries.append(config.model_copy(update={"mode": "slide"}))
    larger = config.short_side is None or config.short_side > SMALLER_SIDE
    if larger and "short_side" not in fixed:
        tries.append(tries[-1].model_copy(update={"short_side": SMALLER_SIDE}))
    return tries


def first_that_fits(
    make: Callable[[EvaluateConfig], Made], config: EvaluateConfig, *, fixed: Collection[str]
) -> tuple[Made, EvaluateConfig]:
    """What `make` gives with the first of `smaller_settings` that fits the memory, and these.

    Raises ResourceError where none fits.
    """
    tries = smaller_settings(config, fixed)
    for each in tries:
        made = or_out_of_memory(make, each)
        if made is not None:
            return made, each
    tried = ", ".join(map(_settings_text, tries))
    raise ResourceError(
        f"out of memory (tried: {tried}). Use --set evaluate.mode=slide with a smaller "
        f"evaluate.window, or --set evaluate.short_side={SMALLER_SIDE} or less"
    )


def or_out_of_memory(make: Callable[[EvaluateConfig], Made], config: EvaluateConfig) -> Made | None:
    """What `make` gives; None where the memory is too small for it.

    A function of its own: the next try begins when the error, and what it holds, is gone.
    """
    try:
        return make(config)
    except MemoryError:
        pass
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return None


def changed_text(asked: EvaluateConfig, used: EvaluateConfig, done: str) -> str:
    """That an image did not fit with the settings asked for; `done`: `predicted`, `scored`."""
    return f"out of memory with {_settings_text(asked)}; {done} with {_settings_text(used)}"


def _settings_text(config: EvaluateConfig) -> str:
    """`evaluate.mode=slide evaluate.short_side=512`: the settings that decide the memory."""
    side = "null" if config.short_side is None else config.short_side
    return f"evaluate.mode={config.mode} evaluate.short_side={side}"


@dataclass(frozen=True)
class PreparedImage:
    """An image of a split, ready to be scored with a run's own settings."""

    sample: Sample
    image_3HW: NDArray[np.float32] | None
    """None: it does not fit the memory so."""


class FittingScorer:
    """Scores images with a run; counts those that the memory is too small for."""

    def __init__(self, run: TrainedRun) -> None:
        self._run = run
        self._changed, self._failed = 0, 0

    def prepare(self, sample: Sample, image_HW3: NDArray[np.uint8]) -> PreparedImage:
        """The image as the student sees it by the run's settings; in any thread."""
        try:
            config, stride = self._run.evaluate, self._run.stride
            return PreparedImage(sample, prepared(image_HW3, config=config, stride=stride))
        except MemoryError:
            return PreparedImage(sample, None)

    def __call__(self, given: PreparedImage) -> Tensor | None:
        """(C, h, w) scores, by settings that fit the memory; None where none do."""
        run = self._run

        def make(config: EvaluateConfig) -> Tensor:
            image_3HW = given.image_3HW
            if config != run.evaluate or image_3HW is None:
                image_HW3 = read_image(given.sample.image)
                image_3HW = prepared(image_HW3, config=config, stride=run.stride)
            return predict_scores(run.scorer, image_3HW, config=config, stride=run.stride)

        try:
            score_Chw, used = first_that_fits(make, run.evaluate, fixed=run.fixed)
        except ResourceError as error:
            logger.warning("%s: left out: %s", given.sample.image, error)
            self._failed += 1
            return None
        if used != run.evaluate:
            self._changed += 1
            logger.warning("%s: %s", given.sample.image, changed_text(run.evaluate, used, "scored"))
        return score_Chw

    def report(self, images: int) -> dict[str, int]:
        """Images of all processes that were scored with other settings, and left out; {}: none.

        Raises ResourceError when all were left out.
        """
        counts = torch.tensor([self._changed, self._failed])
        sum_in_place([counts])
        changed, failed = counts.tolist()
        if images and failed == images:
            raise ResourceError(
                f"{self._run.path}: none of {counted(images, 'image')} fits the memory. Use --set "
                f"evaluate.mode=slide, and --set evaluate.short_side={SMALLER_SIDE} or less"
            )
        return {"changed": changed, "left_out": failed} if changed or failed else {}
