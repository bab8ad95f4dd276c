"""Files of the data set that are others than those a store was made from: noticed, and followed."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.clip_store import IN_ORDER, content, image_of, label_of, pixels, run
from PIL import Image

from zsseg.stages.cache.reader import Store
from zsseg.stages.cache.writer import Writer
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec, load_spec
from zsseg.stages.errors import CacheError
from zsseg.stages.precompute.make import pictures
from zsseg.stages.precompute.plan import changed_files
from zsseg.stages.precompute.progress import Progress

pytestmark = pytest.mark.usefixtures("one_teacher")


def test_a_changed_image_is_refused_and_updated(
    fresh: tuple[Path, Path], tiny_clip: str, tmp_path: Path
) -> None:
    world, path = fresh
    run(world, tiny_clip, path.parent)
    before = content(path)
    image_HW3 = pixels(image_of(world, 5))
    Image.fromarray(image_HW3[::-1]).save(image_of(world, 5))
    with pytest.raises(CacheError, match=r"1 of 6 images .*scene_005.*--update"):
        run(world, tiny_clip, path.parent)
    assert content(path) == before
    result = run(world, tiny_clip, path.parent, update=True)
    assert result.written == dict.fromkeys(("index", "cls", "dense", "regions", "local"), 1)
    assert content(path) == content(run(world, tiny_clip, tmp_path / "anew").path)
    assert content(path) != before
    assert run(world, tiny_clip, path.parent).written == {}


def test_a_changed_visible_label_is_refused(fresh: tuple[Path, Path], tiny_clip: str) -> None:
    world, path = fresh
    label_HW = pixels(label_of(world, 0))
    Image.fromarray(np.where(label_HW == 1, 0, label_HW).astype(np.uint8)).save(label_of(world, 0))
    with pytest.raises(CacheError, match="scene_000"):
        run(world, tiny_clip, path.parent)


def test_a_changed_visible_label_keeps_what_is_made_of_the_image(
    fresh: tuple[Path, Path], tiny_clip: str, tmp_path: Path
) -> None:
    world, path = fresh
    label_HW = pixels(label_of(world, 0))
    Image.fromarray(np.where(label_HW == 1, 0, label_HW).astype(np.uint8)).save(label_of(world, 0))
    kept = (path / "dense" / "c.0.0.0.0").stat().st_mtime_ns
    result = run(world, tiny_clip, path.parent, update=True)
    assert result.written == {"index": 1, "regions": 1, "local": 1}
    assert (path / "dense" / "c.0.0.0.0").stat().st_mtime_ns == kept
    assert run(world, tiny_clip, path.parent).written == {}
    assert content(path) == content(run(world, tiny_clip, tmp_path / "anew").path)
    # A label that can no longer be used takes its image with it: that is not the label alone.
    label_HW[5, 7] = 77
    Image.fromarray(label_HW).save(label_of(world, 0))
    result = run(world, tiny_clip, path.parent, update=True)
    assert result.written == dict.fromkeys(("index", "cls", "dense", "regions", "local"), 1)


def test_an_interrupted_update_of_labels_continues_to_the_same_bytes(
    fresh: tuple[Path, Path], tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, path = fresh
    for number in (0, 5):
        label_HW = pixels(label_of(world, number))
        Image.fromarray(np.where(label_HW == 1, 0, label_HW)).save(label_of(world, number))
    commit, done = Writer.commit, list[str]()

    def failing(self: Writer, artifact: str, *args: Any, **kwargs: Any) -> None:
        if len(done) % 2:
            done.append("interrupted")
            raise KeyboardInterrupt
        done.append(artifact)
        commit(self, artifact, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "commit", failing)
        for _ in range(5):
            with pytest.raises(KeyboardInterrupt):
                run(world, tiny_clip, path.parent, update=True, config=IN_ORDER)
    run(world, tiny_clip, path.parent, update=True)
    # The second shard was being computed when the run was killed, so its receipts are gone.
    assert done[::2] == ["index", "regions", "local", "index", "cls"]
    assert content(path) == content(run(world, tiny_clip, tmp_path / "anew").path)


def test_labels_that_moved_or_came_are_followed(
    fresh: tuple[Path, Path], tiny_clip: str, tmp_path: Path
) -> None:
    world, path = fresh
    spec = load_spec(str(world))
    assert spec.patterns is not None
    patterns = spec.patterns.model_copy(update={"label_suffix": "_ids"})
    moved = spec.model_copy(update={"patterns": patterns})
    for number in range(6):
        label_of(world, number).rename(label_of(world, number).with_stem(f"scene_{number:03d}_ids"))
    with pytest.raises(CacheError, match="6 images with another label file: scene_000"):
        run(world, tiny_clip, path.parent, spec=moved)
    assert run(world, tiny_clip, path.parent, spec=moved, update=True).written == {}
    assert Store.open(path).index[5]["label"] == "labels/train/scene_005_ids.png"
    assert content(path) == content(run(world, tiny_clip, tmp_path / "anew", spec=moved).path)
    # One goes: its image is unlabelled now; and comes back.
    before = content(path)
    away = (world.parent / "labels/train/scene_001_ids.png").rename(tmp_path / "away.png")
    written = {"index": 1, "regions": 1, "local": 1}
    assert run(world, tiny_clip, path.parent, spec=moved, update=True).written == written
    assert Store.open(path).index[1]["label"] is None
    away.rename(world.parent / "labels/train/scene_001_ids.png")
    assert run(world, tiny_clip, path.parent, spec=moved, update=True).written == written
    assert content(path) == before


def test_an_interrupted_check_of_files_goes_on_where_it_was(
    fresh: tuple[Path, Path], tiny_clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, path = fresh
    before = content(path)
    for number in range(6):
        os.utime(image_of(world, number), ns=(1, 1))
    hashes, looked = pictures.content_hashes, list[str]()

    def failing(spec: DatasetSpec, sample: Sample) -> pictures.Hashes:
        looked.append(sample.id)
        if sample.id == "scene_004":
            raise KeyboardInterrupt
        return hashes(spec, sample)

    with monkeypatch.context() as patch:
        patch.setattr(changed_files, "content_hashes", failing)
        with pytest.raises(KeyboardInterrupt):
            run(world, tiny_clip, path.parent)
    assert set(looked) >= {f"scene_00{n}" for n in range(5)}
    seen: list[Progress] = []
    assert run(world, tiny_clip, path.parent, seen=seen).written == {}
    assert [(step.done, step.total) for step in seen] == [(2, 2)]
    assert seen[0].seconds.keys() == {"read"}
    assert (seen[0].images_per_second, seen[0].bytes, seen[0].failures) == (None, 0, 0)
    assert content(path) == before
    seen.clear()
    run(world, tiny_clip, path.parent, seen=seen)
    assert seen == []


def test_a_new_date_alone_is_looked_at_once(fresh: tuple[Path, Path], tiny_clip: str) -> None:
    world, path = fresh
    run(world, tiny_clip, path.parent)
    os.utime(image_of(world, 3), ns=(1, 1))
    assert run(world, tiny_clip, path.parent).written == {}
    entries = [json.loads(line) for line in (path / "sources.jsonl").read_text().splitlines()]
    assert entries[4]["id"] == "scene_003"
    assert entries[4]["image"][1] == 1


def test_another_encoding_is_noticed_without_a_changed_file(
    fresh: tuple[Path, Path], tiny_clip: str, tmp_path: Path
) -> None:
    world, path = fresh
    spec = load_spec(str(world))
    other = spec.model_copy(update={"ignore": (2, 255)})
    with pytest.raises(CacheError, match=r"info\.spec\.ignore"):
        run(world, tiny_clip, path.parent, spec=other)
    written = run(world, tiny_clip, path.parent, spec=other, update=True).written
    assert written == {"index": 6, "regions": 6, "local": 6}
    assert content(path) == content(run(world, tiny_clip, tmp_path / "anew", spec=other).path)
