"""`zsseg app` in a browser, and what its server refuses."""

import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from helpers.colour_run import COLOURS, colour_run
from helpers.drawn_world import draw_world
from helpers.zsseg_command import zsseg
from numpy.typing import NDArray
from playwright.sync_api import Page, expect, sync_playwright

from zsseg.pipeline.app.answers import Question, Students
from zsseg.pipeline.app.app_page import app_page, asking
from zsseg.pipeline.app.app_server import HOST, AppServer
from zsseg.pipeline.face.model import Model
from zsseg.stages.data.images import png_bytes
from zsseg.stages.errors import UserError
from zsseg.stages.precompute.preview import LoneTeacher, lone_teacher

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
PICTURE_HW3 = np.repeat(np.array(COLOURS[:2], np.uint8), 48, axis=0)[:, None].repeat(96, axis=1)
"""Sky above ground."""


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> Students:
    folder = tmp_path_factory.mktemp("app")
    world = draw_world(folder / "world", images=1)
    first, second = (Model(colour_run(folder / name, world)) for name in ("first", "second"))
    return Students({"runs/first": first, "runs/second": second})


@pytest.fixture(scope="module")
def server(students: Students) -> Iterator[AppServer]:
    with AppServer(0) as running:
        running.page, running.answer = app_page(students), asking(students)
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def page(server: AppServer) -> Iterator[Page]:
    """The app as a browser shows it, with a camera that is drawn; it must ask for nothing else."""
    if CHROMIUM is None:
        pytest.skip("no Chromium installed")
    flags = ["--no-sandbox", "--use-fake-device-for-media-stream"]
    flags.append("--use-fake-ui-for-media-stream")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        shown = browser.new_page()
        asked: list[str] = []
        faults: list[str] = []
        shown.on("request", lambda request: asked.append(request.url))
        shown.on("pageerror", lambda error: faults.append(str(error)))
        shown.goto(server.url)
        yield shown
        browser.close()
    assert asked
    assert not [url for url in asked if not url.startswith((server.url, "data:", "blob:"))]
    assert not faults


def upload(page: Page, image_HW3: NDArray[np.uint8] = PICTURE_HW3) -> str:
    """Give the page an image; the picture that it then shows."""
    file = {"name": "a.png", "mimeType": "image/png", "buffer": png_bytes(image_HW3)}
    page.locator("#file").set_input_files(file)  # type: ignore[arg-type]
    return picture(page)


def picture(page: Page, *, other_than: str = "") -> str:
    """The student's picture, once it is another one."""
    shown = page.locator("#student img")
    expect(shown).to_be_visible()
    expect(shown).not_to_have_attribute("src", other_than)
    return shown.get_attribute("src") or ""


def test_names_are_typed_and_switched_and_the_mask_follows(page: Page) -> None:
    chips = page.locator(".chip")
    expect(chips).to_have_text(["sky", "ground", "box", "ball"])  # before there is an image
    first = upload(page)
    expect(chips).to_have_text(["sky 50 %", "ground 50 %", "box 0 %", "ball 0 %"])
    page.locator("#names").fill("sky, ball")
    page.locator("#names").press("Enter")
    expect(chips).to_have_count(2)
    second = picture(page, other_than=first)
    page.locator("#own").click()
    expect(chips).to_have_count(4)
    chips.nth(1).click()
    expect(chips.nth(1)).to_have_attribute("aria-pressed", "false")
    expect(chips.nth(1)).to_have_text("ground")
    assert picture(page, other_than=first) != second
    chips.nth(1).click()
    expect(chips.nth(1)).to_have_text("ground 50 %")
    assert picture(page) == first


def test_confidence_unsure_pixels_timing_and_runs(page: Page) -> None:
    sky_to_ground_H3 = np.linspace(*COLOURS[:2], 96).astype(np.uint8)
    first = upload(page, np.repeat(sky_to_ground_H3[:, None], 96, axis=1))
    caption = page.locator("#student figcaption")
    expect(caption).to_contain_text(" ms, mean confidence ")
    page.locator("input[value=confidence]").check()
    picture(page, other_than=first)
    page.locator("input[value=overlay]").check()
    page.locator("#unsure").fill("1")
    expect(caption).to_contain_text("of the pixels unsure")
    page.locator("#run").select_option("runs/second")
    expect(page.locator("body")).not_to_have_class("busy")
    expect(page.locator("#teacher")).to_be_hidden()


