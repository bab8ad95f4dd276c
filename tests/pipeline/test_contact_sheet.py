"""The page of predictions: whatever images and classes are called."""

import json
import os
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from helpers.colour_run import colour_run
from PIL import Image

from zsseg.pipeline.sheet.contact_sheet import SheetText, check_page, write_sheet
from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.asked_names import with_text
from zsseg.stages.evaluate.predict import predict_files
from zsseg.stages.evaluate.prediction import Look
from zsseg.stages.evaluate.prediction_results import Predictions
from zsseg.stages.evaluate.predictor import Predictor

TEXT = SheetText("title", "about <these>")
HOSTILE = (
    b"<img src=x onerror=alert(1)>",
    b"a#b?c=d&e %2e",
    b"\"quotes' \\ back",
    b"javascript:alert(1)",
    b"two\nlines\x1b[2J",
    b"bytes \xff\xfe",
    "straße 日本".encode(),
)


class Page(HTMLParser):
    """Tags, addresses and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.sources: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]
        self.sources += [value or "" for name, value in attrs if name == "src"]
        self.links += [value or "" for name, value in attrs if name == "href"]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def predictor(tiny_world: Path, tmp_path: Path) -> Predictor:
    run = colour_run(tmp_path / "run", tiny_world)
    names = ("</td><script>alert(1)</script>", 'a "b" & c', "car|van", "ball")
    return Predictor(run, with_text(run, names, [], run.text_CD))


def sheet(predictor: Predictor, found: Predictions, out: Path) -> Page:
    asked = predictor.asked
    path = write_sheet(out, found, asked.classes, asked.palette, text=TEXT)
    return Page(path.read_text("utf-8"))


def test_hostile_names_of_files_and_classes(predictor: Predictor, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    (photos / "sub <b>").mkdir(parents=True)
    picture = Image.fromarray(np.full((20, 30, 3), (120, 180, 240), np.uint8))
    for name in HOSTILE:
        picture.save(photos / "sub <b>" / os.fsdecode(name + b".png"))
    (photos / "<i>broken.png").write_bytes(b"no image")
    found = predict_files(predictor, [photos], out, progress=lambda *_: None)
    page = sheet(predictor, found, out)
    assert not {"script", "i"} & page.tags
    assert len(page.sources) == len(HOSTILE)
    # Every address leads to its file, and none is anything but a place below the page.
    for address in (*page.sources, *page.links):
        assert ":" not in address
        assert (out / os.fsdecode(unquote_to_bytes(address))).is_file()
    assert set(page.sources) == {
        address for address in page.links if address.endswith("_overlay.png")
    }
    assert "</td><script>alert(1)</script>" in page.text
    assert "sub <b>/<img src=x onerror=alert(1)>" in page.text
    assert "two\\nlines\\x1b[2J" in page.text
    assert "<i>broken.png" in page.text
    assert "car / van" in page.text
    lines = (out / "results.jsonl").read_bytes().decode("utf-8").split("\n")[:-1]
    stored = [json.loads(line) for line in lines]
    assert {each["file"] for each in stored} == {
        str(path) for path in photos.rglob("*.png") if path.is_file()
    }
    for each in stored:
        if "error" not in each:
            assert (out / each["labels"]).is_file()
            assert each["classes"] == [{"name": "</td><script>alert(1)</script>", "share": 1.0}]


def test_shares_of_the_whole_count_pixels(predictor: Predictor, tmp_path: Path) -> None:
    for name, size, colour in (("a", (30, 20), (120, 180, 240)), ("b", (10, 20), (240, 220, 60))):
        Image.new("RGB", size, colour).save(tmp_path / f"{name}.png")
    inputs, out = [tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "out"
    found = predict_files(predictor, inputs, out, look=Look(legend=True), progress=lambda *_: None)
    text = sheet(predictor, found, out).text
    assert [text.count(share) for share in ("75.0", "25.0", "100.0")] == [1, 1, 2]
    assert 'Nowhere: a "b" & c, car / van.' in text


def test_no_prediction_at_all(predictor: Predictor, tmp_path: Path) -> None:
    assert "about <these>" in sheet(predictor, Predictions((), ()), tmp_path).text


def test_a_page_of_another_maker_is_kept(predictor: Predictor, tmp_path: Path) -> None:
    check_page(tmp_path / "new")
    (tmp_path / "index.html").write_text("<h1>my photos</h1>")
    with pytest.raises(UserError, match=r"index\.html: is there, and not from zsseg predict"):
        check_page(tmp_path)
    (tmp_path / "index.html").unlink()
    sheet(predictor, Predictions((), ()), tmp_path)
    check_page(tmp_path)
