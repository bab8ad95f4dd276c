"""Trains every run of the folds once, and scores it with all settings that are tried on it.

OUT/fold-1a2b3c4d/EXPERIMENT-5e6f7a8b/seed-0/         a run folder
OUT/fold-1a2b3c4d/EXPERIMENT-5e6f7a8b/seed-0.scores/  one file for each settings of `evaluate`
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zsseg.pipeline.ablate.run_state import state_of_training
from zsseg.pipeline.ablate.shared_work import Failures, Report, SharedWork, do_all
from zsseg.pipeline.ablate.table_plan import PlannedRun
from zsseg.pipeline.tune.candidates import Candidate, TuneRequest, run_of
from zsseg.pipeline.tune.folds import Fold
from zsseg.stages.cache.disk.durable import make_folder, write_durably
from zsseg.stages.cache.format.recipe import fingerprint
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.hidden_classes import (
    HiddenScores,
    hidden_scores,
    visible_confusions,
)
from zsseg.stages.evaluate.trained_run import load_run
from zsseg.stages.train.batches.training_data import TrainingData
from zsseg.stages.train.loop import TrainProgress, train
from zsseg.stages.train.run_config import EvaluateConfig

_DIGITS = 8


@dataclass(frozen=True)
class Trial:
    """A candidate in a fold with a seed."""

    candidate: Candidate
    fold: Fold
    run: PlannedRun

    @property
    def seed(self) -> int:
        """The seed of its training."""
        return self.run.config.train.seed


@dataclass(frozen=True)
class TrialInputs:
    """What all trials have in common."""

    spec: DatasetSpec
    """With the classes that are really unseen."""
    root: Path
    stores: Mapping[str, Store]
    """By the key of the fold."""


def plan_trials(
    tried: Sequence[Candidate], folds: Sequence[Fold], request: TuneRequest
) -> list[Trial]:
    """Every candidate in every fold with every seed; seed by seed, so that folds compare early."""
    return [
        Trial(candidate, fold, run_of(candidate, request, fold.key, seed=seed))
        for seed in range(request.seeds)
        for fold in folds
        for candidate in tried
    ]


def trainings(trials: Sequence[Trial]) -> dict[Path, list[Trial]]:
    """Run folder -> the trials that it serves: those that differ only in how they are scored."""
    found: dict[Path, list[Trial]] = {}
    for trial in trials:
        found.setdefault(trial.run.folder, []).append(trial)
    return found


def scores_of(trial: Trial) -> HiddenScores | None:
    """The scores of a trial; None until it is scored. Raises UserError for a damaged file."""
    path = _file(trial)
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["step"] != trial.run.config.train.steps:
            return None
        confusion_CC = np.array(stored["confusion"], np.int64)
        return hidden_scores(
            confusion_CC, shown=trial.fold.spec.seen_ids, hidden=trial.fold.hidden_ids
        )
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"{path}: damaged ({error!r}). Delete it and run the same `zsseg tune` command again"
        ) from error


def _file(trial: Trial) -> Path:
    folder = trial.run.folder
    digits = fingerprint(trial.run.config.evaluate.model_dump(mode="json"))[:_DIGITS]
    return folder.with_name(f"{folder.name}.scores") / f"{digits}.json"


def try_all(
    trials: Sequence[Trial],
    inputs: TrialInputs,
    *,
    after_run: Callable[[Failures], object],
    quiet: bool,
) -> dict[Path, str]:
    """Train and score what is missing, as `do_all` does: run folder -> why it failed."""
    grouped = trainings(trials)
    work = SharedWork(
        words={
            each[0].run: _words(each, i, len(grouped))
            for i, each in enumerate(grouped.values(), start=1)
        },
        is_done=lambda run: all(map(scores_of, grouped[run.folder])),
        do=lambda run, report: _train_and_score(grouped[run.folder], inputs, report),
    )
    return do_all(work, title="tune", after_run=after_run, quiet=quiet)


def _words(trials: Sequence[Trial], number: int, count: int) -> str:
    first = trials[0]
    others = f" and {len(trials) - 1} more" if len(trials) > 1 else ""
    hidden = ", ".join(first.fold.hidden)
    return f"training {number} of {count}, {first.candidate.name}{others}, hidden: {hidden}"


def _train_and_score(trials: Sequence[Trial], inputs: TrialInputs, report: Report) -> None:
    """Train a run to its end, and score it for the trials that it serves.

    Raises as `train` and `visible_confusions` do.
    """
    run, fold, steps = trials[0].run, trials[0].fold, trials[0].run.config.train.steps

    def trained(now: TrainProgress) -> None:
        report(now.step, f"loss {now.metrics['loss']:.3f}" if now.metrics else "")

    train(
        run.config,
        TrainingData(inputs.stores[fold.key], fold.spec, inputs.root),
        out=run.folder,
        resume=True,
        experiment=Path(trials[0].candidate.experiment).stem,
        progress=trained,
    )
    for config, others in _by_pass([each for each in trials if scores_of(each) is None]).items():
        student = load_run(run.folder, device=run.config.train.device, evaluate=config)
        gammas = [each.run.config.evaluate.calibration for each in others]
        found_GCC = visible_confusions(
            student,
            inputs.spec,
            fold.held_out.samples,
            gammas,
            progress=lambda done, total: report(steps, f"scoring image {done} of {total}"),
        )
        for trial, found_CC in zip(others, found_GCC, strict=True):
            _save(trial, student.step, found_CC)


def _by_pass(trials: Sequence[Trial]) -> dict[EvaluateConfig, list[Trial]]:
    """Trials by how the student sees an image; those that differ in gamma share one pass."""
    found: dict[EvaluateConfig, list[Trial]] = {}
    for trial in trials:
        config = trial.run.config.evaluate.model_copy(update={"calibration": 0.0})
        found.setdefault(config, []).append(trial)
    return found


def _save(trial: Trial, step: int, confusion_CC: NDArray[np.int64]) -> None:
    path = _file(trial)
    make_folder(path.parent)
    stored = {
        "evaluate": trial.run.config.evaluate.model_dump(mode="json"),
        "step": step,
        "confusion": confusion_CC.tolist(),
    }
    write_durably(path, f"{json.dumps(stored)}\n".encode())


def training_state(trials: Sequence[Trial]) -> str:
    """How far the training of these trials is, in words; nothing is written."""
    if all(map(scores_of, trials)):
        return "finished"
    return state_of_training(trials[0].run)
