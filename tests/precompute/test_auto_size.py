"""dense.size=auto: chosen once from the shapes of images, kept by the store, the same store."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.clip_store import CONFIG, content, image_of, label_of, run
from helpers.drawn_world import draw_world
from PIL import Image

from zsseg.stages.cache.format.manifest import read_manifest
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import load_spec
from zsseg.stages.data.splits import list_samples
from zsseg.stages.errors import DatasetError
from zsseg.stages.precompute.plan import auto_size
from zsseg.stages.precompute.plan.auto_size import SAMPLED, sampled_shapes
from zsseg.stages.precompute.precompute_config import LocalConfig, PrecomputeConfig
from zsseg.stages.precompute.run import PrecomputeResult
from zsseg.stages.precompute.teacher import dense_passes


def config_of(size: object) -> PrecomputeConfig:
    dense, local = CONFIG.dense.model_copy(update={"size": size}), LocalConfig(enabled=False)
    return CONFIG.model_copy(update={"dense": dense, "local": local})


AUTO = config_of("auto")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes of 64^2 to 96^2 pixels."""
    monkeypatch.setattr(dense_passes, "SMALLEST", 64**2)
    monkeypatch.setattr(dense_passes, "LARGEST", 96**2)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Five images of 48 x 64 pixels."""
    return draw_world(tmp_path / "world", images=5)


def size_of(result: PrecomputeResult) -> list[int]:
    size: list[int] = Store.open(result.path).identity["dense"]["size"]
    return size


def no_look(*_: Any) -> list[tuple[int, int]]:
    raise AssertionError("images are looked at")


@pytest.mark.usefixtures("small")
def test_a_store_is_that_of_the_size_which_was_chosen(
    world: Path, tiny_clip: str, tmp_path: Path
) -> None:
    auto = run(world, tiny_clip, tmp_path / "auto", config=AUTO)
    assert size_of(auto) == [56, 72]  # 4:3 and 64^2 pixels: 55.4 x 73.9, in steps of 8
    assert Store.open(auto.path).recipes["dense"]["size"] == [56, 72]
    assert Store.open(auto.path).read_all("dense").shape[2:] == (7, 9)
    given = run(world, tiny_clip, tmp_path / "given", config=config_of((56, 72)))
    assert given.path.name == auto.path.name
    other, one = (content(each.path) for each in (given, auto))
    said = {"zarr.json", "seal.json", "README.md"}
    assert {name for name in one if one[name] != other[name]} == said
    for cache, config in (("auto", config_of((56, 72))), ("given", AUTO)):
        again = run(world, tiny_clip, tmp_path / cache, config=config)
        assert (again.written, size_of(again)) == ({}, [56, 72])


@pytest.mark.usefixtures("small")
def test_a_store_keeps_its_size(
    world: Path, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(world, tiny_clip, tmp_path / "cache", config=AUTO)
    for number in range(5, 11):  # more images, upright
        Image.fromarray(np.full((64, 48, 3), number, np.uint8)).save(image_of(world, number))
        Image.fromarray(np.zeros((64, 48), np.uint8)).save(label_of(world, number))
    monkeypatch.setattr(auto_size, "sampled_shapes", no_look)
    second = run(world, tiny_clip, tmp_path / "cache", config=AUTO, update=True)
    assert (second.path, second.images, size_of(second)) == (first.path, 11, [56, 72])
    # Continued with the size as a number, it is found by `auto` all the same.
    run(world, tiny_clip, tmp_path / "cache", config=config_of((56, 72)), update=True)
    assert run(world, tiny_clip, tmp_path / "cache", config=AUTO).written == {}
    monkeypatch.undo()
    elsewhere = run(world, tiny_clip, tmp_path / "other", config=AUTO)
    assert size_of(elsewhere)[0] > size_of(elsewhere)[1]


@pytest.mark.usefixtures("small")
def test_a_store_of_a_given_size_is_no_store_of_auto(
    world: Path, tiny_clip: str, tmp_path: Path
) -> None:
    given = run(world, tiny_clip, tmp_path / "cache", config=config_of((64, 64)))
    auto = run(world, tiny_clip, tmp_path / "cache", config=AUTO)
    assert given.path != auto.path
    other = AUTO.model_copy(update={"dense": AUTO.dense.model_copy(update={"path": "value"})})
    assert run(world, tiny_clip, tmp_path / "cache", config=other).path != auto.path
    assert "auto_size" not in read_manifest(given.path).info


def samples_of(world: Path) -> Sequence[Sample]:
    return list_samples(load_spec(str(world)), world.parent, "train")


def test_images_that_cannot_be_read_do_not_count(world: Path) -> None:
    image_of(world, 0).write_bytes(b"no image")
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(image_of(world, 4))
    assert sampled_shapes(samples_of(world)) == [(48, 64)] * 3 + [(20, 30)]
    for number in range(5):
        image_of(world, number).write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"auto: none of the 5 images.*scene_000\.png"):
        sampled_shapes(samples_of(world))


def test_few_of_many_images_are_looked_at(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many, looked = list(samples_of(world)) * 50, list[Path]()

    def size(path: Path) -> tuple[int, int]:
        looked.append(path)
        return 1, 1

    monkeypatch.setattr(auto_size, "image_size", size)
    assert len(sampled_shapes(many)) == SAMPLED
    assert (looked[0], looked[-1]) == (many[0].image, many[-1].image)
