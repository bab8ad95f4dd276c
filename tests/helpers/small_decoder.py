"""A small decoder of latent embeddings for tests, and numbers to give it."""

import numpy as np
import torch
from torch import Tensor

from zsseg.stages.train.losses.latent import LatentDecoder
from zsseg.stages.train.method_config import LatentConfig

WIDTH, HEADS = 8, 2


def random(seed: int, *shape: int) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(0.3, 1, shape).astype(np.float32))


def decoder(seed: int = 0) -> LatentDecoder:
    torch.manual_seed(seed)
    made = LatentDecoder(WIDTH, LatentConfig(heads=HEADS, layers=2))
    with torch.no_grad():  # also biases and norms, which begin at 0 and 1
        for each in made.parameters():
            each.add_(0.1 * torch.randn_like(each))
    return made
