"""The HTML report: what it says, that it needs nothing else, and how a browser sees it."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from zsseg.pipeline.demo.curves import curves
from zsseg.pipeline.demo.demo_report import ReportContent, write_report
from zsseg.stages.evaluate.colours import name_colours
from zsseg.stages.evaluate.metrics import scores
from zsseg.stages.evaluate.result import EvaluationResult, read_result, save_result

CLASSES = ("sky", "road <wet>", "dog")


def result(confusion: list[list[int]], *, subject: str = "student") -> EvaluationResult:
    confusion_CC = np.array(confusion, dtype=np.int64)
    return EvaluationResult(
        subject="teacher" if subject == "teacher" else "student",
        source="runs/one",
        dataset="demo",
        split="val",
        classes=CLASSES,
        unseen=("dog",),
        images=4,
        left_out=0,
        trained_on=0,
        settings={"step": 3, "calibration": 0.0},
        variant=(),
        scores=scores(confusion_CC, (2,)),
        confusion_CC=confusion_CC,
    )


@pytest.fixture
def shown() -> ReportContent:
    rng = np.random.default_rng(0)
    image_HW3 = rng.integers(0, 255, (32, 48, 3), dtype=np.uint8)
    label_HW = np.zeros((32, 48), dtype=np.uint8)
    label_HW[8:24, 8:40] = 2
    none_HW: NDArray[np.uint8] = np.ones_like(label_HW)
    return ReportContent(
        title="A dog & nothing else",
        about="About it.",
        results={
            "teacher alone": result([[8, 2, 0], [0, 9, 1], [2, 0, 6]], subject="teacher"),
            "baseline": result([[9, 1, 0], [0, 10, 0], [4, 4, 0]]),
            "ours": result([[9, 1, 0], [0, 10, 0], [1, 1, 6]]),
        },
        ours="ours",
        teacher="teacher alone",
        notes=["Where ours is worse.", "Where gamma was chosen."],
        pictures=[(image_HW3, {"label": label_HW, "baseline": none_HW, "ours": label_HW})] * 2,
        colours=name_colours(CLASSES),
        charts={"Loss": {"baseline": [(10, 2.0), (20, 1.0)], "ours": [(10, 3.0), (20, 1.5)]}},
        commands=["zsseg train --set 'a.b=[1,2]'"],
        made="Made in 1.0 minutes.",
    )


class Page(HTMLParser):
    """Text, and whatever a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in {"src", "href", "data"}]

    def handle_data(self, data: str) -> None:
        self.text.append(data.strip())


def test_the_page_holds_everything(shown: ReportContent, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", shown)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.fetched
    assert all(source.startswith("data:image/png;base64,") for source in page.fetched)
    assert not {"script", "link", "iframe"} & set(page.tags)
    cells = [text for text in page.text if text]
    # hIoU, sIoU, uIoU and the dog's IoU of ours, worked by hand: sky 9/11, road 10/12, dog 6/8.
    seen = (9 / 11 + 10 / 12) / 2
    own = [100 * value for value in (2 * seen * 0.75 / (seen + 0.75), seen, 0.75, 0.75)]
    start = cells.index("ours")
    assert cells[start + 1 : start + 5] == [f"{value:.1f}" for value in own]
    for text in (
        "A dog & nothing else",
        "road <wet>",
        "dog (unseen)",
        shown.commands[0],
        *shown.notes,
    ):
        assert text in " ".join(cells)


def test_what_is_less_than_the_teacher_s_is_marked(shown: ReportContent, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", shown)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    # By hand, teacher, baseline, ours: sky 8/12, 9/14, 9/11; road 9/12, 10/15, 10/12; dog 6/9,
    # 0/8, 6/8.
    marked = re.findall(r'<td class="below">(.*?)</td>', text)
    assert marked == ["64.3", "66.7", "0.0"]


def test_only_unseen_classes_are_coloured(shown: ReportContent, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", shown)
    pictures = [decoded(source) for source in Page((tmp_path / "report.html").read_text()).fetched]
    image, label, baseline, ours = pictures[:4]
    assert np.array_equal(image, shown.pictures[0][0])
    assert np.array_equal(label, ours)
    assert np.ptp(baseline.astype(int), axis=2).max() == 0
    coloured = np.ptp(ours.astype(int), axis=2) > 0
    assert np.array_equal(coloured[10:22, 10:38], np.ones((12, 28), dtype=bool))
    assert not coloured[:7].any()


def decoded(source: str) -> NDArray[np.uint8]:
    import base64
    import io

    content = base64.b64decode(source.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)))


def test_curves_lie_where_the_numbers_say() -> None:
    svg = ElementTree.fromstring(curves("A <b>", {"one": [(0, 0.0), (50, 2.0), (100, 4.0)]}))
    (line,) = svg.iter("polyline")
    points = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
    rules = {label: float(rule.attrib["y1"]) for label, rule in labelled_rules(svg).items()}
    assert points[0][1] == pytest.approx(rules["0"], abs=0.1)
    assert points[1][1] == pytest.approx(rules["2"], abs=0.1)
    assert points[2][1] == pytest.approx(rules["4"], abs=0.1)
    assert points[1][0] - points[0][0] == pytest.approx(points[2][0] - points[1][0], abs=0.1)
    assert next(svg.iter("text")).text == "A <b>"
    assert curves("empty", {"one": []}) == ""
    assert "nan" not in curves("flat", {"one": [(5, 0.0)]})


def labelled_rules(svg: ElementTree.Element) -> dict[str, ElementTree.Element]:
    """The horizontal lines by the number that stands at each."""
    numbers = [each.text or "" for each in svg.iter("text") if each.get("text-anchor") == "end"]
    return dict(zip(numbers, svg.iter("line"), strict=False))


def test_a_result_is_read_back(tmp_path: Path) -> None:
    before = result([[9, 1, 0], [0, 10, 0], [1, 1, 6]])
    path, _ = save_result(tmp_path, before)
    after = read_result(path)
    assert np.array_equal(after.confusion_CC, before.confusion_CC)
    assert after.scores == before.scores
    same = ("subject", "source", "dataset", "split", "classes", "unseen", "images", "settings")
    assert all(getattr(after, name) == getattr(before, name) for name in (*same, "variant"))


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium installed")


def look(page: Path, profile: Path) -> tuple[NDArray[np.uint8], list[str]]:
    """(H, W, 3) what a browser without a network shows of a page, and the page's errors."""
    screenshot = profile / "page.png"
    done = subprocess.run(
        [
            str(CHROMIUM),
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={profile}",
            "--enable-logging=stderr",
            "--hide-scrollbars",
            "--window-size=1200,1600",
            f"--screenshot={screenshot}",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    # Errors of a page and refusals of its content policy are messages on its console.
    errors = re.findall(r".*(?:CONSOLE|Uncaught|Refused to).*", done.stderr)
    return np.asarray(Image.open(screenshot).convert("RGB")), errors


@needs_chromium
def test_a_browser_shows_it_without_errors(shown: ReportContent, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", shown)
    seen, errors = look(tmp_path / "report.html", tmp_path / "profile")
    assert not errors
    dog = name_colours(CLASSES)[2]
    assert (seen == dog).all(2).sum() > 50  # the key, and borders in the pictures
    assert 0.3 < (seen == 255).all(2).mean() < 0.97


@needs_chromium
def test_the_browser_would_tell_of_a_fetch(shown: ReportContent, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, shown)
    fetching = '<img src="https://example.org/a.png"></body>'
    path.write_text(path.read_text(encoding="utf-8").replace("</body>", fetching))
    assert look(path, tmp_path / "profile")[1]
