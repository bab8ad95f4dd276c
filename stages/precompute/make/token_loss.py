"""What dense tokens have lost by their format: a few images go through the teacher again.

Measured on the finished store, so that an interruption does not change the sample, and with the
class names of the store.
Legend: T tokens, C classes, D CLIP width, h w token grid.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.cache.dense_loss import DenseLoss, dense_bytes
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.codec import DENSE, stored_format
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.precompute.make.pictures import read_image_row
from zsseg.stages.precompute.make.recorded_views import seen_whole
from zsseg.stages.precompute.precompute_config import DenseConfig

if TYPE_CHECKING:
    from zsseg.stages.precompute.teacher.teacher_protocol import Teacher

MEASURED_IMAGES = 32
"""Images at most that are measured, evenly spread over the data set."""


def measure_dense(
    path: StorePath,
    *,
    spec: DatasetSpec,
    root: Path,
    samples: Sequence[Sample],
    teacher: "Teacher",
    config: DenseConfig,
) -> DenseLoss | None:
    """Compare a sealed store's dense tokens with the teacher's.

    None when no image can be read now.
    """
    store = Store.open(path)
    text_CD = store.read_all("text")
    cosines: list[NDArray[np.float64]] = []
    same, elements = 0, 0
    for row in spread(np.flatnonzero(store.read_all("status") == 0), MEASURED_IMAGES):
        picture = read_image_row(spec, root, samples[row]).picture
        if picture is None:
            continue
        (original_Dhw,) = teacher.dense([seen_whole(teacher, picture, config)], config)
        cosine_T, agreed = compare(store.read(DENSE, row), original_Dhw, text_CD)
        cosines.append(cosine_T)
        same += agreed
        elements = original_Dhw.size
    if not cosines:
        return None
    cosine_T = np.concatenate(cosines)
    return DenseLoss(
        format=stored_format(store.recipes[DENSE]),
        bytes=round(dense_bytes(store.path, store.manifest) / (2 * elements * store.rows), 4),
        cosine_mean=round(float(cosine_T.mean()), 6),
        cosine_worst=round(float(cosine_T.min()), 6),
        agreement=round(same / len(cosine_T), 6),
        images=len(cosines),
        tokens=len(cosine_T),
    )


def compare(
    stored_Dhw: NDArray[np.floating],
    original_Dhw: NDArray[np.floating],
    text_CD: NDArray[np.float32],
) -> tuple[NDArray[np.float64], int]:
    """(T,) `token_cosines`, and how many tokens are nearest to the same class as their original."""
    stored_DT, original_DT = (_unit(tokens) for tokens in (stored_Dhw, original_Dhw))
    same_T = _nearest(text_CD, stored_DT) == _nearest(text_CD, original_DT)
    return token_cosines(stored_Dhw, original_Dhw), int(same_T.sum())


def _nearest(text_CD: NDArray[np.float32], token_DT: NDArray[np.float64]) -> NDArray[np.intp]:
    """(T,) the class nearest to each token; `text_CD` may be (C, S, D), the names of classes."""
    score = text_CD @ token_DT
    best_CT: NDArray[np.float64] = score.max(1) if score.ndim == 3 else score
    nearest_T: NDArray[np.intp] = best_CT.argmax(0)
    return nearest_T


def token_cosines(
    stored_Dhw: NDArray[np.floating], original_Dhw: NDArray[np.floating]
) -> NDArray[np.float64]:
    """(T,) cosine of each token (of D numbers; any further axes) and its original.

    Two zero tokens are equal; a zero and another token have cosine 0.
    """
    stored_DT, original_DT = (_unit(tokens) for tokens in (stored_Dhw, original_Dhw))
    cosine_T: NDArray[np.float64] = (stored_DT * original_DT).sum(0)
    cosine_T[~stored_DT.any(0) & ~original_DT.any(0)] = 1
    return cosine_T


def spread(rows: NDArray[np.intp], number: int) -> list[int]:
    """At most `number` of the rows, first and last among them, evenly spread."""
    if len(rows) <= number:
        return [int(row) for row in rows]
    return [int(row) for row in rows[np.linspace(0, len(rows) - 1, number).round().astype(int)]]


def _unit(token_Dhw: NDArray[np.floating]) -> NDArray[np.float64]:
    """(D, T) tokens of length 1; zero tokens stay zero.

    Divided by the largest number first: squares of small numbers would underflow to 0.
    """
    token_DT = token_Dhw.reshape(len(token_Dhw), -1).astype(np.float64)
    largest_1T = np.abs(token_DT).max(0, keepdims=True)
    token_DT /= np.where(largest_1T > 0, largest_1T, 1)
    length_1T = np.linalg.norm(token_DT, axis=0, keepdims=True)
    return np.asarray(token_DT / np.where(length_1T > 0, length_1T, 1))
