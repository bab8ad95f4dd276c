"""Stage one on images whose pixels do not fit into memory together: work is cut by pixels."""

import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from helpers.clip_store import CONFIG, content, run
from helpers.drawn_world import draw_world
from numpy.typing import NDArray

from zsseg.stages.data.images import read_image
from zsseg.stages.data.samples import Sample
from zsseg.stages.errors import CacheError
from zsseg.stages.precompute.engine import fill_shard
from zsseg.stages.precompute.make import pictures
from zsseg.stages.precompute.make.pixel_gate import PixelGate, PixelStock

PIXELS = 48 * 64
"""Of an image of the drawn world."""


class Alive:
    """Counts the images that are decoded and still in memory."""

    def __init__(self) -> None:
        self.now = self.most = self.decoded = 0
        self._lock = threading.Lock()

    def read_image(self, path: Path, data: bytes) -> NDArray[np.uint8]:
        image_HW3 = read_image(path, data)
        with self._lock:
            self.decoded += 1
            self.now += 1
            self.most = max(self.most, self.now)
        weakref.finalize(image_HW3, self._gone)
        return image_HW3

    def _gone(self) -> None:
        self.now -= 1


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> Alive:
    counter = Alive()
    monkeypatch.setattr(pictures, "read_image", counter.read_image)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    return counter


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_world(tmp_path_factory.mktemp("large"), images=16)


WHOLE_SHARD = CONFIG.model_copy(update={"shard_images": 16, "shards_at_once": 1, "megapixels": 1})


@pytest.mark.parametrize("number", [0, 2])
def test_images_beyond_the_room_are_read_again_and_the_store_is_the_same(
    number: int,
    world: Path,
    tiny_clip: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    alive: Alive,
) -> None:
    views = WHOLE_SHARD.views.model_copy(update={"number": number})
    config = WHOLE_SHARD.model_copy(update={"views": views})
    kept = run(world, tiny_clip, tmp_path / "kept", config=config)
    assert alive.decoded == alive.most == 16
    assert alive.now == 0
    alive.most = alive.decoded = 0
    monkeypatch.setattr(fill_shard, "MEGAPIXEL", PIXELS)  # one at work, two kept
    cut = run(world, tiny_clip, tmp_path / "cut", config=config)
    # Beside these, each of two threads may have let go of one that is not freed yet.
    assert alive.most <= 1 + 2 + 2
    assert alive.decoded == 16 + 3 * 14  # for CLS, dense and local tokens
    assert content(cut.path) == content(kept.path)


def test_a_picture_that_changes_before_it_is_read_again_ends_the_run(
    world: Path, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing = tmp_path / "world"
    changing.mkdir()
    spec = draw_world(changing, images=3)
    monkeypatch.setattr(fill_shard, "MEGAPIXEL", 1)  # no image is kept
    read = pictures.read_shard_row

    def changed_after(*args: object, **options: object) -> pictures.ShardRow:
        row = read(*args, **options)  # type: ignore[arg-type]
        sample = args[2]
        assert isinstance(sample, Sample)
        sample.image.write_bytes(sample.image.read_bytes() + b"\0")
        return row

    monkeypatch.setattr(fill_shard, "read_shard_row", changed_after)
    with pytest.raises(CacheError, match="changed while the run was going on"):
        run(spec, tiny_clip, tmp_path / "cache", config=WHOLE_SHARD)


def test_the_gate_lets_as_many_pixels_through_as_fit_and_a_larger_image_alone() -> None:
    gate, inside, most = PixelGate(10), [0], [0]
    lock = threading.Lock()

    def work(pixels: int) -> None:
        with gate.held(pixels):
            with lock:
                inside[0] += pixels
                most[0] = max(most[0], inside[0])
            threading.Event().wait(0.002)
            with lock:
                inside[0] -= pixels

    threads = [threading.Thread(target=work, args=(4,)) for _ in range(8)]
    threads += [threading.Thread(target=work, args=(25,))]
    for each in threads:
        each.start()
    for each in threads:
        each.join(timeout=10)
    assert inside == [0]
    assert most == [25]  # never beside another: 25 + 4 would be more


def test_a_stock_takes_what_fits_also_after_something_that_does_not() -> None:
    stock = PixelStock(10)
    assert [stock.takes(each) for each in (6, 6, 3, 2, 1)] == [True, False, True, False, True]
