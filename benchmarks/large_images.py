"""Peak memory of stage one on images of 24 megapixels: as good as equal for 4 and for 24.

    python -m benchmarks.large_images       # both, each in a process of its own
    python -m benchmarks.large_images 4     # one, in this process

JPEGs of 4000 x 6000 pixels with labels, drawn; default settings with the demo's CLIP.
"""

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from zsseg.pipeline.demo.demo_commands import small_clip
from zsseg.stages.data.spec import load_spec
from zsseg.stages.precompute.plan.request import PrecomputeRequest
from zsseg.stages.precompute.precompute_config import PrecomputeConfig
from zsseg.stages.precompute.run import precompute

_SELF = (sys.executable, "-m", "benchmarks.large_images")
_SIDES = (4000, 6000)
_DESCRIPTION = """\
name: large
layout: folder
classes: [sky, ground, wall, tree, car]
unseen: [car]
ignore: [255]
patterns: {images: "images/{split}", labels: "labels/{split}"}
"""


def _draw(folder: Path, images: int) -> Path:
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind / "train").mkdir(parents=True)
    height, width = _SIDES
    for number in range(images):
        class_hw = rng.integers(0, 5, (6, 8), dtype=np.uint8)
        label = Image.fromarray(class_hw).resize((width, height), Image.Resampling.NEAREST)
        colours = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        colours.resize((width, height)).save(folder / "images" / "train" / f"{number:03d}.jpg")
        label.save(folder / "labels" / "train" / f"{number:03d}.png")
    (folder / "large.yaml").write_text(_DESCRIPTION)
    return folder / "large.yaml"


def peak(images: int) -> int:
    """The most memory that this process has had, in MB, after stage one of so many images."""
    with tempfile.TemporaryDirectory(prefix="zsseg-") as name:
        folder = Path(name)
        subprocess.run([*_SELF, "draw", name, str(images)], check=True)
        request = PrecomputeRequest(
            spec=load_spec(str(folder / "large.yaml")),
            root=folder,
            split="train",
            teacher=f"local-dir:{small_clip()}",
            cache=folder / "cache",
            config=PrecomputeConfig(),
            limit=None,
        )
        precompute(request, update=False, progress=lambda _: None)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 // 10**6


def main(words: list[str]) -> None:
    """See above."""
    match words:
        case ["draw", folder, images]:
            _draw(Path(folder), int(images))
        case [images]:
            print(f"{images} images of 24 megapixels: {peak(int(images))} MB at most")
        case _:
            for images in ("4", "24"):
                subprocess.run([*_SELF, images], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
