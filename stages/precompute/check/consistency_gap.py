"""The consistency gap: the teacher's tokens of a crop, against the stored ones of that place.

A student that sees a crop should learn teacher(crop(x)); a store of whole images has
crop(teacher(x)). Recorded views close the gap of CLS tokens. The gap of dense tokens stays: it is
the price of storing one map per image. What mirroring does is measured apart, on whole images:
with `dense.flip` the gap of dense tokens is none.
Legend: V views, T tokens, C classes, D CLIP width, h w token grid.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.cache.format.codec import DENSE, stored_format
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.geometry import View, crop_tokens, pool_tokens
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.errors import DatasetError
from zsseg.stages.precompute.make.dense_artifact import token_settings
from zsseg.stages.precompute.make.pictures import read_image_row
from zsseg.stages.precompute.make.recorded_views import image_views, seen_by_teacher
from zsseg.stages.precompute.make.token_loss import compare, spread
from zsseg.stages.precompute.precompute_config import DenseConfig, ViewConfig
from zsseg.stages.precompute.teacher.teacher_protocol import Teacher

CROPS = 4
"""Crops per image that are compared: the first recorded ones, or those that would be recorded."""


@dataclass(frozen=True)
class Likeness:
    """How similar two sets of tokens of the same pixels are."""

    cosine: float
    """Mean over all tokens."""
    worst: float
    """Mean over the tokens of the worst crop, or mirrored image."""
    same_class: float
    """Share of the tokens that are nearest to the same class name in both."""


@dataclass(frozen=True)
class Gap:
    """How similar the crops' own tokens are to what is compared with them."""

    images: int
    crops: int
    recorded: int
    """Crops of each image whose CLS token the store has."""
    mirrored_dense: Likeness
    """Dense tokens of the mirrored whole image, to those of the whole image, mirrored."""
    mirrored_image: Likeness
    """CLS token of the mirrored whole image, to that of the whole image."""
    dense: Likeness
    """Dense tokens, to those of the whole image cut out at the crop."""
    image: Likeness
    """CLS token, to that of the whole image."""
    pooled: Likeness
    """CLS token, to the mean of the whole image's dense tokens at the crop."""
    others: Likeness | None
    """CLS token, to that of another whole image, as a reference for the ones above."""


@dataclass(frozen=True)
class StoredImage:
    """What a store has of a whole image."""

    dense_Dhw: NDArray[np.floating]
    cls_D: NDArray[np.floating]
    other_D: NDArray[np.floating] | None
    """CLS token of another image."""


Compared = dict[str, tuple[NDArray[np.float64], int]]
"""By field of `Gap`: cosines (T,) of one crop or mirrored image, and how many of these tokens have
the same class."""


def measure_gap(
    store: Store,
    *,
    spec: DatasetSpec,
    root: Path,
    samples: Sequence[Sample],
    teacher: Teacher,
    images: int,
    progress: Callable[[int, int], None],
) -> Gap:
    """Compare at CROPS crops of at most `images` images, evenly spread over the store.

    `samples` are those of the store's rows, `teacher` is the one that it was made with; `progress`
    gets the numbers of images done and of all. Dense tokens that the store does not keep are made
    again. Raises DatasetError for an image that has changed since, and for a store in which every
    image has failed.
    """
    config = dense_config(store)
    text_CD = store.read_all("text")
    rows = spread(np.flatnonzero(store.read_all("status") == 0), images)
    if not rows:
        raise DatasetError(
            f"{store.path}: no image of it could be read by precompute. Mend the images "
            "(`zsseg dataset verify` names them), and run its `zsseg precompute` command again"
        )
    whole_D = [store.read("cls", row)[0] for row in rows]
    found: list[Compared] = []
    mirrored: list[Compared] = []
    recorded = len(store.read("views", rows[0])) - 1
    for place, row in enumerate(rows):
        image_HW3 = _same_image(store, row, spec=spec, root=root, sample=samples[row])
        if recorded:
            view_V6 = store.read("views", row)[1 : 1 + CROPS]
        else:
            view_V6 = image_views(image_HW3, ViewConfig(number=CROPS))[1:]
        stored = StoredImage(
            dense_Dhw=_dense(store, row, teacher=teacher, image_HW3=image_HW3, config=config),
            cls_D=whole_D[place],
            other_D=whole_D[place - 1] if len(rows) > 1 else None,
        )
        found += compare_crops(teacher, image_HW3, view_V6, stored, text_CD, config=config)
        mirrored.append(compare_mirrored(teacher, image_HW3, stored, text_CD, config=config))
        progress(place + 1, len(rows))
    others = _likeness("others", found) if len(rows) > 1 else None
    return Gap(
        images=len(rows),
        crops=len(found),
        recorded=recorded,
        mirrored_dense=_likeness("mirrored_dense", mirrored),
        mirrored_image=_likeness("mirrored_image", mirrored),
        dense=_likeness("dense", found),
        image=_likeness("image", found),
        pooled=_likeness("pooled", found),
        others=others,
    )


