"""The result of a student on a split, with all that it depends on.

Legend: C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.evaluate.metrics import scores
from zsseg.stages.evaluate.result import BY_UNSEEN, EvaluationResult, variant
from zsseg.stages.evaluate.trained_run import TrainedRun


@dataclass(frozen=True)
class EvaluatedImages:
    """Which images a student was scored on."""

    split: str
    limit: int | None
    images: int
    """How many were scored."""
    left_out: int
    """How many were not: without a label, or too large for the memory."""
    trained_on: int | None
    """How many of them the run was trained on; None when that is not known."""
    memory: Mapping[str, Any]
    """What was too large, as the result's settings say it; empty when nothing was."""


def _chosen_words(run: TrainedRun) -> list[str]:
    """How a checkpoint was chosen, where that is not by seen labels, or it is not the best."""
    settings = run.record.config.validation
    last = run.checkpoint == "last"
    # Where patience ended the run, the labels have chosen its last checkpoint, too.
    peeked = run.checkpoint is not None and settings.unseen and (not last or settings.patience > 0)
    unseen = bool(run.spec.unseen)
    return [*(["last"] if last else []), *([BY_UNSEEN] if peeked and unseen else [])]


def student_result(
    run: TrainedRun,
    spec: DatasetSpec,
    gamma: float,
    confusion_CC: NDArray[np.int64],
    of: EvaluatedImages,
) -> EvaluationResult:
    """The result with one gamma: scores, and all that they depend on."""
    settings = run.evaluate.model_dump() | {"calibration": gamma}
    return EvaluationResult(
        subject="student",
        source=str(run.path),
        dataset=spec.name,
        split=of.split,
        classes=spec.classes,
        unseen=spec.unseen,
        images=of.images,
        left_out=of.left_out,
        trained_on=of.trained_on,
        settings={
            **{"step": run.step, "limit": of.limit, "names": list(run.names), **settings},
            **({"out_of_memory": of.memory} if of.memory else {}),
            **({"checkpoint": run.checkpoint} if run.checkpoint else {}),
        },
        variant=variant(
            dataset=spec.name,
            own_dataset=run.spec.name,
            renamed=run.names != run.spec.prompt_names,
            chosen=_chosen_words(run),
            limit=of.limit,
            settings=settings,
            own_settings=run.record.config.evaluate.model_dump(),
        ),
        scores=scores(confusion_CC, spec.unseen_ids),
        confusion_CC=confusion_CC,
    )
