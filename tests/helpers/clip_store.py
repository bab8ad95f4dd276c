"""Stores of the tiny CLIP of conftest, made by stage one itself, and the files that they are of."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.data.spec import DatasetSpec, load_spec
from zsseg.stages.precompute.plan.request import PrecomputeRequest
from zsseg.stages.precompute.precompute_config import (
    DenseConfig,
    LocalConfig,
    PrecomputeConfig,
    RegionConfig,
    TextConfig,
)
from zsseg.stages.precompute.progress import Progress
from zsseg.stages.precompute.run import PrecomputeResult, precompute
from zsseg.stages.precompute.teacher.clip_teacher import ClipTeacher, load_teacher
from zsseg.stages.precompute.teacher.teacher_files import TeacherFiles

CONFIG = PrecomputeConfig(
    text=TextConfig(templates="single"),
    dense=DenseConfig(size=(64, 96)),
    regions=RegionConfig(windows=(2, 4), minimum_tokens=2, backend="sklearn"),
    local=LocalConfig(max_masks=5),
    shard_images=4,
    batch=3,
    device="cpu",
)
IN_ORDER = CONFIG.model_copy(update={"shards_at_once": 1})
BALL = 3  # the unseen class of the tiny world
NOT_CONTENT = {"history.jsonl", "sources.jsonl", ".lock", ".writer.json", ".used"}


def request(
    world: Path,
    clip: str,
    cache: StorePath,
    *,
    config: PrecomputeConfig = CONFIG,
    spec: DatasetSpec | None = None,
    limit: int | None = None,
) -> PrecomputeRequest:
    """A store of the training images of a drawn world."""
    return PrecomputeRequest(
        spec=spec or load_spec(str(world)),
        root=world.parent,
        split="train",
        teacher=clip,
        cache=cache,
        config=config,
        limit=limit,
    )


def run(
    world: Path,
    clip: str,
    cache: StorePath,
    *,
    config: PrecomputeConfig = CONFIG,
    spec: DatasetSpec | None = None,
    limit: int | None = None,
    update: bool = False,
    seen: list[Progress] | None = None,
    retry_failed: bool = False,
    max_failures: int | None = None,
) -> PrecomputeResult:
    return precompute(
        request(world, clip, cache, config=config, spec=spec, limit=limit),
        update=update,
        progress=(seen if seen is not None else []).append,
        retry_failed=retry_failed,
        max_failures=max_failures,
    )


def make(world: Path, clip: str, cache: Path, config: PrecomputeConfig = CONFIG) -> Path:
    """A finished store of the training images on the disk, in shards of four."""
    path = run(world, clip, cache, config=config).path
    assert isinstance(path, Path)
    return path


def files(store: StorePath) -> dict[str, bytes]:
    """All files of a store."""
    assert isinstance(store, Path)
    found = (path for path in store.rglob("*") if path.is_file())
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in found}


def content(store: StorePath) -> dict[str, bytes]:
    """The files that equal runs make equal."""
    return {name: value for name, value in files(store).items() if name not in NOT_CONTENT}


def label_of(world: Path, number: int) -> Path:
    return world.parent / "labels" / "train" / f"scene_{number:03d}.png"


def image_of(world: Path, number: int) -> Path:
    return world.parent / "images" / "train" / f"scene_{number:03d}.png"


def pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.array(image)


@functools.cache
def load_once(files: TeacherFiles, **settings: Any) -> ClipTeacher:
    """`load_teacher`, which costs more than most tests; equal files are the same teacher."""
    return load_teacher(files, **settings)
