"""The small world: the same for the same seed, readable as a data set, not solved by colour."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from zsseg.stages.data.images import read_image
from zsseg.stages.data.labels import read_label
from zsseg.stages.data.spec import VOID, load_spec
from zsseg.stages.data.splits import list_samples
from zsseg.stages.demo.canvas import Canvas
from zsseg.stages.demo.captions import caption, look
from zsseg.stages.demo.scenes import CLASSES, SIZE, Scene, draw_scene
from zsseg.stages.demo.things import THINGS, box, rgb
from zsseg.stages.demo.world import write_world
from zsseg.stages.evaluate.metrics import confusion, scores


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(0, index) for index in range(120)]


def test_a_scene_is_the_same_for_the_same_seed() -> None:
    first, again = draw_scene(3, 7), draw_scene(3, 7)
    assert np.array_equal(first.image_HW3, again.image_HW3)
    assert np.array_equal(first.label_HW, again.label_HW)
    assert first.placed == again.placed
    others = [draw_scene(3, 8), draw_scene(4, 7)]
    assert not any(np.array_equal(first.image_HW3, other.image_HW3) for other in others)


def test_scenes_show_every_class_and_enough_of_the_unseen(scenes: list[Scene]) -> None:
    spec = load_spec("demo")
    assert spec.classes == CLASSES
    assert len(spec.classes) >= 12
    assert len(spec.unseen) >= 3
    label = np.stack([scene.label_HW for scene in scenes])
    assert label.shape[1:] == SIZE
    share_C = np.bincount(label.ravel(), minlength=256) / label.size
    assert share_C[: len(CLASSES)].min() > 0.01
    assert share_C[list(spec.unseen_ids)].sum() > 0.03
    assert 0 < share_C[VOID] < 0.05
    assert share_C[: len(CLASSES)].sum() + share_C[VOID] == pytest.approx(1)


def test_things_lie_in_their_boxes(scenes: list[Scene]) -> None:
    for scene in scenes:
        for thing, name in enumerate(THINGS, start=CLASSES.index("tree")):
            rows, columns = np.nonzero(scene.label_HW == thing)
            boxes = [placed.box for placed in scene.placed if placed.name == name]
            inside = np.zeros(len(rows), dtype=bool)
            for x0, y0, x1, y1 in boxes:
                inside |= (columns >= x0 - 1) & (columns <= x1) & (rows >= y0 - 1) & (rows <= y1)
            assert inside.all(), name


def test_colour_alone_does_not_solve_it(scenes: list[Scene]) -> None:
    """The best table from a pixel's colour to its class, learnt from all labels, unseen too."""
    train, val = scenes[:90], scenes[90:]
    best = max(
        colour_rule(train, val, bits=bits, balance=balance)
        for bits in (2, 3, 4, 5)
        for balance in (0.0, 0.5, 1.0)
    )
    assert 0.05 < best < 0.4


def colour_rule(train: list[Scene], val: list[Scene], *, bits: int, balance: float) -> float:
    """mIoU on `val` when each of 2^bits cubed colours has the class it is most often in `train`.

    `balance` divides the counts by the class's pixels to that power: rare classes win more often.
    """

    def colours(scene: Scene) -> NDArray[np.int64]:
        red, green, blue = np.moveaxis(scene.image_HW3.astype(np.int64) >> (8 - bits), 2, 0)
        key_HW: NDArray[np.int64] = (red << 2 * bits) + (green << bits) + blue
        return key_HW

    count = np.zeros((1 << 3 * bits, 256))
    for scene in train:
        np.add.at(count, (colours(scene), scene.label_HW), 1)
    count = count[:, : len(CLASSES)]
    class_of = (count / count.sum(0) ** balance).argmax(1).astype(np.uint8)
    total = sum(confusion(class_of[colours(scene)], scene.label_HW, len(CLASSES)) for scene in val)
    return scores(np.asarray(total), ()).miou


def test_the_world_is_a_data_set(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    wanted = {"train": 3, "val": 2}
    write_world(tmp_path, seed=5, scenes=wanted, progress=lambda *call: calls.append(call))
    assert calls == [(done, 5) for done in range(1, 6)]
    spec = load_spec("demo")
    train, val = (list_samples(spec, tmp_path, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (3, 2)
    scene = draw_scene(5, 1)
    assert np.array_equal(read_image(train[1].image), scene.image_HW3)
    assert np.array_equal(read_label(spec, train[1]), scene.label_HW)
    assert not np.array_equal(read_image(train[0].image), read_image(val[0].image))

    before = train[0].image.stat().st_mtime_ns
    train[2].image.unlink()
    write_world(tmp_path, seed=5, scenes=wanted, progress=lambda *_: None)
    assert train[0].image.stat().st_mtime_ns == before
    assert np.array_equal(read_image(train[2].image), draw_scene(5, 2).image_HW3)


def test_a_polygon_is_painted_where_it_lies() -> None:
    canvas = Canvas((8, 10), np.random.default_rng(0))
    canvas.fill(box(2, 3, 6, 5), rgb(200, 100, 50), 7, grain=0)
    expected = np.zeros((8, 10), dtype=np.uint8)
    expected[3:5, 2:6] = 7
    assert np.array_equal(canvas.label_HW, expected)
    assert np.allclose(canvas.image_HW3[3:5, 2:6], (200, 100, 50))
    # Half a pixel is half the colour, and belongs to the polygon from one half on.
    canvas.fill(box(0, 0, 1, 0.34), rgb(90, 90, 90), 1, grain=0)
    assert canvas.label_HW[0, 0] == 0
    assert 0 < canvas.image_HW3[0, 0, 0] < 60
    for outside in (box(20, 0, 30, 5), box(-9, -9, -1, -1), box(0, 8.5, 10, 12)):
        before = canvas.image_HW3.copy()
        canvas.fill(outside, rgb(255, 255, 255), 9)
        assert np.array_equal(canvas.image_HW3, before)


def test_captions_say_what_is_to_be_seen(scenes: list[Scene]) -> None:
    rng = np.random.default_rng(0)
    said: set[str] = set()
    for scene in scenes:
        window = look(scene, rng)
        x0, y0, x1, y1 = window.box
        assert 0 <= x0 < x1 <= SIZE[1]
        assert 0 <= y0 < y1 <= SIZE[0]
        shown = scene.label_HW[y0:y1, x0:x1]
        for name in CLASSES:
            share = (shown == CLASSES.index(name)).mean()
            assert (name in window.names) == (share >= 0.04), (name, share)
        if window.names:
            text = caption(window.names, rng)
            places = [text.index(f"a {name}") for name in window.names]
            assert places == sorted(places)
        said |= set(window.names)
    assert said == set(CLASSES)


def test_a_caption_in_words() -> None:
    rng = np.random.default_rng(0)
    assert "a dog, a road and a sky" in caption(["dog", "road", "sky"], rng)
    assert "a dog" in caption(["dog"], rng)
