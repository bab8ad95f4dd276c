"""Text embeddings of classes: prompt templates, averaged, and several names of a class.

Legend: C classes, S names of a class, T templates, D CLIP width.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.data.class_names import every_name, names_of
from zsseg.stages.errors import UserError
from zsseg.stages.precompute.teacher.open_teacher import open_teacher
from zsseg.stages.precompute.teacher.teacher_files import TeacherFiles
from zsseg.stages.yaml_files import packaged_values

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from zsseg.stages.precompute.teacher.teacher_protocol import Teacher

logger = logging.getLogger(__name__)

Templates = Literal["single", "coco15", "imagenet80"]
Synonyms = Literal["mean", "max"]

_SAME = 1e-6
"""Two embeddings of length 1 that differ less in every number are one up to rounding."""


def load_templates(name: Templates) -> tuple[str, ...]:
    """The prompt templates of a set in configs/templates.yaml; `{}` stands for the class name."""
    return tuple(packaged_values("templates.yaml")[name])


def embed_classes(
    teacher: "Teacher",
    names: Sequence[str],
    templates: Templates,
    *,
    synonyms: Synonyms = "mean",
) -> NDArray[np.float32]:
    """(C, D) unit vectors: per name the mean of its normalised prompts, normalised again.

    `names` are the names for prompts, in class order (CLIP, Radford et al. 2021, section 3.1.4).
    Of a class of several names ('car|van') it is the mean of theirs, normalised again; with
    `synonyms` max, where a class has several, the result is (C, S, D): all names, the first one
    again for classes with fewer than S. A teacher that takes no prompts gets the names alone. Warns
    of names that the tokenizer cuts off, and raises UserError for two names that are the same to
    it, or that have the same embedding.
    """
    patterns = load_templates(templates) if teacher.prompts else ("{}",)
    if teacher.tokenizer is not None:
        _check_tokens(teacher.tokenizer, every_name(names), patterns)
    rows = [
        np.stack([_embed(teacher, name, patterns) for name in names_of(text)]) for text in names
    ]
    if teacher.tokenizer is None:
        _check_embeddings(every_name(names), np.concatenate(rows))
    most = max(map(len, rows))
    if synonyms == "max" and most > 1:
        return np.stack([np.concatenate([row, row[:1].repeat(most - len(row), 0)]) for row in rows])
    return np.stack([row[0] if len(row) == 1 else _unit_mean(row) for row in rows])


def _embed(teacher: "Teacher", name: str, patterns: Sequence[str]) -> NDArray[np.float32]:
    """(D,) of one name"""
    prompt_TD = teacher.text([pattern.replace("{}", name) for pattern in patterns])
    return _unit_mean(prompt_TD / np.linalg.norm(prompt_TD, axis=1, keepdims=True))


def _unit_mean(rows_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    mean_D = rows_ND.mean(0)
    unit_D: NDArray[np.float32] = mean_D / np.linalg.norm(mean_D)
    return unit_D


def _check_embeddings(names: Sequence[str], text_CD: NDArray[np.float32]) -> None:
    for place, name in enumerate(names):
        for other in range(place):
            if names[other] != name and np.abs(text_CD[other] - text_CD[place]).max() < _SAME:
                raise UserError(
                    f"the classes '{names[other]}' and '{name}' have one embedding: they are one "
                    "to the teacher. Give them names that it tells apart"
                )


def _check_tokens(
    tokenizer: "Callable[[list[str]], Tensor]", names: Sequence[str], patterns: Sequence[str]
) -> None:
    def tokens(name: str) -> tuple[bytes, ...]:
        prompts = [pattern.replace("{}", name) for pattern in patterns]
        return tuple(row_L.numpy().tobytes() for row_L in tokenizer(prompts))

    owner: dict[tuple[bytes, ...], str] = {}
    for name in names:
        seen = tokens(name)
        # A word more at its end changes nothing in some prompt: its end is not seen there.
        more = tokens(f"{name} more")
        cut = any(one == two for one, two in zip(seen, more, strict=True))
        if (other := owner.setdefault(seen, name)) != name:
            why = "both are cut off where they are still equal" if cut else "equal prompts"
            raise UserError(
                f"the classes '{other}' and '{name}' are one to the teacher's tokenizer ({why}). "
                "Give them shorter names that differ"
            )
        if cut:
            logger.warning(
                "class name '%s' is too long for the teacher: in a prompt its end is cut off. Use "
                "a shorter name",
                name,
            )


def encode_names(
    files: TeacherFiles,
    names: Sequence[str],
    templates: Templates,
    *,
    synonyms: Synonyms = "mean",
) -> NDArray[np.float32]:
    """`embed_classes` for a teacher that is not loaded yet (`predict --classes`)."""
    return embed_classes(open_teacher(files, device="auto"), names, templates, synonyms=synonyms)
