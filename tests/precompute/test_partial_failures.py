"""Images that cannot be read while a store is changed."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.clip_store import content, image_of
from helpers.dataset_changes import edit
from helpers.partial_store import IN_ORDER, PER_ROW, copy, equal, run
from numpy.typing import NDArray

from zsseg.stages.cache.reader import Store
from zsseg.stages.data.images import read_image
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.errors import DatasetError
from zsseg.stages.precompute.make import pictures
from zsseg.stages.precompute.plan import changed_files

pytest_plugins = ["helpers.partial_fixtures"]
pytestmark = pytest.mark.usefixtures("one_teacher")


def test_a_failed_image_is_left_alone_until_it_is_asked_for(
    partial_fresh: tuple[Path, Path],
    tiny_clip: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    looked_at: list[str],
) -> None:
    """A disk that failed once leaves no trace in the file."""
    world, path = partial_fresh
    edit(world, 1)
    anew = run(world, tiny_clip, tmp_path / "good").path

    def failing(file: Path, content: bytes) -> NDArray[np.uint8]:
        if file == image_of(world, 1):
            raise DatasetError(f"{file}: Stale file handle")
        return read_image(file, content)

    with monkeypatch.context() as patch:
        patch.setattr(pictures, "read_image", failing)
        result = run(world, tiny_clip, path.parent, update=True)
    assert result.failed == {"scene_001": "images/train/scene_001.png: Stale file handle"}
    assert Store.open(path).read_all("status").tolist() == [0, 1, 0, 0, 0, 0]
    asked: list[str] = []

    def noted(spec: DatasetSpec, root: Path, sample: Sample) -> pictures.ImageRow:
        asked.append(sample.id)
        return pictures.read_image_row(spec, root, sample)

    monkeypatch.setattr(changed_files, "read_image_row", noted)
    looked_at.clear()
    # Neither for nothing, nor for another row of its shard.
    assert run(world, tiny_clip, path.parent).written == {}
    edit(world, 2)
    assert run(world, tiny_clip, path.parent, update=True).written == dict.fromkeys(PER_ROW, 1)
    edit(world, 2)
    assert list(run(world, tiny_clip, path.parent, update=True).failed) == ["scene_001"]
    assert (asked, looked_at) == ([], ["scene_002"] * 2)
    result = run(world, tiny_clip, path.parent, retry_failed=True)
    assert (result.written, result.failed) == (dict.fromkeys(PER_ROW, 1), {})
    assert asked == ["scene_001"]
    equal(path, anew)


def test_failures_that_stay_are_tried_each_time_they_are_asked_for(
    partial_fresh: tuple[Path, Path], tiny_clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, path = partial_fresh
    image_of(world, 5).write_text("no image")
    run(world, tiny_clip, path.parent, update=True)
    before = content(path)
    monkeypatch.setattr("zsseg.stages.precompute.teacher.clip_teacher.load_teacher", None)
    result = run(world, tiny_clip, path.parent, retry_failed=True)
    assert (result.written, list(result.failed)) == ({}, ["scene_005"])
    assert content(path) == before


def test_more_failures_than_allowed_end_the_run(
    partial_small: tuple[Path, Path], tmp_path: Path, tiny_clip: str, passed: Counter[str]
) -> None:
    world, _ = copy(partial_small, tmp_path)
    for number in (0, 1):
        image_of(world, number).write_text("no image")
    more: dict[str, Any] = {"config": IN_ORDER.model_copy(update={"shard_images": 1})}
    cache = tmp_path / "bad"
    message = r"2 images cannot be used, more than --max-failures 1\. .*scene_00[01]\.png"
    with pytest.raises(DatasetError, match=message):
        run(world, tiny_clip, cache, max_failures=1, **more)
    passed.clear()
    # Failures of before count: the same run ends before it computes what is left.
    with pytest.raises(DatasetError, match=message):
        run(world, tiny_clip, cache, max_failures=1, **more)
    assert not passed
    result = run(world, tiny_clip, cache, max_failures=2, **more)
    assert list(result.failed) == ["scene_000", "scene_001"]
    before = content(result.path)
    with pytest.raises(DatasetError, match=message):
        run(world, tiny_clip, cache, max_failures=1, **more)
    assert content(result.path) == before
    equal(result.path, run(world, tiny_clip, tmp_path / "anew", **more).path)
