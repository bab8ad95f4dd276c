"""The basis that format `pca:d` keeps dense tokens in: fitted to a sample of the data set's images.

Legend: D CLIP width, d components, T tokens of an image, h w token grid.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.errors import DatasetError, NonFiniteError
from zsseg.stages.precompute.make.pictures import read_image_row
from zsseg.stages.precompute.make.recorded_views import seen_whole
from zsseg.stages.precompute.precompute_config import DenseConfig

if TYPE_CHECKING:
    from zsseg.stages.precompute.teacher.teacher_protocol import Teacher


def fit_basis(
    dense: Iterable[NDArray[np.float32]], components: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Principal components (d, D) of tokens (D, h, w) of some images, and the tokens' mean (D,).

    Orthonormal, largest variance first; the number of largest magnitude is positive in each. Sums
    are made by one thread, so the result does not depend on the number of processors.
    """
    count, covariance_DD, sum_D = 0, np.zeros((1, 1)), np.zeros(1)
    with threadpool_limits(limits=1):
        for dense_Dhw in dense:
            token_DT = dense_Dhw.reshape(len(dense_Dhw), -1).astype(np.float64)
            covariance_DD = covariance_DD + token_DT @ token_DT.T
            sum_D = sum_D + token_DT.sum(1)
            count += token_DT.shape[1]
        mean_D = sum_D / count
        _, vector_DD = np.linalg.eigh(covariance_DD / count - np.outer(mean_D, mean_D))
    basis_dD = vector_DD[:, ::-1].T[:components]
    largest_d1 = np.abs(basis_dD).argmax(1)[:, None]
    basis_dD = basis_dD * np.sign(np.take_along_axis(basis_dD, largest_d1, axis=1))
    return np.ascontiguousarray(basis_dD, dtype=np.float32), mean_D.astype(np.float32)


def sampled_tokens(
    spec: DatasetSpec,
    root: Path,
    samples: Sequence[Sample],
    *,
    teacher: "Teacher",
    config: DenseConfig,
) -> Iterator[NDArray[np.float32]]:
    """The dense tokens (D, h, w) of these images, one by one.

    Images that cannot be used are left out. Raises DatasetError when none is left, NonFiniteError
    for tokens that are not finite.
    """
    used = False
    for sample in samples:
        picture = read_image_row(spec, root, sample).picture
        if picture is not None:
            (dense_Dhw,) = teacher.dense([seen_whole(teacher, picture, config)], config)
            if not np.isfinite(dense_Dhw).all():
                raise NonFiniteError(
                    f"{sample.image}: NaN or infinity in its dense tokens "
                    f"({sample.id}); look at this image and at the teacher's weights"
                )
            used = True
            yield dense_Dhw
    if not used:
        raise DatasetError(
            f"{root}: none of the images that the basis of dense.format={config.format} is fitted "
            "to can be used. `zsseg dataset verify` says why"
        )
