"""Features and tokens for the tests of contrast, and paper 2's Eq. 2 over them, slowly."""

import numpy as np
import torch
from torch import Tensor

from helpers import reference
from helpers.reference import exact
from zsseg.stages.train.losses.contrast import Bank, global_distillation
from zsseg.stages.train.losses.objectives import attention_pool

WIDTH, GRID, TAU = 6, (3, 4), 0.2
LN_1_E = float(np.log(1 + np.exp(-1)))
"""-log(e / (e + 1)): cosine 1 to the positive, 0 to one negative, temperature 1."""


def random(seed: int, *shape: int) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(0.5, 1, shape).astype(np.float32))


def rows(*numbers: int) -> Tensor:
    return torch.tensor(numbers)


def scene(seed: int = 0, batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Feature, token and inside; the first image is whole."""
    inside_Bhw = torch.from_numpy(np.random.default_rng(seed).random((batch, *GRID)) < 0.6)
    inside_Bhw[0] = True
    feature_BDhw = random(seed, batch, WIDTH, *GRID).requires_grad_()
    return feature_BDhw, random(seed + 1, batch, WIDTH), inside_Bhw


def global_of(
    feature_BDhw: Tensor,
    token_BD: Tensor,
    row_B: Tensor,
    bank: Bank,
    *,
    tau: float,
    normalise: bool,
    inside_Bhw: Tensor | None = None,
    first: int | None = None,
) -> Tensor:
    """Global distillation of a feature: pooled by its images' tokens, then compared."""
    pooled_BD, _ = attention_pool(
        feature_BDhw, token_BD, inside_Bhw=inside_Bhw, normalise=normalise
    )
    counts_B = None if inside_Bhw is None else inside_Bhw.flatten(1).any(1)
    return global_distillation(pooled_BD, row_B, bank, tau=tau, counts_B=counts_B, first=first)


def slow_global(
    feature_BDhw: Tensor,
    token_BD: Tensor,
    row_B: Tensor,
    bank: list[tuple[int, Tensor]],
    *,
    normalise: bool,
    inside_Bhw: Tensor | None = None,
) -> float:
    """Paper 2, Eq. 2. `bank`: the image and the token of every entry, the step's included."""
    costs = []
    for b, row in enumerate(row_B.tolist()):
        inside_hw = np.ones(GRID, bool) if inside_Bhw is None else inside_Bhw[b].numpy()
        if inside_hw.any():
            token_D = exact(token_BD[b])
            prototype_D = reference.global_prototype(
                exact(feature_BDhw[b]), token_D, inside_hw, normalise
            )
            others = [exact(other_D) for other, other_D in bank if other != row]
            costs.append(reference.info_nce(prototype_D, token_D, others, TAU))
    return float(np.mean(costs))
