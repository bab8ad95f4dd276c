"""Writes and reads checkpoints: whole or not at all, and checked before use.

    checkpoints/step-000200/
      student.safetensors   weights and buffers of the student
      training.pt           everything else that a resume needs: `state.save_state`
      meta.json             step, and the size and hash of the other two; written last; of a run
                            that is validated also what its validations have found by then

A checkpoint is written to `step-000200.partial`, synced to disk and renamed, so a crash never
leaves half of one under its final name; the next save deletes the partial one. Nothing in it can
carry code: safetensors, and torch.load with weights_only.
"""

import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialized
from torch import nn

from zsseg.stages.cache.disk.durable import PARTIAL, durable_file, sync, write_durably
from zsseg.stages.cache.disk.hashing import hash_file
from zsseg.stages.errors import ResourceError, UserError
from zsseg.stages.file_bytes import PASSING
from zsseg.stages.train.run.pretrained import WEIGHTS, check_pretrained, is_pretrained
from zsseg.stages.train.run.run_folder import is_checkpoint, read_record, read_text
from zsseg.stages.train.students.student import Student, build_student
from zsseg.stages.train.validation_config import Which

KEPT = 2
"""Whole checkpoints kept: the newest, and one before in case the newest is damaged."""

_PAUSES = (0.2, 1.0, 5.0)  # seconds before another attempt to write
_FORMAT = 1
_WEIGHTS, _TRAINING, _META = "student.safetensors", "training.pt", "meta.json"

logger = logging.getLogger(__name__)


def save(
    run: Path,
    step: int,
    *,
    student: nn.Module,
    training: dict[str, Any],
    validation: Mapping[str, Any] | None = None,
) -> Path:
    """Write the checkpoint after `step` steps.

    `training` holds tensors and plain values only: what a resume needs besides the weights;
    `validation` what the run's validations have found, None in a run without any. One of this step
    is replaced if it is damaged, and stays if it is intact, with `validation` as it is now. Raises
    ResourceError when it cannot be written; a passing error of the file system is tried again
    first.
    """
    found = {} if validation is None else {"validation": dict(validation)}
    for pause in (*_PAUSES, None):
        try:
            return _save_once(run, step, student=student, training=training, found=found)
        except ResourceError as error:
            if pause is None or not _may_pass(error.__cause__):
                raise
            logger.warning("%s; trying again", error.__cause__)
        time.sleep(pause)
    raise AssertionError  # the last attempt has returned or raised


def _save_once(
    run: Path,
    step: int,
    *,
    student: nn.Module,
    training: dict[str, Any],
    found: Mapping[str, Any],
) -> Path:
    final = folder_of(run, step)
    partial = final.with_name(final.name + PARTIAL)
    try:
        # While it is replaced it would be missing, and a run that has just resumed may have no
        # other.
        if final.exists() and _fault(final) is None:
            meta = json.loads((final / _META).read_bytes())
            if meta != (now := {**meta, **found}):
                _write_meta(final, now)
            return final
        _write(partial, step, student=student, training=training, found=found)
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        sync(final.parent)
    except (OSError, RuntimeError) as error:
        # torch's own writer meets a full disk with this RuntimeError; others have other causes.
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):
            raise
        shutil.rmtree(partial, ignore_errors=True)
        names = ", ".join(path.name for path in _by_step(run)) or "none: start again without it"
        raise ResourceError(
            f"{final}: the checkpoint could not be written ({error}). Checkpoints that are kept: "
            f"{names}. Free disk space, or fix the cause named above; then use --resume"
        ) from error
    return final


def _may_pass(error: BaseException | None) -> bool:
    """Is it what a network file system answers for a moment?"""
    return isinstance(error, OSError) and error.errno in PASSING


def prune(run: Path, known: Sequence[Path]) -> None:
    """Delete what is older than the last KEPT of `known`: those that this process has written or
    found intact, oldest first. Any other may be damaged, and is no reason to delete one. What one
    that is kept knows as the best stays too."""
    if len(known) < KEPT:
        return
    best = {(validation_of(each) or {}).get("best_step") for each in known[-KEPT:]}
    for each in _by_step(run):
        if step_of(each) < step_of(known[-KEPT]) and step_of(each) not in best:
            shutil.rmtree(each)


def _write(
    folder: Path,
    step: int,
    *,
    student: nn.Module,
    training: dict[str, Any],
    found: Mapping[str, Any],
) -> None:
    for left in folder.parent.glob(f"step-*{PARTIAL}"):
        left.unlink() if left.is_symlink() else shutil.rmtree(left, ignore_errors=True)
    folder.mkdir(parents=True)
    weights = {name: tensor.contiguous() for name, tensor in student.state_dict().items()}
    with durable_file(folder / _WEIGHTS) as file:
        file.write(serialized(weights))
    with durable_file(folder / _TRAINING) as file:
        torch.save(training, file)
    receipts = {name: _receipt(folder / name) for name in (_WEIGHTS, _TRAINING)}
    _write_meta(folder, {"format": _FORMAT, "step": step, "files": receipts, **found})


def _write_meta(folder: Path, meta: Mapping[str, Any]) -> None:
    write_durably(folder / _META, (json.dumps(meta, indent=2) + "\n").encode())


def latest(run: Path) -> Path | None:
    """The newest checkpoint that is complete and intact; None when there is none.

    A damaged one is passed over with a warning.
    """
    for folder in reversed(_by_step(run)):
        if fault := _fault(folder):
            logger.warning("passing over %s: %s", folder, fault)
        else:
            return folder
    return None


