"""Images that cannot be used: rows with their reason, tried again, never a store of nothing."""

from pathlib import Path

import numpy as np
import pytest
from helpers.clip_store import content, files, image_of, label_of, pixels, run
from numpy.typing import NDArray
from PIL import Image

from zsseg.stages.cache.reader import Store
from zsseg.stages.data.images import read_image
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import load_spec
from zsseg.stages.errors import CacheError, DatasetError
from zsseg.stages.precompute.make import pictures
from zsseg.stages.precompute.progress import Progress

pytestmark = pytest.mark.usefixtures("one_teacher")


def spoil(world: Path) -> None:
    """Three rows that cannot be used, in two shards."""
    image_of(world, 1).write_bytes(image_of(world, 1).read_bytes()[:400])
    label_HW = pixels(label_of(world, 2))
    label_HW[5, 7] = 77
    Image.fromarray(label_HW).save(label_of(world, 2))
    Image.fromarray(pixels(label_of(world, 5))[:, :-1]).save(label_of(world, 5))


def test_a_bad_image_is_a_row(
    made: tuple[Path, Path], fresh: tuple[Path, Path], tiny_clip: str, tmp_path: Path
) -> None:
    good = Store.open(made[1])
    world, _ = fresh
    spoil(world)
    seen: list[Progress] = []
    result = run(world, tiny_clip, tmp_path / "bad", seen=seen)
    assert list(result.failed) == ["scene_001", "scene_002", "scene_005"]
    reasons = list(result.failed.values())
    assert reasons[0].startswith("images/train/scene_001.png: cannot be read")
    assert "77 (1 px)" in reasons[1]
    assert "63 x 48 pixels, but its image has 64 x 48" in reasons[2]
    assert not any(str(world.parent) in reason for reason in reasons)
    store = Store.open(result.path)
    assert store.read_all("status").tolist() == [0, 1, 1, 0, 0, 1]
    for row in range(6):
        for array in ("size", "views", "cls", "dense", "regions", "local", "local_ids"):
            values = store.read(array, row)
            if row in (1, 2, 5):
                assert (values == (-1 if array == "local_ids" else 0)).all(), array
            else:
                np.testing.assert_allclose(values, good.read(array, row), atol=2e-3, err_msg=array)
    assert seen[-1].done == seen[-1].total
    assert store.receipt("index", 0)["failures"].keys() == {"1", "2"}
    assert run(world, tiny_clip, tmp_path / "bad").failed == result.failed


def test_images_that_failed_are_tried_again(
    made: tuple[Path, Path], fresh: tuple[Path, Path], tiny_clip: str, tmp_path: Path
) -> None:
    """A disk that fails for a moment must not cost an image for good, nor need `--update`."""
    world, _ = fresh
    truncated = image_of(world, 1).read_bytes()
    away = image_of(world, 5).rename(tmp_path / "away.png")
    image_of(world, 5).symlink_to(tmp_path / "not mounted.png")
    image_of(world, 1).write_bytes(truncated[:400])
    cache = tmp_path / "bad"
    result = run(world, tiny_clip, cache)
    assert list(result.failed) == ["scene_001", "scene_005"]
    before = files(result.path)
    assert run(world, tiny_clip, cache).written == {}
    assert files(result.path) == before
    # One can be read now; the other fails for another reason, which its row has then.
    away.rename(tmp_path / "not mounted.png")
    image_of(world, 1).write_bytes(truncated[:300])
    again = run(world, tiny_clip, cache)
    assert again.written == dict.fromkeys(("index", "cls", "dense", "regions", "local"), 2)
    assert list(again.failed) == ["scene_001"]
    image_of(world, 1).write_bytes(truncated)
    assert run(world, tiny_clip, cache).failed == {}
    assert content(result.path) == content(made[1])


def test_failures_are_tried_again_without_torch(
    fresh: tuple[Path, Path], tiny_clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, path = fresh
    image_of(world, 5).write_text("no image")
    run(world, tiny_clip, path.parent, update=True)
    monkeypatch.setattr("zsseg.stages.precompute.teacher.clip_teacher.load_teacher", None)
    assert list(run(world, tiny_clip, path.parent).failed) == ["scene_005"]


def test_an_image_that_fails_in_a_repair_is_not_zeroed(
    fresh: tuple[Path, Path], tiny_clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes are hashed well and then cannot be decoded: a mended store must not lose it."""
    world, path = fresh
    before = content(path)
    (path / "regions" / "c.1.0.0").unlink()
    read = read_image

    def failing(file: Path, content: bytes) -> NDArray[np.uint8]:
        if file == image_of(world, 4):
            raise DatasetError(f"{file}: Stale file handle")
        return read(file, content)

    with monkeypatch.context() as patch:
        patch.setattr(pictures, "read_image", failing)
        with pytest.raises(CacheError, match="files of shard 1 changed while the run"):
            run(world, tiny_clip, path.parent)
    run(world, tiny_clip, path.parent)
    assert content(path) == before


def test_reasons_name_files_relative_to_the_root_and_nothing_else() -> None:
    image, label = Path("data/mydata/a.png"), Path("data/data/a.png")
    row = pictures.read_image_row(
        load_spec("camvid"), Path("data"), Sample(id="a", image=image, label=label)
    )
    assert row.failure is not None
    assert row.failure.startswith("mydata/a.png: cannot be read")
    assert "'mydata/a.png'" in row.failure


def test_a_path_that_is_part_of_the_other_is_not_taken_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image, label = Path("data/mydata/a.png"), Path("data/data/a.png")

    def failing(_: Path) -> bytes:
        raise DatasetError(f"{label} and {image}, not mydata/b.png")

    monkeypatch.setattr(pictures, "image_content", failing)
    sample = Sample(id="a", image=image, label=label)
    row = pictures.read_image_row(load_spec("camvid"), Path("data"), sample)
    assert row.failure == "data/a.png and mydata/a.png, not mydata/b.png"


def test_a_shard_of_bad_images_only(fresh: tuple[Path, Path], tiny_clip: str) -> None:
    world, path = fresh
    for number in (4, 5):
        image_of(world, number).write_text("no image")
    result = run(world, tiny_clip, path.parent, update=True)
    assert result.written == dict.fromkeys(("index", "cls", "dense", "regions", "local"), 2)
    assert list(result.failed) == ["scene_004", "scene_005"]


def test_no_usable_image_is_an_error(tiny_world: Path, tiny_clip: str, tmp_path: Path) -> None:
    for number in range(6):
        image_of(tiny_world, number).write_text("<html>not found</html>")
    for _ in range(2):
        with pytest.raises(DatasetError, match=r"none of the 6 images .*scene_000\.png"):
            run(tiny_world, tiny_clip, tmp_path / "cache")
    (store,) = (tmp_path / "cache").iterdir()
    assert not (store / "seal.json").exists()
