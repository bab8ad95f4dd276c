"""How long does `zsseg train` look at a large data set before its first step, and what is hashed?

`python -m benchmarks.train_start [IMAGES]`; 118,000 images by default, as COCO-Stuff has. Real
files, but tiny ones (two per image, 16 x 16 pixels), and a store without tokens: what counts is
what is done per image. Writing them takes longer than what is measured.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.scale import DIFFERENT, write_world
from zsseg.stages.cache import shards
from zsseg.stages.cache.reader import Store
from zsseg.stages.cache.writer import ArraySpec, Artifact, Writer
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec, load_spec
from zsseg.stages.data.splits import list_samples
from zsseg.stages.precompute.make.pictures import content_hashes
from zsseg.stages.precompute.plan.stat_cache import StatCache
from zsseg.stages.train.batches import changed_images
from zsseg.stages.train.batches.loader import make_loader
from zsseg.stages.train.batches.training_data import TrainingData
from zsseg.stages.train.run_config import RunConfig

IMAGES = 118_000
_CONFIG = RunConfig.model_validate(
    {
        "augmentation": {"short_side": 32, "crop": (32, 32)},
        "train": {"batch": 16, "steps": 1, "workers": 0, "device": "cpu", "warmup_steps": 0},
    }
)


def write_store(path: Path, spec: DatasetSpec, root: Path) -> Path:
    """A sealed store that knows each file by size, time and hash, as stage one leaves it."""
    samples = list_samples(spec, root, "train")
    index = Artifact(
        "index", {}, (ArraySpec("size", (2,), "int32"), ArraySpec("status", (), "uint8"))
    )
    classes = len(spec.classes)
    text = Artifact(
        "text", {"templates": "single"}, (ArraySpec("text", (classes, 8), "float32"),), (), False
    )
    identity = {
        "dataset": spec.name,
        "split": "train",
        "classes": spec.classes,
        "unseen": spec.unseen,
    }
    known = [content_hashes(spec, sample) for sample in samples[:DIFFERENT]]
    with Writer.open(
        path,
        identity=identity,
        artifacts=(index, text),
        index=(_entry(sample, root) for sample in samples),
        shard_rows=64,
        info={"teacher": "none"},
    ) as writer:
        writer.write("text", 0, {"text": np.eye(classes, 8, dtype=np.float32)})
        for shard in writer.missing()["index"]:
            rows = writer.rows_of(shard)
            hashes = [known[row % DIFFERENT] for row in rows]
            arrays: shards.Arrays = {
                "size": np.full((len(rows), 2), 16, np.int32),
                "status": np.zeros(len(rows), np.uint8),
            }
            files = shards.save_shard(path, writer.manifest, index, shard, arrays, ids=[])
            notes = {
                "images": [each.image for each in hashes],
                "labels": [each.label for each in hashes],
                "failures": {},
            }
            writer.commit("index", shard, files, notes=notes)
        writer.seal()
    StatCache(path, spec, root, seen={}).save(samples, without=lambda row: False)
    return path


def _entry(sample: Sample, root: Path) -> dict[str, object]:
    assert sample.label is not None
    return {
        "id": sample.id,
        "image": sample.image.relative_to(root).as_posix(),
        "label": sample.label.relative_to(root).as_posix(),
    }


def first_batch(path: Path, spec: DatasetSpec, root: Path) -> tuple[float, float, int]:
    """Seconds from the store to the first batch, those of the processor; images hashed."""
    hashed = 0
    is_same = changed_images._is_same

    def counted(store: Store, spec: DatasetSpec, sample: Sample, row: int) -> bool:
        nonlocal hashed
        hashed += 1
        return is_same(store, spec, sample, row)

    changed_images._is_same = counted
    try:
        begin, before = time.perf_counter(), time.process_time()
        store = Store.open(path)
        batches = make_loader(TrainingData(store, spec, root), _CONFIG)
        next(batches)
        seconds, spent = time.perf_counter() - begin, time.process_time() - before
        batches.close()
    finally:
        changed_images._is_same = is_same
    return seconds, spent, hashed


def main(images: int) -> None:
    """Print the times for a data set as it was, and with some or all files touched."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        write_world(root, images)
        spec = load_spec(str(root / "world.yaml"))
        path = write_store(Path(folder) / "store", spec, root)

        def say(what: str) -> None:
            seconds, spent, hashed = first_batch(path, spec, root)
            sys.stdout.write(
                f"{images} images, {what}: first batch after {seconds:.1f} s ({spent:.1f} s of "
                f"the processor), {hashed} images hashed\n"
            )

        say("all as they were")
        samples = list_samples(spec, root, "train")
        for part, what in ((samples[: images // 100], "1 % touched"), (samples, "all touched")):
            for sample in part:
                os.utime(sample.image)
            say(what)
    sys.stdout.write(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else IMAGES)
