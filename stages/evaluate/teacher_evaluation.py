"""Scores the teacher alone on a store's own split: its dense tokens, and its map of names.

Protocol and legend: see `evaluation`; y x grid of the map of names.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsseg.stages.cache.format.codec import DENSE
from zsseg.stages.cache.format.name_scores import SCORE_OF_CODE
from zsseg.stages.cache.format.recipe import differing_fields
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.labels import read_label
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.data.splits import list_samples
from zsseg.stages.device import choose_device
from zsseg.stages.errors import CacheError, DatasetError
from zsseg.stages.evaluate.evaluation import (
    Progress,
    class_lists,
    confusions,
    gammas_of,
    labelled,
)
from zsseg.stages.evaluate.labelling import upsampled_argmax
from zsseg.stages.evaluate.metrics import scores
from zsseg.stages.evaluate.result import EvaluationResult, variant
from zsseg.stages.train.students.student import class_logits

TOKENS, MAP = "dense tokens", "map of names"
"""What a result was made from, where a store has both."""

PIXEL_NAMES = "pixel_names"


@dataclass(frozen=True)
class _Source:
    """Something of a store that is scored."""

    read: Callable[[int], Any]
    """Of a row of the store."""
    score: Callable[[Any], Tensor]
    """(C, h, w) from what was read."""
    gammas: tuple[float, ...]
    settings: dict[str, str]


def evaluate_teacher(
    store: Store,
    spec: DatasetSpec,
    root: Path,
    *,
    calibration: float = 0.0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    progress: Progress,
) -> tuple[EvaluationResult, ...]:
    """Score a store's dense tokens on its own split: CLIP as the student is taught, untrained.

    Cosine of token and text embedding, upsampled to the label's size. One result with gamma 0 and,
    if `calibration` is above 0, a second one with it as gamma; where the store has a map of names,
    one of the map comes last. Images without a label or tokens are left out and counted. Raises
    CacheError when the store was made for other classes, DatasetError as `evaluate_run` does.
    """
    stored = {name: store.identity[name] for name in ("classes", "unseen")}
    if changed := differing_fields(stored, class_lists(spec)):
        raise CacheError(
            f"{store.path}: made for other classes than '{spec.name}' has:",
            *map("  {}".format, changed),
            "Give the description that it was made with",
        )
    row_of = {entry["id"]: entry["row"] for entry in store.index}
    text_CD = torch.from_numpy(store.read_all("text")).to(choose_device(device))
    samples = labelled(_cached_samples(store, spec, root), spec, root, store.identity["split"])
    results: list[EvaluationResult] = []
    for source in _sources(store, text_CD, calibration):

        def read(sample: Sample, source: _Source = source) -> tuple[NDArray[np.uint8], Any]:
            return read_label(spec, sample), source.read(row_of[sample.id])

        confusion_GCC = confusions(spec, samples, read, source.score, source.gammas, progress)
        results += [
            _result(store, spec, len(samples), source.settings | {"calibration": gamma}, counts_CC)
            for gamma, counts_CC in zip(source.gammas, confusion_GCC, strict=True)
        ]
    return tuple(results)


def _sources(store: Store, text_CD: Tensor, calibration: float) -> list[_Source]:
    """What a store has to score. Reading dense tokens says so where there is nothing at all."""
    has_map = store.has(PIXEL_NAMES)
    found = []
    if store.has(DENSE) or not has_map:
        found.append(
            _Source(
                read=lambda row: store.read(DENSE, row),
                score=lambda dense_Dhw: _teacher_scores(dense_Dhw, text_CD),
                gammas=gammas_of(calibration),
                settings={"from": TOKENS} if has_map else {},
            )
        )
    if has_map:
        found.append(
            _Source(
                read=lambda row: store.read(PIXEL_NAMES, row),
                score=lambda map_4yx: named_scores(map_4yx, len(text_CD)).to(text_CD.device),
                gammas=(0.0,),
                settings={"from": MAP},
            )
        )
    return found


def _result(
    store: Store,
    spec: DatasetSpec,
    images: int,
    settings: dict[str, Any],
    confusion_CC: NDArray[np.int64],
) -> EvaluationResult:
    own = variant(
        dataset=spec.name,
        own_dataset=store.identity["dataset"],
        settings={"calibration": settings["calibration"]},
        own_settings={},
    )
    return EvaluationResult(
        subject="teacher",
        source=str(store.path),
        dataset=spec.name,
        split=store.identity["split"],
        classes=spec.classes,
        unseen=spec.unseen,
        images=images,
        left_out=store.rows - images,
        trained_on=0,
        settings={"store_fingerprint": store.fingerprint, **settings},
        variant=("names", *own) if settings.get("from") == MAP else own,
        scores=scores(confusion_CC, spec.unseen_ids),
        confusion_CC=confusion_CC,
    )


def _cached_samples(store: Store, spec: DatasetSpec, root: Path) -> list[Sample]:
    """The samples that a store has tokens of. Raises DatasetError when one is not there."""
    listed = list_samples(spec, root, store.identity["split"])
    row_of = {entry["id"]: entry["row"] for entry in store.index}
    stored = [sample for sample in listed if sample.id in row_of]
    if len(stored) < store.rows:
        raise DatasetError(
            f"{root}: {store.rows - len(stored)} of the {store.rows} images in {store.path} are "
            "not there. Give the data set that the store was made from"
        )
    failed = store.read_all("status") != 0
    return [sample for sample in stored if not failed[row_of[sample.id]]]


def teacher_label(
    dense_Dhw: NDArray[np.floating], text_CD: Tensor, size: tuple[int, ...]
) -> NDArray[np.uint8]:
    """(H, W) class ids that an image's dense tokens give at `size`, without gamma."""
    return upsampled_argmax(_teacher_scores(dense_Dhw, text_CD), size)


def _teacher_scores(dense_Dhw: NDArray[np.floating], text_CD: Tensor) -> Tensor:
    """(C, h, w) cosine of token and text embedding; runs where `text_CD` lies."""
    token_1Dhw = torch.from_numpy(dense_Dhw.astype(np.float32))[None].to(text_CD.device)
    return class_logits(token_1Dhw, text_CD, 1.0)[0]


def named_scores(map_4yx: NDArray[np.uint8], classes: int) -> Tensor:
    """(C, y, x) the scores of the best two classes of each cell, 0 for the others."""
    score_Cyx = torch.zeros(classes, *map_4yx.shape[1:])
    score_2yx = torch.from_numpy(SCORE_OF_CODE[map_4yx[2:]])
    return score_Cyx.scatter_(0, torch.from_numpy(map_4yx[:2]).long(), score_2yx)
