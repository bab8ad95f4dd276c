"""A drawn world, its store and tiny runs on it, made through `import zsseg`."""

from pathlib import Path
from typing import Any

import pytest

import zsseg
from helpers.drawn_world import draw_world
from helpers.tiny_training import train_tiny_students

TINY: dict[str, Any] = {
    "objectives.dense_stride": 8,
    "augmentation.short_side": 48,
    "augmentation.crop": [32, 32],
    "train.steps": 2,
    "train.batch": 2,
    "train.workers": 0,
    "train.device": "cpu",
    "train.log_every": 1,
    "evaluate.short_side": 48,
    "evaluate.mode": "whole",
}
"""Settings of a training of a second."""

DENSE = {"dense.size": [64, 96], "text.templates": "single"}
"""Settings of its store."""


def run_world(
    folder: Path,
    clip: str,
    patch: pytest.MonkeyPatch,
    *,
    held_out: int,
    names: tuple[str, ...] = ("run",),
) -> Path:
    """Draw two images of `train` and some of `val`, make the store, train a run of each name.

    Returns the description; the store is in `cache`.
    """
    world = draw_world(folder / "world", images=2)
    draw_world(folder / "world", split="val", images=held_out, seed=1)
    train_tiny_students(patch)
    cache = folder / "cache"
    zsseg.precompute(world, teacher=clip, root=world.parent, cache=cache, set=DENSE)
    for name in names:
        zsseg.train(config="baseline", out=folder / name, cache=cache, set=TINY)
    return world