def test_the_camera_takes_a_picture(page: Page) -> None:
    page.locator("#camera").click()
    page.locator("#take").click()
    picture(page)


def test_a_mistake_is_told_and_the_page_goes_on(page: Page) -> None:
    upload(page)
    page.locator("#names").fill("sky, zebra")
    page.locator("#ask").click()
    error = page.locator("#error")
    expect(error).to_contain_text("--teacher")
    expect(error).to_contain_text("zsseg names")
    page.locator("#own").click()
    expect(error).to_be_hidden()


@pytest.mark.parametrize("width", [1400, 390])
def test_nothing_is_cut(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    upload(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@dataclass(frozen=True)
class GroundOnly(LoneTeacher):
    """A teacher to which everything is the second of the names."""

    def name_pixels(
        self, image_HW3: NDArray[np.uint8], text_CD: NDArray[np.float32]
    ) -> NDArray[np.uint8]:
        grid = (6, 6)
        best, second = np.full(grid, 1, np.uint8), np.zeros(grid, np.uint8)
        return np.stack([best, second, np.full(grid, 200, np.uint8), np.zeros(grid, np.uint8)])


def test_the_teacher_stands_beside_the_student(students: Students, tiny_clip: str) -> None:
    real = lone_teacher(tiny_clip)
    width = real.teacher.width
    map_4yx = real.name_pixels(PICTURE_HW3, np.eye(2, width, dtype=np.float32))
    assert map_4yx.shape[0] == 4
    assert set(np.unique(map_4yx[0])) <= {0, 1}

    both = Students(students.models, GroundOnly(real.teacher, real.config))
    content = png_bytes(PICTURE_HW3)
    found = both.answer(Question("runs/first", "sky, ground"), content, file="a.png")
    assert isinstance(beside := found["teacher"], dict)
    assert beside["overlay"] != found["overlay"]
    assert beside["milliseconds"] > 0


def ask(server: AppServer, body: bytes = b"", **headers: str) -> tuple[int, str]:
    """Status and error of a question."""
    fields = urlencode({"run": "runs/first", "names": "sky, ground"})
    connection = http.client.HTTPConnection(HOST, server.port)
    connection.request("POST", f"/answer?{fields}", body, headers)
    answer = connection.getresponse()
    text = str(json.loads(answer.read()).get("error", ""))
    connection.close()
    return answer.status, text


def test_pages_of_other_sites_are_refused(server: AppServer) -> None:
    assert ask(server) == (200, "")
    assert ask(server, Host="evil.example")[0] == 403  # a name that was turned to 127.0.0.1
    assert ask(server, Origin="https://evil.example")[0] == 403


def test_what_is_no_image_is_told(server: AppServer) -> None:
    status, text = ask(server, b"no image")
    assert (status, "cannot be read as an image" in text) == (400, True)


@pytest.mark.parametrize(
    ("names", "off", "told"),
    [
        ("@/etc/passwd", (), "cannot begin with @"),
        ("sky, Sky", (), "sky"),
        ("", (), "holds no name"),
        ("sky", ("sky",), "switched off"),
    ],
)
def test_names_that_cannot_be_asked(
    students: Students, names: str, off: tuple[str, ...], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        students.answer(Question("runs/first", names, off), b"", file="a.png")


def test_a_port_in_use(server: AppServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert zsseg("app", "--run", "nowhere", "--port", server.port) == 7
    assert f"port {server.port}" in (text := capsys.readouterr().err)
    assert "--port" in text


def test_only_this_machine_is_served(server: AppServer) -> None:
    assert server.socket.getsockname()[0] == "127.0.0.1"
    assert server.socket.family is socket.AF_INET


SERVE = """
import zsseg.pipeline.cli.app as app
from zsseg.pipeline.cli.main import main
app._prepare = lambda *_: None  # loads no torch
main()
"""


@pytest.mark.parametrize(("kind", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_it_ends_cleanly(kind: signal.Signals, code: int) -> None:
    command = [sys.executable, "-c", SERVE, "app", "--run", "any", "--port", "0"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        process.send_signal(kind)
        assert process.wait(60) == code
        assert "Traceback" not in process.stderr.read()
