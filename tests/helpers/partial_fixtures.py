"""Fixtures: worlds and their stores to change, and what stage one then does (a pytest plugin)."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.drawn_world import draw_world
from helpers.partial_store import CONFIG, copy, few, run
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.precompute.engine import fill_shard
from zsseg.stages.precompute.make import pictures
from zsseg.stages.precompute.teacher.clip_teacher import ClipTeacher


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Images and crops that the teacher has encoded since."""
    count: Counter[str] = Counter()
    cls, dense = ClipTeacher.cls, ClipTeacher.dense

    def counted_cls(self: ClipTeacher, images: Any) -> NDArray[np.float32]:
        count["cls"] += len(images)
        return cls(self, images)

    def counted_dense(self: ClipTeacher, images: Any, config: Any) -> NDArray[np.float32]:
        count["dense"] += len(images)
        return dense(self, images, config)

    monkeypatch.setattr(ClipTeacher, "cls", counted_cls)
    monkeypatch.setattr(ClipTeacher, "dense", counted_dense)
    return count


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the images that are decoded for their tokens."""
    seen: list[str] = []

    def noted(
        spec: DatasetSpec, root: Path, sample: Sample, *, keep: Callable[[int], bool]
    ) -> pictures.ShardRow:
        seen.append(sample.id)
        return pictures.read_shard_row(spec, root, sample, keep=keep)

    monkeypatch.setattr(fill_shard, "read_shard_row", noted)
    return seen


@pytest.fixture(scope="module")
def partial_made(tmp_path_factory: pytest.TempPathFactory, tiny_clip: str) -> tuple[Path, Path]:
    """A world of six images and its store, for tests that change neither."""
    folder = tmp_path_factory.mktemp("partial")
    world = draw_world(folder / "world", images=6)
    draw_world(folder / "more", images=4, seed=7)
    store = run(world, tiny_clip, folder / "cache").path
    assert isinstance(store, Path)
    return world, store


@pytest.fixture(scope="module")
def partial_small(tmp_path_factory: pytest.TempPathFactory, tiny_clip: str) -> tuple[Path, Path]:
    """Three images in two shards, where a test runs stage one many times."""
    folder = tmp_path_factory.mktemp("small")
    world = draw_world(folder / "world", images=3)
    draw_world(folder / "more", images=4, seed=7)
    store = run(world, tiny_clip, folder / "cache", config=few(CONFIG)).path
    assert isinstance(store, Path)
    return world, store


@pytest.fixture
def partial_fresh(partial_made: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    return copy(partial_made, tmp_path)
