"""Text embeddings of any class names for a trained run, each computed once and kept in the run.

Where the run keeps every name of a class (text.synonyms=max), embeddings are (C, S, D).
Legend: C classes, S names of a class, N names of all classes, D CLIP width.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from zsseg.stages.best_names import name_rows
from zsseg.stages.cache.disk.durable import write_durably
from zsseg.stages.cache.format.recipe import fingerprint
from zsseg.stages.data.class_names import (
    equal_names,
    every_name,
    names_of,
    unusable_names,
)
from zsseg.stages.data.spec import VOID, DatasetSpec
from zsseg.stages.errors import DatasetError, UserError
from zsseg.stages.evaluate.trained_run import TrainedRun
from zsseg.stages.train.processes import copy_from_first, processes, value_from_first

SAME_TEACHER = 0.99
"""Smallest cosine between a text's embedding in the run and now at which the teacher counts as the
same: with the same CLIP it is 1 up to rounding."""

_SAME_VALUE = 1e-6
"""Two embeddings that differ less in every value are one up to rounding."""

logger = logging.getLogger(__name__)


def checked_names(names: Sequence[str]) -> tuple[str, ...]:
    """Class names without surrounding blanks, in the order given; a class may have several
    ('car|van').

    Raises UserError for one string in place of a list, and for empty or too many names, and for two
    that are equal but for case and blanks.
    """
    if isinstance(names, str):
        raise UserError(f"class names must be a list, got the text '{names}': write ['{names}']")
    checked = tuple(name.strip() for name in names)
    if not checked or not all(checked):
        raise UserError(f"class names must not be empty, got {list(names)}. Give at least one")
    if faults := unusable_names(every_name(checked)):
        raise UserError(f"class names: {'; '.join(faults)}. Give others")
    if pairs := equal_names(every_name(checked)):
        named = "; ".join(f"'{one}' and '{two}'" for one, two in pairs)
        raise UserError(
            f"class names given twice, but for case and blanks: {named}. Give each once"
        )
    if len(checked) > VOID:
        raise UserError(
            f"{len(checked)} class names; 8-bit label maps hold at most {VOID}. Give fewer"
        )
    return checked


def class_text(
    run: TrainedRun,
    names: Sequence[str],
    *,
    encode: Callable[[Sequence[str]], NDArray[np.float32]],
    teacher: str | None = None,
) -> Tensor:
    """(C, D) or (C, S, D) normalised embeddings of any names, as the run's teacher, templates and
    `synonyms` give them.

    Classes of the run, by name or by prompt name, are taken from the run, and other names from its
    `text_cache/`; `encode` makes the rest, so a second prediction needs no teacher. `encode` also
    makes the embedding of one of the run's classes: when it differs from the run's, `encode` is
    another teacher; then nothing is kept and UserError is raised. `teacher` is the source of
    `encode`, if it is not the run's: then that is looked at also where no name is missing. Raises
    UserError for two names with one embedding.
    """
    names = checked_names(names)
    known = {name: row_D for name in names if (row_D := _known(run, name)) is not None}
    missing = [name for name in names if name not in known]
    if missing or teacher is not None:
        own = run.spec.prompt_names[0]
        text_CD = F.normalize(torch.from_numpy(encode([own, *missing])), dim=-1)
        _check_teacher(run, own, text_CD[0], teacher or run.record.teacher)
        for name, padded_D in zip(missing, text_CD[1:], strict=True):
            row_D = _own_names(padded_D, name)
            known[name] = row_D.to(run.text_CD.device)
            _keep(run, name, row_D)
    text_CD = _stacked([known[name] for name in names])
    _check_different(run, names, text_CD)
    return text_CD


def _own_names(row_D: Tensor, text: str) -> Tensor:
    """(D,) or (S, D) a class's row of embeddings without a name that is there again."""
    names = len(names_of(text))
    if row_D.ndim == 1:
        return row_D
    return row_D[0] if names == 1 else row_D[:names]


def _stacked(rows: Sequence[Tensor]) -> Tensor:
    """(C, D) of rows (D,); (C, S, D) where there are rows (S, D), with a first name repeated."""
    if all(row.ndim == 1 for row in rows):
        return torch.stack([*rows])
    names = [row.reshape(-1, row.shape[-1]) for row in rows]
    most = max(map(len, names))
    return torch.stack([torch.cat([n, n[:1].expand(most - len(n), -1)]) for n in names])