def compare_crops(
    teacher: Teacher,
    image_HW3: NDArray[np.uint8],
    view_V6: NDArray[np.float32],
    stored: StoredImage,
    text_CD: NDArray[np.float32],
    *,
    config: DenseConfig,
) -> list[Compared]:
    """Compare the teacher's tokens of each crop of an image with the stored ones of the whole.

    The stored map is cut as in training: tokens of length 1, bilinear. Recorded views are not
    mirrored here.
    """
    views = [replace(View.from_row(view_6), flip=False) for view_6 in view_V6]
    largest = max((seen.size for seen in teacher.dense_passes(config)), key=prod)
    small, large = (
        [seen_by_teacher(teacher, image_HW3, view.as_row(), size) for view in views]
        for size in (teacher.native_size, largest)
    )
    cls_VD, dense_VDhw = teacher.cls(small), teacher.dense(large, config)
    unit_Dhw = stored.dense_Dhw.astype(np.float32)
    unit_Dhw /= np.maximum(np.linalg.norm(unit_Dhw, axis=0, keepdims=True), 1e-12)
    _, rows, columns = unit_Dhw.shape
    found: list[Compared] = []
    for view, cls_D, dense_Dhw in zip(views, cls_VD, dense_VDhw, strict=True):
        cut_Dhw = crop_tokens(unit_Dhw, view, (rows, columns))
        pooled_D = pool_tokens(stored.dense_Dhw, view)
        found.append(
            {
                "dense": compare(cut_Dhw, dense_Dhw, text_CD),
                "image": compare(stored.cls_D, cls_D, text_CD),
                "pooled": compare(pooled_D, cls_D, text_CD),
            }
        )
        if stored.other_D is not None:
            found[-1]["others"] = compare(stored.other_D, cls_D, text_CD)
    return found


def compare_mirrored(
    teacher: Teacher,
    image_HW3: NDArray[np.uint8],
    stored: StoredImage,
    text_CD: NDArray[np.float32],
    *,
    config: DenseConfig,
) -> Compared:
    """Compare the teacher's tokens of the mirrored image with the stored ones, mirrored."""
    mirror_HW3 = np.ascontiguousarray(image_HW3[:, ::-1])
    (cls_D,), (dense_Dhw,) = teacher.cls([mirror_HW3]), teacher.dense([mirror_HW3], config)
    return {
        "mirrored_dense": compare(stored.dense_Dhw[:, :, ::-1], dense_Dhw, text_CD),
        "mirrored_image": compare(stored.cls_D, cls_D, text_CD),
    }


def dense_config(store: Store) -> DenseConfig:
    """The settings that the dense tokens of a store were made with, but for their format."""
    asked, recipe = store.identity[DENSE], store.recipes[DENSE]
    height, width = asked["size"]
    values = {"size": (height, width), "path": asked["path"], **token_settings(recipe)}
    return DenseConfig.model_validate_json(json.dumps(values))


def _dense(
    store: Store,
    row: int,
    *,
    teacher: Teacher,
    image_HW3: NDArray[np.uint8],
    config: DenseConfig,
) -> NDArray[np.floating]:
    if stored_format(store.recipes[DENSE]) == "none":
        (dense_Dhw,) = teacher.dense([image_HW3], config)
    else:
        dense_Dhw = store.read(DENSE, row)
    return np.asarray(dense_Dhw)


def _same_image(
    store: Store, row: int, *, spec: DatasetSpec, root: Path, sample: Sample
) -> NDArray[np.uint8]:
    """The image of a row, whose file must not have changed since the store was made."""
    now = read_image_row(spec, root, sample)
    then = store.receipt("index", row // store.shard_rows)["images"][row % store.shard_rows]
    if now.picture is None or now.hashes.image != then:
        raise DatasetError(
            f"{sample.image}: {now.failure or 'is another image than when the store was made'}. "
            f"Bring {store.path} up to date with its `zsseg precompute` command and --update"
        )
    return now.picture.image_HW3


def _likeness(field: str, found: Sequence[Compared]) -> Likeness:
    cosines = [each[field][0] for each in found]
    tokens = sum(map(len, cosines))
    return Likeness(
        cosine=float(np.concatenate(cosines).mean()),
        worst=float(min(cosine_T.mean() for cosine_T in cosines)),
        same_class=sum(each[field][1] for each in found) / tokens,
    )
