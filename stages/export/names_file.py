"""Text embeddings in a file, for a machine that has no CLIP.

A NumPy archive: `names` (C,), `text` (C, D) or (C, S, D) float32, `colours` (C, 3) uint8,
`background` (how many names at the end are background), `teacher` and `templates`; `own_name` and
`own_text` (D,): a class of the run, by which another run tells whether its teacher is the same.
"""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zsseg.stages.cache.disk.durable import write_durably
from zsseg.stages.data.spec import Colour
from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.asked_names import AskedNames, with_text
from zsseg.stages.evaluate.trained_run import TrainedRun
from zsseg.stages.evaluate.vocabulary import SAME_TEACHER
from zsseg.stages.share.run_facts import teacher_name


def write_names(path: Path, run: TrainedRun, asked: AskedNames) -> None:
    """Write a file of names, whole or not at all."""
    stream = io.BytesIO()
    np.savez(
        stream,
        names=np.array(asked.names, dtype=str),
        text=asked.text_KD.cpu().numpy().astype(np.float32),
        colours=asked.palette[: len(asked.names)],
        background=np.array(len(asked.background)),
        teacher=np.array(teacher_name(run)),
        templates=np.array(run.record.templates),
        own_name=np.array(run.spec.prompt_names[0]),
        own_text=_first(run.text_CD[0]).cpu().numpy().astype(np.float32),
    )
    write_durably(path, stream.getvalue())


def read_names_file(
    path: Path, run: TrainedRun, *, colours: Mapping[str, Colour] | None = None
) -> AskedNames:
    """The names of a file, for a run of the same teacher and templates; `colours`: see
    `name_colours`.

    Raises UserError for a file that is none, where its embeddings are not of the run's kind, and
    where a class of the run has another embedding there: then another teacher made it.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            names = tuple(str(name) for name in stored["names"])
            text = np.asarray(stored["text"], dtype=np.float32)
            behind = int(stored["background"])
            templates = str(stored["templates"])
            made_by, own_name = str(stored["teacher"]), str(stored["own_name"])
            own_text = np.asarray(stored["own_text"], dtype=np.float32)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: is no file of names ({error}). Make one with `zsseg names --run RUN NAMES "
            f"--out {path.name}`"
        ) from error
    width, several = run.text_CD.shape[-1], run.text_CD.ndim == 3
    kind = (len(names), width) if text.ndim == 2 else (len(names), text.shape[1], width)
    fits = text.shape == kind and (text.ndim == 2 or several) and 0 <= behind < len(names)
    if not fits or not np.isfinite(text).all() or templates != run.record.templates:
        raise UserError(
            f"{path}: its embeddings do not fit {run.path}: they have {text.shape[-1]} values and "
            f"are made with the templates {templates}, the run has {width} and "
            f"{run.record.templates}. Make the file with this run"
        )
    for name, row in zip((own_name, *names), (own_text, *text), strict=True):
        own = run.spec.class_of(name)
        if own is not None and not _alike(run.text_CD[own].cpu(), torch.from_numpy(row)):
            raise UserError(
                f"{path}: was made with the teacher {made_by}, which is not that of {run.path}: "
                f"they differ in the embedding of '{name}'. Make the file with this run"
            )
    text_KD, end = torch.from_numpy(text).to(run.text_CD.device), len(names) - behind
    return with_text(run, names[:end], names[end:], text_KD, colours=colours)


def _first(text: Tensor) -> Tensor:
    """(D,) of (D,) or (S, D): a class is known by its first name."""
    return text.reshape(-1, text.shape[-1])[0]


def _alike(one: Tensor, other: Tensor) -> bool:
    return float(F.cosine_similarity(_first(one), _first(other), dim=0)) >= SAME_TEACHER