def folder_of(run: Path, step: int) -> Path:
    """The folder of the checkpoint after `step` steps, whether it exists or not."""
    return run / "checkpoints" / f"step-{step:06d}"


def step_of(checkpoint: Path) -> int:
    """How many steps were done when a checkpoint was written."""
    return int(checkpoint.name.removeprefix("step-"))


def load_weights(checkpoint: Path, student: nn.Module) -> None:
    """Put a checkpoint's weights and buffers into a student of the same configuration."""
    _load(checkpoint / _WEIGHTS, student)


def _load(weights: Path, student: nn.Module) -> None:
    try:
        student.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(
            f"{weights}: the weights of another student than the run's record and "
            f"text embeddings ask for ({reason}). Put the files of this run back, or train it again"
        ) from error


def load_training(checkpoint: Path) -> dict[str, Any]:
    """What `save` was given as `training`, on the CPU. Raises UserError when it holds code."""
    path = checkpoint / _TRAINING
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise UserError(
            f"{path}: holds more than tensors and numbers, so `zsseg train` did not write it, and "
            "it is not loaded. Delete the checkpoint and resume from the one before"
        ) from error
    if not isinstance(state, dict):
        raise UserError(
            f"{path}: not what `zsseg train` writes. Delete the checkpoint and resume from the one "
            "before"
        )
    return state


def validation_of(checkpoint: Path) -> dict[str, Any] | None:
    """What a checkpoint was saved with as `validation`; None of a run without any."""
    try:
        found: dict[str, Any] | None = json.loads((checkpoint / _META).read_bytes())["validation"]
    except (OSError, ValueError, KeyError):
        return None
    return found


def is_finished(checkpoint: Path, *, steps: int) -> bool:
    """Has its run no step left: of all `steps`, or because validations did not get better?"""
    found = validation_of(checkpoint)
    if found is not None and found["last_step"] != step_of(checkpoint) == steps:
        return False  # a signal came before the last validation
    return step_of(checkpoint) == steps or bool(found and found["stopped"])


class Chosen(NamedTuple):
    """An intact checkpoint of a run, and which one it is."""

    folder: Path
    which: Which | None
    """None: validations have chosen none, so there is only the last."""
    finished: bool
    """Has the run no step left?"""


def chosen(run: Path, which: Which | None = None) -> Chosen:
    """The checkpoint to use; `which` None: the best where validations chose one, else the last.

    Raises UserError when there is none, or no best one where it is asked for.
    """
    last = latest(run)
    if last is None:
        raise UserError(
            f"{run}: holds no complete checkpoint. Finish it with `zsseg train --resume "
            f"--out {run}`"
        )
    finished = is_finished(last, steps=read_record(run).config.train.steps)
    step = (validation_of(last) or {}).get("best_step")
    if which == "last" or (which is None and step is None):
        return Chosen(last, None if step is None else "last", finished)
    if step is None:
        raise UserError(
            f"{run}: no validation has chosen a checkpoint of this run. Give --checkpoint last; "
            "`zsseg train --validate-every N` validates one while it trains"
        )
    best = folder_of(run, step)
    if (fault := _fault(best)) is None:
        return Chosen(best, "best", finished)
    if which == "best":
        raise UserError(f"{best}: the best checkpoint, damaged ({fault}). Give --checkpoint last")
    logger.warning("%s: the best checkpoint, damaged (%s); using %s", best, fault, last)
    return Chosen(last, "last", finished)


class LoadedStudent(NamedTuple):
    """A student with the weights of a checkpoint, on the CPU, in evaluation mode."""

    student: Student
    step: int
    """Steps that it was trained for."""
    which: Which | None
    """As `Chosen` has it."""


def load_student(run: Path, which: Which | None = None) -> LoadedStudent:
    """The student of a run's checkpoint (`chosen`), or of a folder that was handed on.

    Raises UserError when the run has none, and for a choice in a folder that has one student.
    """
    if is_pretrained(run):
        if which is not None:
            raise UserError(
                f"{run}: a student that is handed on has no other checkpoint. Leave --checkpoint "
                "out"
            )
        step = check_pretrained(run).step
        return LoadedStudent(_built(run, run / WEIGHTS).eval(), step, None)
    found = chosen(run, which)
    student, done = _built(run, found.folder / _WEIGHTS), step_of(found.folder)
    if not found.finished:
        steps = read_record(run).config.train.steps
        logger.warning("%s: the run is not finished; using step %d of %d", run, done, steps)
    return LoadedStudent(student.eval(), done, found.which)


def _built(run: Path, weights: Path) -> Student:
    """The student of a run's record, with weights."""
    config = read_record(run).config.student
    student = build_student(config, read_text(run).shape[-1], pretrained=False)
    _load(weights, student)
    return student


def _by_step(run: Path) -> list[Path]:
    """A run's checkpoint folders, oldest first, intact or not; copies of other names are none."""
    folders = (run / "checkpoints").glob("step-*")
    return sorted((path for path in folders if is_checkpoint(path)), key=step_of)


def _receipt(path: Path) -> dict[str, int | str]:
    return {"bytes": path.stat().st_size, "xxh3_128": hash_file(path)}


def _fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint; None when nothing is."""
    try:
        meta = json.loads((folder / _META).read_bytes())
        if meta["format"] != _FORMAT:
            return f"{_META} is of format {meta['format']}, not {_FORMAT}"
        if meta["step"] != step_of(folder):
            return f"{_META} is that of step {meta['step']}"
        for name in (_WEIGHTS, _TRAINING):
            if _receipt(folder / name) != meta["files"][name]:
                return f"{name} is not what was written"
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"
    return None
