"""Makes the pictures of README and docs from the drawn world of `zsseg demo`: docs/pictures.

`python -m benchmarks.pictures` draws 20 scenes, runs the small CLIP over the four of `val` as the
demo does, and photographs the page of `zsseg cache show` in Chromium.
"""

import argparse
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from zsseg.pipeline.demo.demo_commands import Demo
from zsseg.stages.demo.world import write_world

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
_ZSSEG = (sys.executable, "-c", "from zsseg.pipeline.cli.main import main; main()")
_SIZE = (1400, 900)
"""Width and height of the window, in pixels."""


def main() -> None:
    """Write the pictures; exits where there is no Chromium."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=PICTURES)
    out = parser.parse_args().out
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("No chromium or google-chrome here: it makes the pictures. Install one")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        demo = Demo(Path(folder), "best", ())
        write_world(
            demo.world, seed=0, scenes={"train": 16, "val": 4}, progress=lambda done, total: None
        )
        page = Path(folder) / "store.html"
        precompute = next(each for each in demo.commands() if "--split val" in each)
        subprocess.run([*_ZSSEG, *_words(precompute), "-q"], check=True)
        show = ["cache", "show", str(demo.cache), "--images", "2", "--out", str(page), "-q"]
        subprocess.run([*_ZSSEG, *show], check=True)
        _photograph(browser, page, out / "cache_show.png", Path(folder))


def _words(command: str) -> list[str]:
    return shlex.split(command)[1:]


def _photograph(browser: str, page: Path, picture: Path, work: Path) -> None:
    """The top of a page as PNG of 256 colours."""
    shot = work / "shot.png"
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--no-first-run",
        "--disable-background-networking",
        f"--user-data-dir={work / 'browser'}",
        f"--window-size={_SIZE[0]},{_SIZE[1]}",
        f"--screenshot={shot}",
        page.as_uri(),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    with Image.open(shot) as image:
        image.convert("RGB").quantize(256).save(picture, optimize=True)


if __name__ == "__main__":
    main()
