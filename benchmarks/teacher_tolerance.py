"""What cosines `zsseg cache verify --against-teacher` sees where all is right, and where it is not.

    python -m benchmarks.teacher_tolerance STORE

STORE is a finished one of `zsseg precompute`, made in fp32 on a CPU, whose data set and teacher
still lie where they were. Printed per artifact: 1 minus the worst cosine of any image's token.
"""

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from zsseg.stages.precompute.check.against_teacher import compare_with_teacher
from zsseg.stages.precompute.make.pictures import ImageRow, read_image_row
from zsseg.stages.precompute.teacher.clip_teacher import load_teacher

ARTIFACTS = ("cls", "dense", "local")


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _seen(change: Callable[[Any], Any]) -> Any:
    """Images that the teacher sees otherwise, with the hashes of before."""

    def changed(*args: Any) -> ImageRow:
        row = read_image_row(*args)
        assert row.picture is not None
        image_HW3 = change(row.picture.image_HW3)
        return dataclasses.replace(
            row, picture=dataclasses.replace(row.picture, image_HW3=image_HW3)
        )

    return patch("zsseg.stages.precompute.check.against_teacher.read_image_row", changed)


def _loaded(precision: str | None = None, **changes: Any) -> Any:
    """A teacher with other attributes or in another precision."""

    def changed(files: Any, **settings: Any) -> Any:
        settings |= {"precision": precision or settings["precision"]}
        return dataclasses.replace(load_teacher(files, **settings), **changes)

    return patch("zsseg.stages.precompute.teacher.clip_teacher.load_teacher", changed)


def _brighter(image_HW3: Any) -> Any:
    return np.clip(image_HW3.astype(np.int16) + 2, 0, 255).astype(np.uint8)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--images", type=int, default=16)
    options = parser.parse_args()
    cases = {
        "as it was made, images one at a time": _threads(torch.get_num_threads()),
        "one thread": _threads(1),
        "bf16 instead of fp32": _loaded(precision="bf16"),
        "fp16 instead of fp32": _loaded(precision="fp16"),
        "images resized bilinear, not bicubic": _loaded(interpolation="bilinear"),
        "mean and deviation of ImageNet": _loaded(
            mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
        ),
        "images brighter by 2 of 255": _seen(_brighter),
        "images shifted by 4 pixels": _seen(lambda image_HW3: np.roll(image_HW3, 4, axis=1)),
        "images mirrored": _seen(lambda image_HW3: np.ascontiguousarray(image_HW3[:, ::-1])),
    }
    print(f"1 - worst cosine, {options.images} images | " + " | ".join(ARTIFACTS))
    for name, case in cases.items():
        with case:
            found = compare_with_teacher(
                options.store,
                number=options.images,
                root=None,
                teacher=None,
                device="cpu",
                progress=lambda done, total: None,
            )
        worst = {check.artifact: check.worst for check in found.checks}
        print(f"{name} | " + " | ".join(f"{1 - worst[each]:.1e}" for each in ARTIFACTS), flush=True)


if __name__ == "__main__":
    main()