def renamed(
    run: TrainedRun,
    spec: DatasetSpec,
    *,
    encode: Callable[[Sequence[str]], NDArray[np.float32]],
    teacher: str | None = None,
) -> TrainedRun:
    """The run under the prompt names of a description with the same classes, for `evaluate_run`.

    Names that the run does not know are encoded as in `class_text`, in the first process alone.
    With other classes the run is returned as it is, and `evaluate_run` says what differs. Raises
    DatasetError where another process was given other names.
    """
    if value_from_first(spec.prompt_names) != spec.prompt_names:  # before one waits for another
        raise DatasetError(
            f"'{spec.name}' has other class names in process {processes()[0]} than in process 0. "
            "Give all processes the same description"
        )
    if spec.prompt_names == run.names or spec.classes != run.spec.classes:
        return run
    text_CD = run.text_CD
    if processes()[0] == 0:
        text_CD = class_text(run, spec.prompt_names, encode=encode, teacher=teacher)
    shape = value_from_first(tuple(text_CD.shape))
    if processes()[0] != 0:
        text_CD = text_CD.new_empty(shape)
    copy_from_first([text_CD])
    return replace(run, text_CD=text_CD, names=spec.prompt_names)


def _check_different(run: TrainedRun, names: Sequence[str], text_CD: Tensor) -> None:
    """Raise UserError for two names with one embedding: the second would never be predicted.

    Of the run's own names it is a warning: the student was trained so.
    """
    rows_ND = name_rows(text_CD)
    equal_NN = (rows_ND[:, None] - rows_ND).abs().amax(2) < _SAME_VALUE
    equal_CC = equal_NN.view(len(names), -1, len(names), len(rows_ND) // len(names)).any(3).any(1)
    both = torch.triu(equal_CC, diagonal=1).nonzero().tolist()
    pairs = [f"'{names[i]}' and '{names[j]}'" for i, j in both]
    if not pairs:
        return
    text = f"class names that are one to the run's teacher, with one embedding: {'; '.join(pairs)}"
    if set(names) <= set(run.spec.classes) or set(names) <= set(run.spec.prompt_names):
        logger.warning("%s: %s", run.path, text)
    else:
        raise UserError(f"{text}. Leave one of them out, or give names that differ")


def _check_teacher(run: TrainedRun, own: str, now_D: Tensor, teacher: str) -> None:
    """Raise UserError when a teacher's embedding of the run's first class is not the run's."""
    width = run.text_CD.shape[-1]
    rows = (_own_names(each, own) for each in (run.text_CD[0].cpu(), now_D))
    then_SD, now_SD = (each.reshape(-1, each.shape[-1]) for each in rows)
    if now_SD.shape[1] != width:
        found = f"has {now_SD.shape[1]} values there and {width} in the run"
    elif not (cosine := float((now_SD * then_SD).sum(1).min())) >= SAME_TEACHER:
        found = f"has a cosine of {cosine:.2f} to that in the run"
    else:
        return
    raise UserError(
        f"{run.path}: was trained with the teacher {run.record.teacher}, and {teacher} is another "
        f"one now: the embedding of '{own}' {found}. Give the run's own teacher with --teacher "
        "(`zsseg evaluate`: --clip)"
    )


def _known(run: TrainedRun, name: str) -> Tensor | None:
    if (index := run.spec.class_of(name)) is not None:
        return _own_names(run.text_CD[index], run.spec.prompt_names[index])
    path = _path(run, name)
    if not path.is_file():
        return None
    try:
        return load_file(path)["text_D"].to(run.text_CD.device)
    except (SafetensorError, KeyError) as error:
        logger.warning("%s: damaged (%s), computed again", path, error)
        return None


def _keep(run: TrainedRun, name: str, row_D: Tensor) -> None:
    path = _path(run, name)
    try:
        write_durably(path, save({"text_D": row_D.contiguous()}, metadata={"name": name}))
    except OSError as error:
        logger.warning("the embedding of '%s' is not kept: %s", name, error)


def _path(run: TrainedRun, name: str) -> Path:
    recipe = {"teacher": run.record.teacher, "templates": run.record.templates, "name": name}
    if len(names_of(name)) > 1:
        recipe["synonyms"] = run.record.synonyms
    return run.path / "text_cache" / f"{fingerprint(recipe)}.safetensors"
