"""The validations of a run while it trains: when they are, what they find, which one was best.

How a student is scored is no matter of the training: a `Validator` is handed in
(`zsseg.stages.evaluate.validator` makes one). No gradient, random number or batch depends on it.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from zsseg.stages.errors import UserError
from zsseg.stages.train.batches.training_data import TrainingData
from zsseg.stages.train.run import checkpoint
from zsseg.stages.train.run.metrics_log import MetricsLog
from zsseg.stages.train.run.run_folder import RunRecord
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.train.students.student import Student

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ValidationScores:
    """What a student scores on the held-out images; shares from 0 to 1, NaN: not defined."""

    scores: Mapping[str, float]
    iou: Mapping[str, float]
    """By class name."""
    images: int
    pictures: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    """(H, W, 3) by the image's id: image, prediction and label side by side; of the first process
    only."""


class Validator(Protocol):
    """Scores a student on the same images every time; all processes call it together."""

    chooses_by: str | None
    """The score by which the best checkpoint is chosen; None: none may choose."""

    about: str
    """In words: which labels of which images."""

    def __call__(self, student: Student, step: int) -> ValidationScores:
        """The scores after `step` steps. The student is as before when it returns."""


MakeValidator = Callable[[RunRecord, TrainingData, Path, Tensor], Validator | None]
"""From a run's record, data and folder, and its text embeddings on the student's device: the
validator; None, with a line in the log that says why, where nothing can be validated."""


@dataclass(frozen=True)
class ValidationState:
    """What a checkpoint keeps of the validations before it."""

    chooses_by: str | None
    about: str
    last_step: int = 0
    """The step after which the last validation was; 0: there was none."""
    best_step: int | None = None
    best: float | None = None
    """The score at `best_step`."""
    waited: int = 0
    """Validations in a row without a new best one."""
    stopped: bool = False
    """Do these end the run?"""

    def after(self, step: int, scores: Mapping[str, float], *, patience: int) -> "ValidationState":
        """The state with one more validation."""
        if self.chooses_by is None:
            return replace(self, last_step=step)
        value = scores[self.chooses_by]
        if value > (-np.inf if self.best is None else self.best):  # no NaN is
            return replace(self, last_step=step, best_step=step, best=value, waited=0)
        waited = self.waited + 1
        return replace(self, last_step=step, waited=waited, stopped=0 < patience <= waited)


def idle_patience(config: RunConfig) -> list[str]:
    """A line where patience waits for validations and there are none."""
    if not config.validation.patience or config.validation.every:
        return []
    return ["validation.patience: nothing is validated, so it ends nothing"]


def state_of(saved: Path) -> ValidationState | None:
    """What a checkpoint keeps of validations; None of a run without any."""
    found = checkpoint.validation_of(saved)
    return None if found is None else ValidationState(**found)


class Validation:
    """The validations of one training, from where a checkpoint left them."""

    def __init__(self, validator: Validator, config: RunConfig, saved: Path | None) -> None:
        self._validator, self._settings = validator, config.validation
        self._steps = config.train.steps
        start = ValidationState(validator.chooses_by, validator.about)
        self.state = start if saved is None else state_of(saved) or start
        self.scores: Mapping[str, float] = {}
        """Of the last validation here."""
        self.seconds, self.number = 0.0, 0
        """What the validations here took, and how many they were."""

    @property
    def noted(self) -> dict[str, Any]:
        """The state, for a checkpoint."""
        return asdict(self.state)

    def due(self, step: int) -> bool:
        """Is there a validation after `step` steps that has not been?"""
        return self.state.last_step < step and (
            step % self._settings.every == 0 or step == self._steps
        )

    def after(self, step: int, student: Student, log: MetricsLog | None) -> bool:
        """Validate, and write it into the log. Is it the best by now?"""
        start = time.perf_counter()
        with _as_in_use(student):
            found = self._validator(student, step)
        seconds = time.perf_counter() - start
        self.seconds, self.number = self.seconds + seconds, self.number + 1
        self.scores = found.scores
        self.state = self.state.after(step, found.scores, patience=self._settings.patience)
        best = self.state.best_step == step
        if log is not None:
            entry = {
                "about": self.state.about,
                "chooses_by": self.state.chooses_by,
                "images": found.images,
                "best": best,
                "seconds": round(seconds, 2),
            }
            log.validated(step, found.scores, found.iou, entry, found.pictures)
        if self.state.stopped:
            logger.info(
                "step %d: ended, as the last %d validations were not better than that of step %d",
                step,
                self.state.waited,
                self.state.best_step,
            )
        return best


def begun(validator: Validator | None, config: RunConfig, saved: Path | None) -> Validation | None:
    """The validations of a training that goes on from a checkpoint, or starts; None: none can be.

    Warns where they are of other images than before. Raises UserError where a run was validated and
    can be no longer.
    """
    before = None if saved is None else state_of(saved)
    if validator is None:
        if before is None:
            return None
        raise UserError(
            f"{saved}: the run was validated by {before.about}, and now nothing can be validated. "
            "Bring the images and labels back, or say with --root where they are"
        )
    if before is not None and before.about != validator.about:
        logger.warning(
            "%s: validated by %s, and by %s from now on: which checkpoint is best is found by both",
            saved,
            before.about,
            validator.about,
        )
    return Validation(validator, config, saved)


@contextmanager
def _as_in_use(student: Student) -> Iterator[None]:
    """Within, the student is in evaluation mode; afterwards each layer is in the mode it had."""
    modes = [(module, module.training) for module in student.modules()]
    student.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
