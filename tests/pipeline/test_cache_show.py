"""`zsseg cache show`: the page of a store, from what is stored alone."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import clip_store
from helpers.drawn_world import draw_world
from helpers.zsseg_command import zsseg

import zsseg as face
from zsseg.pipeline.store_page.store_page import spread_rows
from zsseg.pipeline.stored_image import CachedImage
from zsseg.stages.cache.reader import Store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_clip: str) -> Path:
    """A data set of five images, and its store."""
    here = tmp_path_factory.mktemp("shown")
    world = draw_world(here / "world", images=5)
    clip_store.run(world, tiny_clip, here / "cache")
    return here


@pytest.fixture
def page(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs the command, without any teacher, and returns the page."""

    def shown(*words: object, store: Path | None = None, code: int = 0) -> str:
        monkeypatch.setattr(
            "zsseg.stages.precompute.teacher.open_teacher.open_teacher", lambda *_, **__: 1 / 0
        )
        file = tmp_path / "page.html"
        words = ("cache", "show", store or made / "cache", *words, "--out", file)
        assert zsseg(*words) == code
        return file.read_text() if code == 0 else ""

    return shown


def test_every_image_has_its_pictures_names_and_crops(page: Callable[..., str], made: Path) -> None:
    html = page()
    for number in range(5):
        assert f'id="scene_{number:03d}"' in html
        assert f'alt="dense tokens of scene_{number:03d}"' in html
        assert f'alt="latent regions of scene_{number:03d}"' in html
    assert "all 5 images" in html
    assert "crop of sky" in html
    assert "crop of region 1" in html
    assert "http" not in html.replace("http-equiv", ""), "it loads nothing"
    assert "is nearest to" in html


def test_names_are_the_nearest_by_hand(made: Path) -> None:
    image = CachedImage(face.open_store(made / "cache").store, 2)
    text_CD = image.store.read_all("text").astype(np.float64)
    text_CD /= np.linalg.norm(text_CD, axis=1, keepdims=True)
    assert image.dense is not None
    assert image.named is not None
    for y, x in ((0, 0), (1, 2), (-1, -1)):
        token_D = image.dense[:, y, x].astype(np.float64)
        cosine_C = text_CD @ token_D / np.linalg.norm(token_D)
        assert image.named[y, x] == cosine_C.argmax()
        np.testing.assert_allclose(
            image.cosines(image.dense[None, :, y, x])[0], cosine_C, atol=1e-5
        )


def test_one_image_is_open_and_alone(page: Callable[..., str]) -> None:
    html = page("--image", "scene_003")
    assert html.count("<section") == 1
    assert "<details open>" in html


def test_of_many_images_an_even_sample_is_shown_and_told(
    page: Callable[..., str], made: Path
) -> None:
    assert "2 of 5 images, evenly spread" in page("--images", 2)
    store = face.open_store(made / "cache").store
    assert spread_rows(store, 3).rows == [0, 2, 4]


def test_an_image_that_is_not_there_is_named(
    page: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    page("--image", "nobody", code=2)
    assert "has no image 'nobody'. Give a name such as 'scene_000'" in capfd.readouterr().err


def test_where_images_are_gone_the_page_says_so_and_shows_the_rest(
    made: Path, tmp_path: Path, page: Callable[..., str]
) -> None:
    shutil.copytree(made, tmp_path / "copy")
    (made / "world").rename(made / "elsewhere")
    try:
        html = page(store=tmp_path / "copy" / "cache")
        assert html.count("is no longer there") == 5
        assert 'alt="dense tokens of scene_000"' in html
        assert 'alt="image of scene_000"' not in html
        whole = page("--root", made / "elsewhere", store=tmp_path / "copy" / "cache")
        assert 'alt="image of scene_000"' in whole
        assert "crop of sky" in whole
    finally:
        (made / "elsewhere").rename(made / "world")


def test_a_store_that_keeps_little_says_what_it_lacks(
    tmp_path: Path, tiny_clip: str, page: Callable[..., str]
) -> None:
    world = draw_world(tmp_path / "world", images=3)
    config = clip_store.CONFIG.model_copy(
        update={
            "dense": clip_store.CONFIG.dense.model_copy(update={"format": "none"}),
            "local": clip_store.CONFIG.local.model_copy(update={"enabled": False}),
        }
    )
    clip_store.run(world, tiny_clip, tmp_path / "little", config=config)
    html = page(store=tmp_path / "little")
    assert "keeps no dense tokens and no map of names and no tokens of crops" in html
    assert 'alt="latent regions of scene_000"' in html
    assert "dense tokens of" not in html
    assert "crop of" not in html


def test_names_with_markup_are_escaped(
    tmp_path: Path, tiny_clip: str, page: Callable[..., str]
) -> None:
    world = draw_world(tmp_path / "world", images=3)
    text = world.read_text().replace("box, ball]", "'<b>box</b>', ball]")
    world.write_text(text.replace("{box:", "{'<b>box</b>':"))
    clip_store.run(world, tiny_clip, tmp_path / "store")
    html = page(store=tmp_path / "store")
    assert "<b>box" not in html
    assert "&lt;b&gt;box" in html


def test_the_picture_of_python_has_the_same_parts(made: Path) -> None:
    store = face.open_store(made / "cache")
    width, height = store[0].picture().size
    assert (width, height) == (4 * 64, 48)
    assert isinstance(store.store, Store)
