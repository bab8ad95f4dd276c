"""A store of the tiny CLIP of conftest, made by stage one itself."""

import functools
from pathlib import Path
from typing import Any

from stages.data.spec import load_spec
from stages.precompute.config import (
    DenseConfig,
    LocalConfig,
    PrecomputeConfig,
    RegionConfig,
    TextConfig,
)
from stages.precompute.run import precompute
from stages.precompute.teacher import Teacher, load_teacher
from stages.precompute.teacher_files import TeacherFiles

CONFIG = PrecomputeConfig(
    text=TextConfig(templates="single"),
    dense=DenseConfig(size=(64, 96)),
    regions=RegionConfig(windows=(2, 4), minimum_tokens=2, backend="sklearn"),
    local=LocalConfig(max_masks=5),
    shard_images=4,
    batch=3,
    device="cpu",
)
NOT_CONTENT = {"history.jsonl", "sources.jsonl", ".lock", ".writer.json", ".used"}


def make(world: Path, clip: str, cache: Path, config: PrecomputeConfig = CONFIG) -> Path:
    """A finished store of the training images, in shards of four."""
    path = precompute(
        load_spec(str(world)),
        root=world.parent,
        split="train",
        teacher=clip,
        cache=cache,
        config=config,
        limit=None,
        update=False,
        progress=lambda _: None,
    ).path
    assert isinstance(path, Path)
    return path


def content(store: Path) -> dict[str, bytes]:
    """The files that equal runs make equal."""
    return {
        file.relative_to(store).as_posix(): file.read_bytes()
        for file in sorted(store.rglob("*"))
        if file.is_file() and file.name not in NOT_CONTENT
    }


@functools.cache
def load_once(files: TeacherFiles, **settings: Any) -> Teacher:
    """`load_teacher`, which costs more than most tests; equal files are the same teacher."""
    return load_teacher(files, **settings)
