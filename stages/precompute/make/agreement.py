"""How alike the regions are that the two k-means libraries make of the same images.

cuML is not reproducible bit for bit, not even against itself, so regions of two libraries are
compared by a score that knows no numbering: the adjusted Rand index (1: the same parts; about 0:
as alike as parts drawn at random), over an image's unlabelled tokens.
Legend: h w token grid, D CLIP width.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from zsseg.stages.precompute.make.kmeans import EMPTIED, Backend
from zsseg.stages.precompute.make.regions import mine_regions
from zsseg.stages.precompute.precompute_config import RegionConfig

BACKENDS: tuple[Backend, Backend] = ("sklearn", "cuml")


@dataclass(frozen=True)
class Agreement:
    """Adjusted Rand index of both libraries' regions."""

    images: int
    """Images with an unlabelled token; the others say nothing."""
    mean: float
    worst: float
    seconds: tuple[float, float]
    """That mining all of them took, in the order of BACKENDS."""


def backend_agreement(
    images: Iterable[tuple[NDArray[np.floating], NDArray[np.bool_]]],
    config: RegionConfig,
) -> Agreement | None:
    """Mine every image with both libraries, one after the other, and compare.

    An image is its dense tokens (D, h, w) and which of them are unlabelled (h, w). A token in no
    region (of too few tokens) counts as one of a part of its own kind. The first image is mined
    once more before, for what each library does once. None when no image has an unlabelled token.
    """
    scores: list[float] = []
    seconds = [0.0, 0.0]
    for dense_Dhw, unlabelled_hw in images:
        if not unlabelled_hw.any():
            continue
        mined = []
        for place, backend in enumerate(BACKENDS):
            # Labels, not the warning, tell which clusters are empty: see `region_arrays`.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", EMPTIED)
                if not scores:
                    mine_regions(dense_Dhw, unlabelled_hw, config, backend=backend)
                start = perf_counter()
                region_hw = mine_regions(dense_Dhw, unlabelled_hw, config, backend=backend)
                seconds[place] += perf_counter() - start
            mined.append(region_hw[unlabelled_hw])
        scores.append(rand_index(*mined))
    if not scores:
        return None
    return Agreement(
        images=len(scores),
        mean=float(np.mean(scores)),
        worst=min(scores),
        seconds=(seconds[0], seconds[1]),
    )


def rand_index(one_T: NDArray[np.uint8], other_T: NDArray[np.uint8]) -> float:
    """Adjusted Rand index of two regions maps' values at the same tokens."""
    return float(adjusted_rand_score(one_T, other_T))
