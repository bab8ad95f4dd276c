"""Tries a teacher on a few images: does it keep what stage one relies on?

Legend: n images, H W pixels, C names, D width, h w token grid, R regions of one class.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.data.spec import VOID
from zsseg.stages.errors import UserError
from zsseg.stages.precompute.make.class_crops import class_masks
from zsseg.stages.precompute.make.pictures import Picture
from zsseg.stages.precompute.make.pooled_tokens import pooled
from zsseg.stages.precompute.make.recorded_views import seen_whole
from zsseg.stages.precompute.make.token_loss import token_cosines
from zsseg.stages.precompute.precompute_config import DenseConfig
from zsseg.stages.precompute.teacher.dense_passes import auto_size
from zsseg.stages.precompute.teacher.open_teacher import open_teacher
from zsseg.stages.precompute.teacher.own_code import build_own
from zsseg.stages.precompute.teacher.teacher_files import TeacherFiles, resolve_teacher
from zsseg.stages.precompute.teacher.teacher_protocol import Seen, Teacher
from zsseg.stages.precompute.teacher.text_embeddings import embed_classes

SAME = 0.9999
"""Least cosine of tokens that should be the same. [ours]"""
BY_CHANCE = 0.01
"""Greatest share of random assignments of names that may fit as well as the right one. [ours]"""
_DEALT = 1000
_SMALLEST = 64  # pixels of a region that is looked at


@dataclass(frozen=True)
class ShownImage:
    """An image that the teacher is tried on."""

    id: str
    image_HW3: NDArray[np.uint8]
    label_HW: NDArray[np.uint8] | None = None
    """Places in the list of names, or VOID; None where it is not known what the image shows."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    passed: bool | None
    """None: told, not judged."""
    said: str


@dataclass(frozen=True)
class _Tried:
    """What a teacher gave for the images and names."""

    teacher: Teacher
    config: DenseConfig
    images: Sequence[Seen]
    dense_nDhw: NDArray[np.float32]
    cls_nD: NDArray[np.float32]
    text_CD: NDArray[np.float32]
    seconds: float


def check_teacher(
    spec: str,
    shown: Sequence[ShownImage],
    names: Sequence[str],
    *,
    device: Literal["auto", "cpu", "cuda"],
) -> list[Finding]:
    """What a teacher that a person names does with images and names.

    Raises UserError and ResourceError for a teacher that cannot be opened at all; what it does
    wrong afterwards is a finding, and ends the check where nothing more can be tried.
    """
    files = resolve_teacher(spec, typed=True)
    found = [_fingerprint(files)]
    try:
        tried = _try(open_teacher(files, device=device), shown, names)
    except UserError as error:
        return [*found, Finding("shapes", False, str(error))]
    found.append(Finding("shapes", True, _shapes(tried)))
    finite = all(np.isfinite(each).all() for each in (tried.dense_nDhw, tried.cls_nD))
    found.append(Finding("finite", finite, "no NaN or infinity" if finite else "NaN or infinity"))
    if finite:
        found += _compared(tried, shown)
    found.append(_spaces(tried, shown, names) if finite else _not_tried("one space"))
    each = tried.seconds / len(tried.images)
    found.append(Finding("time", None, f"{each:.3f} s for the CLS and dense tokens of an image"))
    return found


def _fingerprint(files: TeacherFiles) -> Finding:
    build_own.cache_clear()  # an object of the user's own is built anew, as in another process
    again = resolve_teacher(files.spec, typed=True)
    same = again.text_recipe() == files.text_recipe()
    parts = ", ".join(f"{name} {value[:8]}" for name, value in files.text_recipe().items())
    return Finding("fingerprint", same, parts if same else "another one when asked again")


def _try(teacher: Teacher, shown: Sequence[ShownImage], names: Sequence[str]) -> _Tried:
    """Dense tokens at the size that dense.size=auto has for these images."""
    shapes = [(each.image_HW3.shape[0], each.image_HW3.shape[1]) for each in shown]
    config = DenseConfig(size=auto_size(shapes, teacher.strides))
    seen = [_seen(teacher, each.id, each.image_HW3, config) for each in shown]
    text_CD = embed_classes(teacher, names, "single")
    teacher.cls([_whole(teacher, shown[0].id, shown[0].image_HW3)])  # the first is slower
    start = perf_counter()
    dense_nDhw = teacher.dense(seen, config)
    cls_nD = teacher.cls([_whole(teacher, each.id, each.image_HW3) for each in shown])
    return _Tried(teacher, config, seen, dense_nDhw, cls_nD, text_CD, perf_counter() - start)


def _seen(teacher: Teacher, name: str, image_HW3: NDArray[np.uint8], config: DenseConfig) -> Seen:
    return seen_whole(teacher, Picture(image_HW3, image_HW3[..., 0], name), config)


def _whole(teacher: Teacher, name: str, image_HW3: NDArray[np.uint8]) -> Seen:
    return name if teacher.by_id else teacher.fitted(image_HW3, teacher.native_size)


def _shapes(tried: _Tried) -> str:
    _, width, rows, columns = tried.dense_nDhw.shape
    height, across = tried.config.pixels
    at = "" if tried.teacher.by_id else f" of {height} x {across} pixels"
    return f"CLS and names of {width} numbers; {rows} x {columns} dense tokens{at}"


