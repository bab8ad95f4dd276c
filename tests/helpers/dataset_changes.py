"""Changes of the data set of conftest that a store of it has to follow."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from helpers.clip_store import image_of, label_of, pixels


def edit(world: Path, number: int) -> None:
    """Another picture of the same label."""
    Image.fromarray(pixels(image_of(world, number))[:, ::-1]).save(image_of(world, number))


def relabel(world: Path, number: int) -> None:
    label_HW = pixels(label_of(world, number))
    Image.fromarray(np.where(label_HW == 1, 0, label_HW)).save(label_of(world, number))


def add(world: Path, number: int, name: str) -> None:
    """One of the other pictures under a name of this data set."""
    for kind in ("images", "labels"):
        source = world.parents[1] / "more" / kind / "train" / f"scene_{number:03d}.png"
        shutil.copy(source, world.parent / kind / "train" / f"{name}.png")


def remove(world: Path, number: int) -> None:
    image_of(world, number).unlink()
    label_of(world, number).unlink()
