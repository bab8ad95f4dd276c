"""Writes scenes as a data set in the `folder` layout (configs/datasets/demo.yaml)."""

from collections.abc import Callable, Mapping
from pathlib import Path

from zsseg.stages.data.images import write_png
from zsseg.stages.demo.scenes import draw_scene

SPLITS = {"train": 0, "val": 1_000_000}
"""Number of each split's first scene, so that no scene is in two splits."""


def write_world(
    root: Path, *, seed: int, scenes: Mapping[str, int], progress: Callable[[int, int], None]
) -> None:
    """Write `scenes[split]` pictures and label maps of each split below `root`.

    The same seed gives the same files; what is there already is kept. `progress(done, total)`.
    """
    wanted = [
        (split, first + number, f"scene_{number:04d}.png")
        for split, first in SPLITS.items()
        for number in range(scenes.get(split, 0))
    ]
    for done, (split, index, name) in enumerate(wanted, start=1):
        image_path = root / "images" / split / name
        if not image_path.exists():
            scene = draw_scene(seed, index)
            # The image last: where it is there, its label is too.
            write_png(root / "labels" / split / name, scene.label_HW)
            write_png(image_path, scene.image_HW3)
        progress(done, len(wanted))
