"""How far one run of an ablation is: its scores, its state in words, and the lock on its folder.

OUT/EXPERIMENT-1a2b3c4d/seed-0/       a run folder
OUT/EXPERIMENT-1a2b3c4d/seed-0.lock   held while a process works on it
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from zsseg.pipeline.ablate.table_plan import PlannedRun
from zsseg.stages.cache.disk.durable import make_folder
from zsseg.stages.evaluate.evaluation import gammas_of
from zsseg.stages.evaluate.result import EvaluationResult, file_stem, read_result, variant
from zsseg.stages.train.run import checkpoint
from zsseg.stages.train.run.run_folder import is_run, read_record


def results_of(run: PlannedRun, split: str) -> tuple[EvaluationResult, ...] | None:
    """A run's scores on a split, one per gamma, 0 first; None unless all are there.

    Scores of an earlier checkpoint do not count.
    """
    if not is_run(run.folder):
        return None
    record = read_record(run.folder)
    found = []
    for gamma in gammas_of(run.config.evaluate.calibration):
        settings = run.config.evaluate.model_dump() | {"calibration": gamma}
        words = variant(
            dataset=record.dataset.name,
            own_dataset=record.dataset.name,
            settings=settings,
            own_settings=record.config.evaluate.model_dump(),
        )
        path = run.folder / f"{file_stem('student', split, words)}.json"
        if not path.is_file():
            return None
        result = read_result(path)
        if result.settings["step"] != run.config.train.steps:
            return None
        found.append(result)
    return tuple(found)


def state_of(run: PlannedRun, split: str) -> str:
    """How far a run is, in words, such as `at step 200 of 500`; nothing is written."""
    if results_of(run, split) is not None:
        return "finished"
    return state_of_training(run)


def state_of_training(run: PlannedRun) -> str:
    """The same of a run that is not scored yet."""
    if _lock_path(run).exists():
        with held(run) as mine:
            if not mine:
                return "in work by another process"
    saved = checkpoint.latest(run.folder) if is_run(run.folder) else None
    if saved is None:
        return "to do"
    step, steps = checkpoint.step_of(saved), run.config.train.steps
    return "to score" if step == steps else f"at step {step} of {steps}"


def _lock_path(run: PlannedRun) -> Path:
    """The lock lies beside the run folder, which may hold nothing but a run's own files."""
    return run.folder.with_name(f"{run.folder.name}.lock")


@contextmanager
def held(run: PlannedRun) -> Iterator[bool]:
    """Keep other processes from a run; yields False where another one works on it.

    The lock of a process that is killed is free again.
    """
    make_folder(run.folder.parent)
    lock = FileLock(_lock_path(run), timeout=0, thread_local=False)
    try:
        lock.acquire()
        mine = True
    except Timeout:
        mine = False
    try:
        yield mine
    finally:
        if mine:
            lock.release()
