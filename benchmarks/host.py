"""How much of stage one's time a device would wait: `python -m benchmarks.host`.

The device is simulated: a teacher that sleeps (`sleeping_teacher.py`) while everything around it
is done for real: reading, decoding, resizing, mining, cutting crops, hashing, writing. With two
cores and 40 ms an image (crops included) the cores have 80 ms for what a GPU host of sixteen cores
has to do in 5 ms of device time. Utilisation is the share of the time, from the device's first pass
to the end of its last, in which it is at work. Processor time by part is that of this process's
threads, each part without those that it calls.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.machine import machine
from benchmarks.ratio import Ratio
from benchmarks.stage_one import Subject, subject
from zsseg.stages.precompute.precompute_config import (
    DenseConfig,
    PrecomputeConfig,
    RegionConfig,
    TextConfig,
)
from zsseg.stages.precompute.run import precompute
from zsseg.stages.precompute.teacher.open_teacher import open_teacher
from zsseg.stages.precompute.teacher.teacher_files import resolve_teacher

DENSE_MS, CROP_MS = 16.0, 0.8
"""Of one image and of one crop (about 30 of an image): together 40 ms for an image of CamVid."""
SIZE = (512, 512)
_STORED = 8  # maps of tokens, given in turn
_STAND_IN = Path(__file__).resolve().parents[2] / "shared" / "data" / "camvid_clip"

_MAKE, _CACHE = "zsseg.stages.precompute.make", "zsseg.stages.cache"
_OWN = "zsseg.stages.precompute.teacher.own_teacher.OwnTeacher"
PARTS: dict[str, tuple[str, ...]] = {
    "read": (f"{_MAKE}.pictures.image_content",),
    "decode": (f"{_MAKE}.pictures.read_image", f"{_MAKE}.pictures.read_visible_label"),
    "preprocess": (f"{_MAKE}.dense_artifact.seen_whole", f"{_OWN}._pixels"),
    "mine": (f"{_MAKE}.regions_artifact.region_arrays", f"{_MAKE}.regions.mine_regions"),
    "cut crops": (
        f"{_MAKE}.class_crops.class_masks",
        f"{_MAKE}.class_crops._cut",
        f"{_MAKE}.class_crops.Crop.masked",
    ),
    "resize": (f"{_OWN}.fitted",),
    "hash": (
        f"{_MAKE}.pictures._content_hash",
        f"{_MAKE}.pictures._label_hash",
        f"{_MAKE}.class_crops.Crop.digest",
    ),
    "encode": (f"{_MAKE}.dense_artifact.encode",),
    "write": (f"{_CACHE}.shards.write_shard", f"{_CACHE}.writer.Writer.commit"),
    "stored tokens": (f"{_CACHE}.shards.read_shard",),
    "teacher": (f"{_OWN}._called",),
}
"""The functions whose processor time counts for a part, by their places."""


class PartTimes:
    """Processor seconds by part: of each thread, and of no part twice."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._lock, self._here = threading.Lock(), threading.local()

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its time counted."""

        def wrapped(*given: Any, **named: Any) -> Any:
            inside = self._here.__dict__.setdefault("inside", [])
            inside.append(0.0)
            begin = time.thread_time()
            try:
                return function(*given, **named)
            finally:
                whole, within = time.thread_time() - begin, inside.pop()
                if inside:
                    inside[-1] += whole
                with self._lock:
                    self.seconds[part] += whole - within

        return wrapped

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Every function of `PARTS` is timed within."""
        with ExitStack() as stack:
            for part, places in PARTS.items():
                for place in places:
                    owner, name = _owner(place)
                    stack.enter_context(
                        patch.object(owner, name, self.timed(part, getattr(owner, name)))
                    )
            yield


def _owner(place: str) -> tuple[Any, str]:
    """The module or class of a place, and the name there."""
    path, _, name = place.rpartition(".")
    if path.rpartition(".")[2][0].isupper():
        module, _, owner = path.rpartition(".")
        return getattr(import_module(module), owner), name
    return import_module(path), name


@dataclass(frozen=True)
class Measured:
    """One run of stage one with a sleeping teacher."""

    images: int
    seconds: float
    """From the first pass to the end of the last."""
    device_seconds: float
    devices: int
    processor_seconds: float
    """Of this process; with workers, not known."""
    parts: dict[str, float]

    @property
    def utilisation(self) -> float:
        """Share of the time in which a device has work, mean over devices."""
        return self.device_seconds / self.devices / self.seconds

    def lines(self) -> Iterator[str]:
        """What is printed."""
        yield (
            f"device utilisation {self.utilisation:.3f}; {self.images / self.seconds:.1f} images/s;"
            f" device {1000 * self.device_seconds / self.images:.1f} ms an image"
        )
        if self.parts:
            yield f"processor {1000 * self.processor_seconds / self.images:.1f} ms an image: " + (
                " | ".join(
                    f"{part} {1000 * spent / self.images:.1f}" for part, spent in self.parts.items()
                )
            )

    def as_json(self) -> dict[str, Any]:
        """Everything measured."""
        return {**self.__dict__, "utilisation": self.utilisation}


