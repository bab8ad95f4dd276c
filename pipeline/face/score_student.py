"""`zsseg.evaluate`: a student's scores, for the command of this name and from Python."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from zsseg.pipeline.face.given_settings import GivenSettings, Progress, nothing, setting_texts
from zsseg.pipeline.run_options import evaluate_config, fixed_settings, text_encoder

if TYPE_CHECKING:
    from zsseg.pipeline.face.model import Model
    from zsseg.stages.evaluate.result import EvaluationResult
    from zsseg.stages.evaluate.trained_run import TrainedRun
    from zsseg.stages.train.validation_config import Which

logger = logging.getLogger(__name__)


def evaluate(
    model: "Model | str | Path",
    *,
    dataset: str | Path | None = None,
    clip: str | None = None,
    root: str | Path | None = None,
    split: str = "val",
    limit: int | None = None,
    calibration: float | None = None,
    checkpoint: "Which | None" = None,
    set: GivenSettings = None,
    progress: Progress = nothing,
) -> "list[EvaluationResult]":
    """The scores of a student, or of a run's folder, on a split: hIoU, sIoU, uIoU, every class.

    With a gamma (`calibration`, or the run's own) above 0 two results, with and without it. Of a
    run without seen classes the teacher's own scores come last, where there is a store of the
    split. Nothing is written. `dataset`: another one than the run's. `clip`: where the run's CLIP
    is now; None: as the model says. `checkpoint`: of a run that was validated its `best` or `last`;
    None: the best one, if there is one. Raises subclasses of `UserError`, as `zsseg evaluate` does.
    """
    from zsseg.pipeline.face.model import Model
    from zsseg.stages.data.spec import described_root, load_spec
    from zsseg.stages.evaluate.evaluation import evaluate_run
    from zsseg.stages.evaluate.trained_run import load_run
    from zsseg.stages.evaluate.vocabulary import renamed

    path = model.run.path if isinstance(model, Model) else Path(model)
    teacher = model.teacher if clip is None and isinstance(model, Model) else clip
    changes = setting_texts(set)
    opened = load_run(
        path, evaluate=evaluate_config(path, calibration, changes), checkpoint=checkpoint
    )
    student = replace(opened, fixed=fixed_settings(changes))
    named = None if dataset is None else str(dataset)
    spec = student.spec if named is None else load_spec(named)
    own = described_root(named) if named else None
    folder = Path(root) if root is not None else own or student.record.root
    asked = renamed(student, spec, encode=text_encoder(student, teacher), teacher=teacher)

    def tell(done: int, total: int) -> None:
        progress(done, total, "")

    results = evaluate_run(asked, spec, folder, split, limit=limit, progress=tell)
    if spec.seen_ids or named or limit:
        return list(results)
    return [*results, *_teacher_beside(student, folder, split, tell)]


def _teacher_beside(
    student: "TrainedRun", root: Path, split: str, tell: Callable[[int, int], None]
) -> "Sequence[EvaluationResult]":
    """The teacher's own scores, the measure of a run without labels; () without a store of them."""
    from zsseg.pipeline.named_stores import teacher_store
    from zsseg.stages.evaluate.teacher_evaluation import evaluate_teacher

    training = student.record.store
    store = teacher_store(training, split)
    if store is not None:
        return evaluate_teacher(store, student.spec, root, progress=tell)
    logger.warning(
        "the teacher's own scores are not shown: beside %s there is no finished store of split "
        "'%s' with dense tokens or a map of names. Make one with the `zsseg precompute` command of "
        "this store (its README.md has it) and --split %s",
        training,
        split,
        split,
    )
    return ()
