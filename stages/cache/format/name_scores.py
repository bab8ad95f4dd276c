"""How the map of names keeps scores in 8 bits: as log-odds, so that near 0 and near 1 they differ.

code  score p
0     no class
c     the one with 10 log(p / (1 - p)) = c - 128, for c in 1 to 255: 3e-6 to 0.999997
"""

import numpy as np
from numpy.typing import NDArray

MIDDLE, PER_UNIT = 128, 10.0


def score_codes(score: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The code of each score from 0 to 1; never 0, which stands for no class."""
    p = score.astype(np.float64)
    with np.errstate(divide="ignore"):
        odds = np.log(p) - np.log1p(-np.minimum(p, 1))
    return np.clip(np.rint(MIDDLE + PER_UNIT * odds), 1, 255).astype(np.uint8)


def _scores_of_codes() -> NDArray[np.float32]:
    odds = (np.arange(256) - MIDDLE) / PER_UNIT
    scores = 1 / (1 + np.exp(-odds))
    scores[0] = 0
    return scores.astype(np.float32)


SCORE_OF_CODE = _scores_of_codes()
"""(256,) the score that each code stands for."""
