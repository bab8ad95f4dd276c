"""Slow float64 transcriptions of the papers' equations, pixel by pixel, that several tests share.

Written from the papers, not from the code; nothing of `stages` is in here but VOID. "paper 2" is
CLIP-to-Seg; NEL is defined by ZegCLIP's code (SegLossPlus).
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from zsseg.stages.data.spec import VOID

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


def exact(values: Tensor) -> Array:
    """The tensor's numbers in float64."""
    return np.asarray(values.detach().float().numpy(), dtype=np.float64)


def unit(vector_D: Array) -> Array:
    return np.asarray(vector_D / np.sqrt(np.sum(vector_D**2)))


def softmax(values: Array) -> Array:
    powers = np.exp(values - values.max())
    return np.asarray(powers / powers.sum())


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x))) if x > 0 else float(np.exp(x) / (1 + np.exp(x)))


def info_nce(prototype_D: Array, positive_D: Array, others: list[Array], tau: float) -> float:
    """Paper 2, Eq. 2 and 4 with the -log, of one prototype; products are cosines."""
    similar = np.exp(unit(prototype_D) @ unit(positive_D) / tau)
    whole = similar + sum(np.exp(unit(prototype_D) @ unit(other) / tau) for other in others)
    return float(-np.log(similar / whole))


def global_prototype(
    feature_Dhw: Array, token_D: Array, inside_hw: NDArray[np.bool_], normalise: bool
) -> Array:
    """F_g of paper 2, section 3.2, from the positions inside."""
    feature_LD = np.array([feature_Dhw[:, i, j] for i, j in np.argwhere(inside_hw)])
    if normalise:
        feature_LD = np.array([unit(feature_D) for feature_D in feature_LD])
        token_D = unit(token_D)
    weight_L = softmax(feature_LD @ token_D / np.sqrt(len(token_D)))
    return np.asarray(weight_L @ feature_LD)


def local_prototype(feature_Dhw: Array, code_hw: Ints, mask: int) -> Array | None:
    """f_l of paper 2, Eq. 3; None for a mask without a position."""
    members = [feature_Dhw[:, i, j] for i, j in np.argwhere(code_hw == mask)]
    return np.asarray(sum(members) / len(members)) if members else None


def bilinear(score_hw: Array, size: tuple[int, int]) -> Array:
    """Half-pixel centres, clamped at the border."""

    def shares(new: int, old: int) -> Array:
        share = np.zeros((new, old))
        for i in range(new):
            at = min(max((i + 0.5) * old / new - 0.5, 0.0), old - 1.0)
            low = int(at)
            share[i, low] += 1 - (at - low)
            share[i, min(low + 1, old - 1)] += at - low
        return share

    height, width = score_hw.shape
    return np.asarray(shares(size[0], height) @ score_hw @ shares(size[1], width).T)


def cross_entropy(scores: list[dict[int, Array]], label_BHW: Ints) -> float:
    """-log of the label's share among the classes that the image has; mean of labelled pixels.

    `scores` are of each image, by class, at pixels.
    """
    costs = []
    for b, i, j in np.argwhere(label_BHW != VOID):
        whole = sum(np.exp(score_HW[i, j]) for score_HW in scores[b].values())
        costs.append(-np.log(np.exp(scores[b][int(label_BHW[b, i, j])][i, j]) / whole))
    return float(np.mean(costs)) if costs else 0.0


def nel(
    scores: list[dict[int, Array]],
    label_BHW: Ints,
    *,
    masked: bool = False,
    focal_weight: float = 100.0,
    dice_weight: float = 1.0,
) -> float:
    """ZegCLIP's loss: its focal and dice over the independent sigmoids of each image's classes.

    `masked`: pixels without a label are left out instead of being negatives of every class.
    """
    focal = dice = 0.0
    pairs = 0
    for b, by_class in enumerate(scores):
        pixels = [
            (i, j)
            for i, j in np.ndindex(label_BHW[b].shape)
            if not masked or label_BHW[b, i, j] != VOID
        ]
        for c, score_HW in by_class.items():
            terms, both, sum_p, sum_t = [], 0.0, 0.0, 0
            for i, j in pixels:
                p, t = sigmoid(float(score_HW[i, j])), int(label_BHW[b, i, j] == c)
                alpha_t = 0.25 if t else 0.75
                p_t = p if t else 1 - p
                log_p_t = -np.logaddexp(0, -score_HW[i, j] if t else score_HW[i, j])
                terms.append(-alpha_t * (1 - p_t) ** 2 * log_p_t)
                both, sum_p, sum_t = both + p * t, sum_p + p, sum_t + t
            focal += float(np.mean(terms)) if terms else 0.0
            if sum_t:
                pairs += 1
                dice += 1 - (2 * both + 1) / (sum_p + sum_t + 1)
    return (focal_weight * focal + dice_weight * dice) / max(pairs, 1)