@contextmanager
def sleeping_subject(*, dense_ms: float, crop_ms: float, images: int) -> Iterator[Subject]:
    """A data set with a teacher that sleeps; tokens of the stand-in CLIP where it is there."""
    with (
        tempfile.TemporaryDirectory(prefix="zsseg-host-") as name,
        subject(images, teacher=f"local-dir:{_STAND_IN}" if _STAND_IN.is_dir() else None) as one,
    ):
        folder = Path(name)
        _store_tokens(one, folder / "tokens.npz")
        (folder / "log").mkdir()
        teacher = write_sleeper(folder, dense_ms=dense_ms, crop_ms=crop_ms)
        yield Subject(one.spec, one.root, teacher, folder)


def write_sleeper(folder: Path, *, dense_ms: float, crop_ms: float) -> str:
    """A teacher of the tokens and for the log in `folder`, that other processes find too."""
    (folder / "teacher.py").write_text(
        "from pathlib import Path\n"
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from benchmarks.sleeping_teacher import SleepingTeacher\n"
        "def sleeping():\n"
        f"    here = Path({str(folder)!r})\n"
        "    return SleepingTeacher(here / 'tokens.npz', here / 'log', "
        f"dense_ms={dense_ms}, crop_ms={crop_ms})\n"
    )
    return f"python:{folder / 'teacher.py'}:sleeping"


def _store_tokens(one: Subject, path: Path) -> None:
    """Tokens of a few images, of a grid of 32 x 32."""
    from zsseg.stages.data.images import read_image
    from zsseg.stages.data.splits import list_samples

    teacher = open_teacher(resolve_teacher(one.teacher, typed=True), device="cpu", precision="fp32")
    side = 32 * teacher.strides[0]
    samples = list_samples(one.spec, one.root, "train")[:_STORED]
    images = [read_image(sample.image) for sample in samples]
    dense_nDhw = teacher.dense(images, DenseConfig(size=(side, side)))
    np.savez(path, dense=dense_nDhw.astype(np.float16), cls=teacher.cls(images))


def measure(one: Subject, *, images: int, workers: int) -> Measured:
    """Stage one on so many images, in this process or in workers with a device each."""
    config = PrecomputeConfig(
        text=TextConfig(templates="single"),
        dense=DenseConfig(size=SIZE),
        regions=RegionConfig(backend="sklearn"),
        shard_images=32,
        device="cpu",
        precision="fp32",
        resize="torch",  # as on a GPU
    )

    def stage_one(cache: str, limit: int, workers: int | None) -> object:
        request = one.request(config, cache=cache, limit=limit)
        return precompute(
            replace(request, typed=True), update=False, workers=workers, progress=lambda _: None
        )

    stage_one("first", 1, None)  # what is imported the first time only
    log = one.folder / "log"
    for old in log.iterdir():
        old.unlink()
    times, before = PartTimes(), time.process_time()
    with nullcontext() if workers else times.counted():
        stage_one("store", images, workers or None)
    spent = time.process_time() - before
    passes = [
        tuple(map(float, line.split()))
        for file in log.iterdir()
        for line in file.read_text().splitlines()
    ]
    parts = dict(sorted(times.seconds.items(), key=lambda each: -each[1]))
    if parts:
        parts["other"] = spent - sum(parts.values())
    return Measured(
        images=images,
        seconds=max(end for _, end in passes) - min(begin for begin, _ in passes),
        device_seconds=sum(end - begin for begin, end in passes),
        devices=max(workers, 1),
        processor_seconds=spent,
        parts=parts,
    )


def utilisation_ratios(*, quick: bool) -> Iterator[Ratio]:
    """Device seconds / seconds, in one process, of a device of 40 ms an image."""
    images = 64 if quick else 256
    with sleeping_subject(dense_ms=DENSE_MS, crop_ms=CROP_MS, images=images) as one:
        found = measure(one, images=images, workers=0)
    name = f"stage one: simulated device at work / all time, {images} images"
    yield Ratio(name, (found.device_seconds,), (found.seconds,), target="at least 0.90")
    name = "stage one: processor time / device time of an image"
    yield Ratio(name, (found.processor_seconds,), (found.device_seconds,), target="at most 1.0")


def main() -> None:
    """Print utilisation and processor time by part."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--workers", type=int, default=0, help="processes with a device each")
    parser.add_argument("--dense-ms", type=float, default=DENSE_MS)
    parser.add_argument("--crop-ms", type=float, default=CROP_MS)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    sys.stdout.write(f"{json.dumps(machine())}\n")
    with sleeping_subject(
        dense_ms=given.dense_ms, crop_ms=given.crop_ms, images=given.images
    ) as one:
        found = measure(one, images=given.images, workers=given.workers)
    sys.stdout.write("\n".join(found.lines()) + "\n")
    if given.json:
        given.json.write_text(json.dumps(found.as_json(), indent=1) + "\n")


if __name__ == "__main__":
    main()
