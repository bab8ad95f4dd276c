"""Writes and reads checkpoints: whole or not at all, and checked before use.

    checkpoints/step-000200/
      student.safetensors   weights and buffers of the student
      training.pt           everything else that a resume needs: `state.save_state`
      meta.json             step, and the size and hash of the other two; written last

A checkpoint is written to `step-000200.partial`, synced to disk and renamed, so a crash never
leaves half of one under its final name; the next save deletes the partial one. Nothing in it can
carry code: safetensors, and torch.load with weights_only.
"""

import json
import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

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

KEPT = 2
"""Whole checkpoints kept: the newest, and one before in case the newest is damaged."""

_PAUSES = (0.2, 1.0, 5.0)  # seconds before another attempt to write
_FORMAT = 1
_WEIGHTS, _TRAINING, _META = "student.safetensors", "training.pt", "meta.json"

logger = logging.getLogger(__name__)


def save(run: Path, step: int, *, student: nn.Module, training: dict[str, Any]) -> Path:
    """Write the checkpoint after `step` steps.

    `training` holds tensors and plain values only: what a resume needs besides the weights. One
    of this step is replaced if it is damaged, and stays if it is intact. Raises ResourceError when
    it cannot be written; a passing error of the file system is tried again first.
    """
    for pause in (*_PAUSES, None):
        try:
            return _save_once(run, step, student=student, training=training)
        except ResourceError as error:
            if pause is None or not _may_pass(error.__cause__):
                raise
            logger.warning("%s; trying again", error.__cause__)
        time.sleep(pause)
    raise AssertionError  # the last attempt has returned or raised


def _save_once(run: Path, step: int, *, student: nn.Module, training: dict[str, Any]) -> Path:
    final = folder_of(run, step)
    # While it is replaced it would be missing, and a run that has just resumed may have no other.
    if final.exists() and _fault(final) is None:
        return final
    partial = final.with_name(final.name + PARTIAL)
    try:
        _write(partial, step, student=student, training=training)
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
    found intact, oldest first. Any other may be damaged, and is no reason to delete one."""
    if len(known) < KEPT:
        return
    for each in _by_step(run):
        if step_of(each) < step_of(known[-KEPT]):
            shutil.rmtree(each)


def _write(folder: Path, step: int, *, student: nn.Module, training: dict[str, Any]) -> None:
    for left in folder.parent.glob(f"step-*{PARTIAL}"):
        left.unlink() if left.is_symlink() else shutil.rmtree(left, ignore_errors=True)
    folder.mkdir(parents=True)
    weights = {name: tensor.contiguous() for name, tensor in student.state_dict().items()}
    with durable_file(folder / _WEIGHTS) as file:
        file.write(serialized(weights))
    with durable_file(folder / _TRAINING) as file:
        torch.save(training, file)
    receipts = {name: _receipt(folder / name) for name in (_WEIGHTS, _TRAINING)}
    meta = {"format": _FORMAT, "step": step, "files": receipts}
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


def load_student(run: Path) -> tuple[Student, int]:
    """The student of a run's newest intact checkpoint, and how many steps it was trained for.

    Or that of a folder that is handed on (`pretrained`). On the CPU, in evaluation mode. Raises
    UserError when the run has none.
    """
    if is_pretrained(run):
        return _built(run, run / WEIGHTS).eval(), check_pretrained(run).step
    checkpoint = latest(run)
    if checkpoint is None:
        raise UserError(
            f"{run}: holds no complete checkpoint. Finish it with `zsseg train --resume "
            f"--out {run}`"
        )
    student = _built(run, checkpoint / _WEIGHTS)
    done, steps = step_of(checkpoint), read_record(run).config.train.steps
    if done < steps:
        logger.warning("%s: the run is not finished; using step %d of %d", run, done, steps)
    return student.eval(), done


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
