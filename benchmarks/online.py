"""What a step costs with CLIP in the loop: `python -m benchmarks.run --only online`.

The step of `step.py` that distils from the cache, beside one that makes what the cache would hold:
ViT-B/16 sees each crop, whole for its CLS token and at 512 x 512 for its dense tokens, and these
are clustered into regions by the code of stage one. Its weights are random and take the time of
trained ones.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.ratio import Ratio, timed_in_turn
from benchmarks.scale import peak
from benchmarks.stage_one import write_teacher
from benchmarks.step import SIZE, STEPS, WHAT, Step, batch_of, peak_of, step_of, world
from zsseg.stages.precompute.make.pictures import Picture
from zsseg.stages.precompute.make.regions_artifact import region_arrays
from zsseg.stages.precompute.precompute_config import DenseConfig, RegionConfig
from zsseg.stages.precompute.teacher.clip_teacher import ClipTeacher, load_teacher
from zsseg.stages.precompute.teacher.teacher_files import resolve_teacher
from zsseg.stages.train.batches.batch import Batch
from zsseg.stages.train.batches.imagenet import MEAN, STD
from zsseg.stages.train.losses.resample import nearest

_REGIONS = RegionConfig(backend="sklearn")


def online_step(folder: Path) -> Step:
    """The step from the cache, with its token and regions made anew."""
    step = step_of(folder, "cached")
    teacher = load_teacher(resolve_teacher(f"local-dir:{folder / 'teacher'}"), device="cpu")
    return lambda batch: step(seen(teacher, batch))


def seen(teacher: ClipTeacher, batch: Batch) -> Batch:
    """The batch with the CLS token and the regions of its crops."""
    pictures = [
        Picture(_pixels(image_3HW), label_HW)
        for image_3HW, label_HW in zip(
            batch.image_B3HW.numpy(), batch.label_BHW.numpy(), strict=True
        )
    ]
    images = [picture.image_HW3 for picture in pictures]
    token_BD, dense_BDhw = teacher.cls(images), teacher.dense(images, DenseConfig(size=SIZE))
    mined = region_arrays(dense_BDhw, pictures, _REGIONS, backend="sklearn", advance=lambda _: None)
    return replace(
        batch,
        token_BD=torch.from_numpy(token_BD),
        region_BHW=nearest(torch.from_numpy(mined["regions"]), SIZE),
    )


def _pixels(image_3HW: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(H, W, 3) of what a student is given."""
    image_HW3 = (image_3HW.transpose(1, 2, 0) * STD + MEAN) * 255
    return np.asarray(np.clip(image_HW3.round(), 0, 255), dtype=np.uint8)


def online_over_cached() -> Ratio:
    """A step with CLIP in the loop / one from the cache."""
    with world() as folder:
        write_teacher(folder / "teacher")
        online: Callable[[], None] = partial(online_step(folder), batch_of(folder, "supervised"))
        cached = partial(step_of(folder, "cached"), batch_of(folder, "cached"))
        name = f"step with ViT-B/16 and its clustering in the loop / from the cache, {WHAT}"
        return timed_in_turn(name, online, cached, target="3 or more")


def peak_memory() -> Ratio:
    """Resident memory that some steps take at most, each form in a process of its own."""
    with world() as folder:
        write_teacher(folder / "teacher")
        online = peak_of("benchmarks.online", "online", folder)
        cached = peak_of("benchmarks.step", "cached", folder)
    name = f"peak memory of {STEPS} steps with loading, CLIP in the loop / from the cache, {WHAT}"
    return Ratio(name, (online,), (cached,), unit="MiB")


MEASURES = (online_over_cached, peak_memory)


def main(words: Sequence[str]) -> None:
    """Do some steps in this process, and print the bytes that it took at most."""
    _, folder = words
    step = online_step(Path(folder))
    for _ in range(STEPS):
        step(batch_of(Path(folder), "supervised"))
    sys.stdout.write(json.dumps(peak("self")))


if __name__ == "__main__":
    main(sys.argv[1:])
