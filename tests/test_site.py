"""The pages of the documentation site that are made from the code, and what the site loads."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from reference_pages import command_page, commands, settings_page

from zsseg.stages.precompute.precompute_config import PrecomputeConfig
from zsseg.stages.setting_notes import SettingNote, setting_notes
from zsseg.stages.train.run_config import RunConfig

ROOT = Path(__file__).resolve().parents[1]


def test_every_command_and_option_has_its_line() -> None:
    page = command_page()
    assert len(list(commands())) > 30
    for name, command in commands():
        section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        for each in command.params:
            is_shown = each.param_type_name == "option" and not each.hidden
            for option in each.opts if is_shown else []:
                assert f"`{option}`" in section, f"{name} {option}"


@pytest.mark.parametrize("model", [PrecomputeConfig, RunConfig])
def test_every_setting_has_a_meaning_and_its_line(model: type) -> None:
    page = settings_page(model, "Settings", command="zsseg train")
    for note in setting_notes(model):
        assert note.meaning, note.name
        assert f"| `{note.name.rpartition('.')[2]}` |" in page


def test_a_note_says_what_is_written_in_the_code() -> None:
    notes = {note.name: note for note in setting_notes(RunConfig)}
    assert notes["objectives.bank"] == SettingNote(
        "objectives.bank",
        "int",
        24,
        "CLS tokens in the bank that give it negatives, the current batch's included "
        "(paper 2: 24).",
    )
    assert notes["self_training.confidence"].kind == "score | margin"
    assert notes["augmentation.crop"].kind == "[int, int]"
    assert notes["train.clip_norm"].kind == "float | null"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, from the files that git knows."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return out


def test_no_page_loads_anything_from_elsewhere(built: Path) -> None:
    pages = list(built.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        loads = re.findall(
            r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"?(https?:[^\s\">]+)",
            page.read_text("utf-8"),
        )
        assert not loads, page.name


def test_links_between_documents_lead_to_pages(built: Path) -> None:
    assert 'href="datasets.html#a-folder-of-your-own"' in (built / "index.html").read_text("utf-8")
    store = (built / "reference" / "store.html").read_text("utf-8")
    assert 'href="../stores.html#precision-of-the-teacher"' in store
    for page in built.rglob("*.html"):
        assert not re.search(r'href="[^":]*\.md["#]', page.read_text("utf-8")), page.name


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)

LOOKED_AT = ("index", "tutorials/own_images", "reference/settings_train", "equations", "errors")
"""A page of each kind."""

MEASURE = """<body>%s<script>onload = () => {
  const scrolls = each => ["auto", "scroll"].includes(getComputedStyle(each).overflowX);
  for (const frame of document.querySelectorAll("iframe")) {
    const article = frame.contentDocument.querySelector("article");
    const cut = [...article.querySelectorAll("*")].filter(each => {
      if (each.getBoundingClientRect().right <= frame.clientWidth) return false;
      for (let box = each; box !== article; box = box.parentElement)
        if (scrolls(box) && box.getBoundingClientRect().right <= frame.clientWidth) return false;
      return true;
    });
    const has = article.querySelectorAll("*").length;
    document.body.append(`[${frame.clientWidth}: ${has > 1}, ${cut.length} cut]`);
  }
}</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium installed")
def test_nothing_of_a_page_is_cut_on_a_phone_or_a_desktop(built: Path, tmp_path: Path) -> None:
    (built / "broken.html").write_text(
        "<article><p></p><p style='width: 2000px'></p></article>", encoding="utf-8"
    )
    frames = [
        f'<iframe src="{name}.html" style="border: 0; width: {width}px"></iframe>'
        for name in (*LOOKED_AT, "broken")
        for width in (390, 1400)
    ]
    (built / "measure.html").write_text(MEASURE % "".join(frames), encoding="utf-8")
    done = subprocess.run(
        [
            str(CHROMIUM),
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--host-resolver-rules=MAP * ~NOTFOUND", "--allow-file-access-from-files"),
            *(f"--user-data-dir={tmp_path}", "--dump-dom", (built / "measure.html").as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.findall(r"\[(\d+): true, (\d+) cut\]", done.stdout)
    whole = [("390", "0"), ("1400", "0")] * len(LOOKED_AT)
    assert found == [*whole, ("390", "1"), ("1400", "1")]
