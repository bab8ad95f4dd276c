"""Stores that copy what they can from a store in which other classes are unseen."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.clip_store import IN_ORDER, content, files, image_of, load_once, request, run
from helpers.drawn_world import draw_world

from zsseg.stages.data.spec import DatasetSpec, load_spec
from zsseg.stages.errors import CacheError
from zsseg.stages.precompute.precompute_config import PixelNamesConfig, PrecomputeConfig
from zsseg.stages.precompute.progress import Progress
from zsseg.stages.precompute.run import PrecomputeResult, precompute

NAMED = IN_ORDER.model_copy(
    update={"pixel_names": PixelNamesConfig(enabled=True), "shard_images": 2}
)
WITHOUT_PASSES = ("text", "cls", "dense")


@pytest.fixture(scope="module")
def stores(tiny_clip: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A description, the store of its images, and one made from nothing that hides a class more."""
    folder = tmp_path_factory.mktemp("stores")
    world = draw_world(folder / "world", images=6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zsseg.stages.precompute.teacher.clip_teacher.load_teacher", load_once)
        whole = run(world, tiny_clip, folder / "whole", config=NAMED).path
        scratch = run(world, tiny_clip, folder / "scratch", config=NAMED, spec=hiding(world)).path
    assert isinstance(whole, Path)
    assert isinstance(scratch, Path)
    return world, whole, scratch


def hiding(world: Path) -> DatasetSpec:
    return load_spec(str(world)).model_copy(update={"unseen": ("box", "ball")})


def copied(
    world: Path,
    clip: str,
    cache: Path,
    source: Path,
    *,
    config: PrecomputeConfig = NAMED,
    limit: int | None = None,
    stop_at: int | None = None,
) -> PrecomputeResult:
    """A store that hides a class more, made with the help of `source`."""

    def progress(now: Progress) -> None:
        if stop_at is not None and now.done >= stop_at:
            raise ConnectionError("killed")

    asked = request(world, clip, cache, config=config, spec=hiding(world), limit=limit)
    return precompute(replace(asked, copy_from=source), update=True, progress=progress)


@pytest.mark.usefixtures("one_teacher")
def test_it_holds_what_one_made_from_nothing_holds(
    stores: tuple[Path, Path, Path], tiny_clip: str, tmp_path: Path
) -> None:
    world, whole, scratch = stores
    before = files(whole)
    made = copied(world, tiny_clip, tmp_path, whole)
    assert content(made.path) == content(scratch)
    assert not made.forwards.keys() & set(WITHOUT_PASSES)
    assert "text" not in made.written
    assert made.kept["local"] > 0, "crops of classes that stay seen are the same"
    assert files(whole) == before


@pytest.mark.usefixtures("one_teacher")
def test_a_part_of_the_images_and_a_run_that_was_killed(
    stores: tuple[Path, Path, Path], tiny_clip: str, tmp_path: Path
) -> None:
    world, whole, _ = stores
    before = files(whole)
    straight = copied(world, tiny_clip, tmp_path / "straight", whole, limit=3)
    assert straight.images == 3
    with pytest.raises(ConnectionError):
        copied(world, tiny_clip, tmp_path / "killed", whole, limit=3, stop_at=18)
    resumed = copied(world, tiny_clip, tmp_path / "killed", whole, limit=3)
    assert 0 < resumed.written["index"] < 3, "it was killed between two shards"
    assert content(resumed.path) == content(straight.path)
    assert not resumed.forwards.keys() & set(WITHOUT_PASSES)
    assert files(whole) == before
    again = copied(world, tiny_clip, tmp_path / "killed", whole, limit=3)
    assert not again.written


@pytest.mark.usefixtures("one_teacher")
def test_other_settings_and_other_images_are_not_copied(
    stores: tuple[Path, Path, Path], tiny_clip: str, tmp_path: Path
) -> None:
    _, whole, _ = stores
    shutil.copytree(stores[0].parent, tmp_path / "world")
    world = tmp_path / "world" / stores[0].name
    shutil.copy(image_of(world, 0), image_of(world, 4))
    config = NAMED.model_copy(update={"dense": NAMED.dense.model_copy(update={"path": "value"})})
    made = copied(world, tiny_clip, tmp_path / "copied", whole, config=config)
    asked = request(world, tiny_clip, tmp_path / "scratch", config=config, spec=hiding(world))
    scratch = precompute(asked, update=False, progress=lambda _: None)
    assert content(made.path) == content(scratch.path)
    assert made.forwards["cls"] == 1, "of the image that is another one"
    assert made.forwards["dense"] == 6


def test_a_store_that_is_not_there_is_refused(
    stores: tuple[Path, Path, Path], tiny_clip: str, tmp_path: Path
) -> None:
    with pytest.raises(CacheError, match="no store here"):
        copied(stores[0], tiny_clip, tmp_path, tmp_path / "nothing")