def _compared(tried: _Tried, shown: Sequence[ShownImage]) -> Iterator[Finding]:
    """Tokens with those that should be, or should not be, the same."""
    teacher, config, dense_nDhw = tried.teacher, tried.config, tried.dense_nDhw
    yield _alike("the same again", dense_nDhw, teacher.dense(tried.images, config))
    alone = np.concatenate([teacher.dense([each], config) for each in tried.images])
    yield _alike("alone as in a batch", dense_nDhw, alone)
    if teacher.by_id:
        yield _not_tried("mirrored")
    else:
        yield _mirrored(tried, shown)
    _, columns = dense_nDhw.shape[2:]
    beside = float(_cosine(dense_nDhw, np.roll(dense_nDhw, max(1, columns // 2), axis=3)).mean())
    said = f"cosine {beside:.4f} of tokens half an image apart"
    yield Finding("places differ", beside < SAME, said)
    likeness_CC = tried.text_CD @ tried.text_CD.T - 2 * np.eye(len(tried.text_CD))
    nearest = float(likeness_CC.max()) if len(likeness_CC) > 1 else -1.0
    yield Finding("names differ", nearest < SAME, f"cosine of the two nearest {nearest:.4f}")


def _alike(what: str, one_nDhw: NDArray[np.float32], two_nDhw: NDArray[np.float32]) -> Finding:
    worst = float(_cosine(one_nDhw, two_nDhw).min())
    return Finding(what, worst >= SAME, f"worst cosine {worst:.6f}")


def _mirrored(tried: _Tried, shown: Sequence[ShownImage]) -> Finding:
    """A map laid out the wrong way is nearer to that of the mirrored image as it is."""
    teacher, config = tried.teacher, tried.config
    mirrored = [np.ascontiguousarray(each.image_HW3[:, ::-1]) for each in shown]
    seen = [_seen(teacher, "", image_HW3, config) for image_HW3 in mirrored]
    made_nDhw = teacher.dense(seen, config)
    back = float(_cosine(tried.dense_nDhw, made_nDhw[..., ::-1]).mean())
    still = float(_cosine(tried.dense_nDhw, made_nDhw).mean())
    said = (
        f"cosine {back:.3f} to the map of the mirrored image, mirrored; {still:.3f} to the same "
        "map as it is. dense.flip averages both"
    )
    return Finding("mirrored", back >= still, said)


def _spaces(tried: _Tried, shown: Sequence[ShownImage], names: Sequence[str]) -> Finding:
    """Do names fit what they name better than names dealt out at random?"""
    tokens, classes = [], []
    for each, dense_Dhw in zip(shown, tried.dense_nDhw, strict=True):
        if each.label_HW is not None:
            nowhere = np.zeros(dense_Dhw.shape[1:], np.uint8)
            masks = class_masks(each.label_HW, nowhere, max_masks=VOID)
            large = masks.measures.area_M[masks.codes] >= _SMALLEST
            tokens.append(pooled(dense_Dhw, masks)[large])
            classes += [code for code, kept in zip(masks.codes, large, strict=True) if kept]
    if len(set(classes)) < 3:
        return _best_names(tried, names)
    token_RD = np.concatenate(tokens)
    token_RD /= np.maximum(np.linalg.norm(token_RD, axis=1, keepdims=True), 1e-12)
    chance = fits_by_chance(token_RD @ tried.text_CD.T, np.array(classes))
    said = (
        f"{100 * chance:.1f} % of random assignments of names fit {len(classes)} regions of "
        f"{len(set(classes))} classes as well as the right one (at most {100 * BY_CHANCE:.0f} %)"
    )
    return Finding("one space", chance <= BY_CHANCE, said)


def fits_by_chance(score_RC: NDArray[np.floating], class_R: NDArray[np.int64]) -> float:
    """Share of assignments of names, dealt out at random, that fit regions as well as the right.

    How well: the mean score of each region and its name, each name's mean over all regions taken
    off, since a teacher may like one name everywhere. A permutation test, with a seed of its own.
    """
    score_RC = score_RC - score_RC.mean(0)
    present, place_R = np.unique(class_R, return_inverse=True)
    score_RP, rows = score_RC[:, present], np.arange(len(class_R))
    right, rng = score_RP[rows, place_R].mean(), np.random.default_rng(0)
    dealt = (rng.permutation(len(present))[place_R] for _ in range(_DEALT))
    as_good = sum(bool(score_RP[rows, each].mean() >= right) for each in dealt)
    return (1 + as_good) / (1 + _DEALT)


def _best_names(tried: _Tried, names: Sequence[str]) -> Finding:
    """Told where nothing says what the images show."""
    token_nDhw = tried.dense_nDhw / np.maximum(
        np.linalg.norm(tried.dense_nDhw, axis=1, keepdims=True), 1e-12
    )
    best = np.einsum("cd,ndhw->nchw", tried.text_CD, token_nDhw).argmax(1)
    shares = np.bincount(best.ravel(), minlength=len(names)) / best.size
    top = ", ".join(f"{names[i]} {100 * shares[i]:.0f} %" for i in np.argsort(-shares)[:4])
    return Finding("one space", None, f"not judged without labels; names given most often: {top}")


def _not_tried(what: str) -> Finding:
    return Finding(what, None, "not tried")


def _cosine(one_nDhw: NDArray[np.float32], two_nDhw: NDArray[np.float32]) -> NDArray[np.float64]:
    return token_cosines(np.moveaxis(one_nDhw, 1, 0), np.moveaxis(two_nDhw, 1, 0))
