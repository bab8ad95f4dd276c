"""A data set of a few drawn pictures in the `folder` layout."""

from pathlib import Path

import numpy as np
from PIL import Image

WORLD = """\
name: tiny-world
layout: folder
classes: [sky, ground, box, ball]
unseen: [ball]
names: {box: cardboard box}
ignore: [255]
patterns: {images: "images/{split}", labels: "labels/{split}"}
"""


def draw_world(root: Path, *, split: str = "train", images: int = 6, seed: int = 0) -> Path:
    """Write `images` pictures of 48 x 64 pixels with labels in the `folder` layout.

    Returns the path of the data set's description.
    """
    rng = np.random.default_rng(seed)
    colours = np.array([[120, 180, 240], [110, 90, 60], [200, 60, 40], [240, 220, 60]])
    row_H1, column_1W = np.mgrid[0:48, 0:1][0], np.mgrid[0:1, 0:64][1]
    for kind in ("images", "labels"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    for number in range(images):
        label_HW = np.where(row_H1 < rng.integers(16, 30), 0, 1) + np.zeros((1, 64), np.int64)
        top, left = rng.integers(18, 30), rng.integers(2, 24)
        label_HW[top : top + 16, left : left + 18] = 2
        centre_y, centre_x = rng.integers(20, 36), rng.integers(40, 54)
        label_HW[(row_H1 - centre_y) ** 2 + (column_1W - centre_x) ** 2 < 90] = 3
        image_HW3 = colours[label_HW] + rng.normal(0, 12, (48, 64, 3))
        label_HW[:2] = 255
        name = f"scene_{number:03d}"
        image = Image.fromarray(np.clip(image_HW3, 0, 255).astype(np.uint8))
        image.save(root / "images" / split / f"{name}.png")
        Image.fromarray(label_HW.astype(np.uint8)).save(root / "labels" / split / f"{name}.png")
    description = root / "world.yaml"
    description.write_text(WORLD)
    return description
