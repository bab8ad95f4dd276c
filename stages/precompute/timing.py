"""Seconds that each artifact of a few images takes, for a forecast."""

import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np

from zsseg.stages.cache.disk.durable import write_durably
from zsseg.stages.cache.format.arrays import array_json
from zsseg.stages.cache.format.manifest import Manifest
from zsseg.stages.cache.shards import save_shard
from zsseg.stages.precompute.engine.fill_shard import fill_shard
from zsseg.stages.precompute.engine.jobs import Job, RunContext
from zsseg.stages.precompute.engine.shard_worker import ShardWorker
from zsseg.stages.precompute.make.artifacts import PER_ROW
from zsseg.stages.precompute.make.backend_choice import choose_backend
from zsseg.stages.precompute.plan.recipes import store_artifacts
from zsseg.stages.precompute.plan.wanted_store import WantedStore
from zsseg.stages.precompute.progress import Clock
from zsseg.stages.precompute.teacher.text_embeddings import embed_classes


def timed(worker: ShardWorker, *, wanted: WantedStore, needed: Sequence[str]) -> dict[str, float]:
    """Seconds that each needed artifact takes per image of `wanted`, and `text` per class.

    Each is made as in a run, with those that it is made from, in a temporary store of these images.
    Dense tokens are stored in half precision, whatever their format: the teacher is what counts.
    """
    config = wanted.config
    dense = config.dense.model_copy(update={"format": "fp16"})
    config = config.model_copy(update={"dense": dense, "shard_images": len(wanted.samples)})
    teacher = worker.teacher(config)
    asked, device = config.regions.backend, teacher.device.type
    backend = choose_backend(asked, device) if "regions" in needed else "sklearn"
    manifest = replace(
        wanted.manifest,
        artifacts=store_artifacts(wanted.spec, wanted.files, config, wanted.traits),
        rows=len(wanted.samples),
        shard_rows=len(wanted.samples),
    )
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="zsseg-") as folder:
        here = Path(folder)
        for name, (artifact, spec) in manifest.arrays.items():
            write_durably(here / name / "zarr.json", array_json(manifest, artifact, spec))
        _fill_text(here, manifest)
        context = RunContext(here, manifest, wanted.spec, wanted.root, config)
        if not teacher.by_id:
            grey_HW3 = np.full((*teacher.native_size, 3), 127, np.uint8)
            teacher.cls([grey_HW3])  # the first pass is slower than the others
        start = perf_counter()
        embed_classes(teacher, wanted.spec.prompt_names[:1], config.text.templates)
        seconds["text"] = perf_counter() - start
        made = PER_ROW[: 1 + max((PER_ROW.index(name) for name in needed), default=-1)]
        for name in (each for each in made if each in {a.name for a in manifest.artifacts}):
            job = Job(0, tuple(wanted.samples), (name,))
            clock = Clock(lambda _: None, nullcontext)
            start = perf_counter()
            fill_shard(job, context, teacher=teacher, backend=backend, clock=clock)
            seconds[name] = (perf_counter() - start) / len(wanted.samples)
    return seconds


def _fill_text(here: Path, manifest: Manifest) -> None:
    """Write text embeddings of equal numbers: what is made from them takes as long with any."""
    artifact, spec = manifest.arrays["text"]
    text_CD = np.full(spec.shape, spec.shape[-1] ** -0.5, np.float32)
    save_shard(here, manifest, artifact, 0, {"text": text_CD}, ids=())
