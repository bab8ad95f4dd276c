"""`zsseg preview`: the store's own map, figures by hand, no label read, the data set untouched."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.clip_store import CONFIG, make
from helpers.drawn_world import draw_world
from helpers.zsseg_command import zsseg

from zsseg.pipeline.preview.preview_page import PageText, write_preview
from zsseg.stages.cache.format.name_scores import SCORE_OF_CODE
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.images import read_image
from zsseg.stages.data.spec import load_spec
from zsseg.stages.evaluate.colours import name_colours
from zsseg.stages.precompute.precompute_config import PixelNamesConfig
from zsseg.stages.precompute.preview import (
    NamedImage,
    PreviewRequest,
    TeacherPreview,
    name_figures,
    preview_names,
)

pytestmark = pytest.mark.usefixtures("one_teacher")
SMALL = ("--set", "dense.size=[64,96]", "--set", "text.templates=single", "--set", "device=cpu")


@pytest.fixture
def photos(tiny_world: Path) -> Path:
    """The description of a world whose labels are gone."""
    shutil.rmtree(tiny_world.parent / "labels")
    return tiny_world


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_figures_by_hand() -> None:
    first = np.array([[[0, 0], [0, 1]], [[1, 1], [1, 0]], [[200, 150], [150, 128]], [[9] * 2] * 2])
    second = np.array([[[1, 1], [0, 0]], [[0, 0], [2, 2]], [[130, 130], [90, 90]], [[9] * 2] * 2])
    maps = [first.astype(np.uint8), second.astype(np.uint8)]
    sky, road, dog = name_figures(maps, ("sky", "road", "dog"))
    assert (sky.share, sky.images, sky.second, sky.behind) == (5 / 8, 2, 3 / 8, "road")
    assert (road.share, road.images, road.second, road.behind) == (3 / 8, 2, 3 / 8, "sky")
    assert (dog.share, dog.images, dog.confidence) == (0, 0, None)
    assert (dog.second, dog.behind) == (1 / 4, "sky")
    assert road.confidence == pytest.approx((2 * SCORE_OF_CODE[130] + 0.5) / 3)
    assert name_figures(maps[:1], ("sky", "road", "dog"))[2].behind is None


def test_it_is_the_map_of_names_that_a_store_has(
    made: tuple[Path, Path], tiny_clip: str, tmp_path: Path
) -> None:
    world, _ = made
    config = CONFIG.model_copy(update={"pixel_names": PixelNamesConfig(enabled=True)})
    store = Store.open(make(world, tiny_clip, tmp_path / "cache", config))
    request = PreviewRequest(
        spec=load_spec(str(world)),
        root=world.parent,
        split="train",
        teacher=tiny_clip,
        config=CONFIG,
        images=3,
    )
    seen = preview_names(request, progress=lambda done, total: None)
    assert [each.id for each in seen.images] == ["scene_000", "scene_002", "scene_005"]
    for image, row in zip(seen.images, (0, 2, 5), strict=True):
        np.testing.assert_array_equal(image.map_4yx[:2], store.read("pixel_names", row)[:2])
        np.testing.assert_allclose(image.map_4yx, store.read("pixel_names", row), atol=1)


def test_images_and_names_are_enough(
    photos: Path, tiny_clip: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, out = files(photos.parent), tmp_path / "seen"
    words = (photos, "--root", photos.parent, "--teacher", tiny_clip, "--out", out, *SMALL)
    names = "sky, ground <b>, box|crate"
    assert zsseg("preview", *words, "--images", 2, "--classes", names, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in found["names"]] == ["sky", "ground <b>", "box|crate"]
    assert sum(each["share"] for each in found["names"]) == pytest.approx(1)
    assert found["images"] == ["scene_000", "scene_005"]
    assert files(photos.parent) == before
    expected = {"index.html", *(f"image_{n}{end}.png" for n in "12" for end in ("", "_overlay"))}
    assert {path.name for path in out.iterdir()} == expected
    original = photos.parent / "images" / "train" / "scene_005.png"
    np.testing.assert_array_equal(read_image(out / "image_2.png"), read_image(original))
    assert read_image(out / "image_2_overlay.png").shape == read_image(original).shape
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "ground &lt;b&gt;" in page
    assert "box / crate" in page
    for colour in name_colours([each["name"] for each in found["names"]])[:3]:
        assert "#{:02x}{:02x}{:02x}".format(*colour) in page
    assert page.count("data:image/jpeg;base64,") == 4
    assert "://" not in page
    assert "<script" not in page


def test_many_names_make_no_endless_page(tmp_path: Path) -> None:
    """Of names found nowhere the nearest ones are explained, the rest is listed once."""
    classes = tuple(f"name {number}" for number in range(40))
    map_4yx = np.zeros((4, 3, 4), np.uint8)
    map_4yx[1, 0], map_4yx[1, 1:], map_4yx[2:] = 7, 31, 128
    picture_HW3 = np.full((30, 40, 3), 90, np.uint8)
    image = NamedImage("<scene>", picture_HW3, map_4yx)
    seen = TeacherPreview(classes, 9, (64, 64), "value", 1, (image,), {})
    text = PageText("title", "about", "settings", "next")
    path = write_preview(tmp_path / "out", seen, text, spec=load_spec("camvid"))
    page = path.read_text(encoding="utf-8")
    assert page.index("<b>name 31</b>: second best at 66.7 %") < page.index("<b>name 7</b>: second")
    assert page.count("<tr") == 1 + 1 + 12
    assert "and 27 more" in page
    assert "name 39" in page
    assert "&lt;scene&gt;" in page


def test_labels_change_nothing_and_a_damaged_image_is_told(
    tiny_world: Path, tiny_clip: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tiny_world.parent / "images" / "train" / "scene_002.png").write_bytes(b"no image")
    pages = []
    for name in ("with", "without"):
        out = tmp_path / name
        words = (tiny_world, "--root", tiny_world.parent, "--teacher", tiny_clip, *SMALL)
        assert zsseg("preview", *words, "--images", 3, "--out", out) == 3
        told = capsys.readouterr()
        assert "scene_002.png" in told.err
        assert "no label" not in told.err
        pages.append((out / "index.html").read_bytes())
        shutil.rmtree(tiny_world.parent / "labels", ignore_errors=True)
    assert pages[0] == pages[1]
    assert b"Left out" in pages[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "{root}/inside"], "never written to"),
        (["--out", "{root}/world.yaml"], "is a file"),
        (["--out", "{root}/../o", "--classes", "car"], "two or more"),
        (["--out", "{root}/../o", "--classes", "car|van, Van"], "'van' and 'Van'"),
        (["--out", "{root}/../o", "--split", "banana"], "no split 'banana'"),
        (["--out", "{root}/../o", "--set", "dense.sizes=3"], "dense.sizes"),
    ],
)
def test_mistakes(
    words: list[str],
    message: str,
    tmp_path: Path,
    tiny_clip: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    world = draw_world(tmp_path / "world", images=1)
    given = [word.format(root=world.parent) for word in words]
    assert zsseg("preview", world, "--root", world.parent, "--teacher", tiny_clip, *given) != 0
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
