"""Ctrl-C and SIGTERM while stage one runs: it ends soon, with one message, and loses nothing."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from helpers.clip_store import CONFIG, content, make
from helpers.drawn_world import draw_world

from zsseg.stages.cache.verify import verify_store

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")

# The command with forward passes that take as long as those of a large teacher.
_SLOW = """
import signal, time
from zsseg.stages.precompute.teacher.clip_teacher import ClipTeacher
dense = ClipTeacher.dense
def slow(*given):
    time.sleep(0.4)
    return dense(*given)
ClipTeacher.dense = slow
from zsseg.pipeline.cli.main import main
if __name__ == "__main__":
    # As at a terminal: a job in the background of a script ignores Ctrl-C, and so do its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_world(tmp_path_factory.mktemp("world"), images=24)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
# A worker's process imports torch and is ended: up to 10 s on two cores.
@pytest.mark.parametrize("workers", [None, 1])
def test_a_signal_ends_a_run_soon_and_says_how_to_go_on(
    world: Path, tiny_clip: str, tmp_path: Path, kind: signal.Signals, workers: int | None
) -> None:
    program, config, cache = tmp_path / "slow.py", tmp_path / "config.yaml", tmp_path / "cache"
    program.write_text(_SLOW)
    config.write_text(yaml.safe_dump(CONFIG.model_dump(mode="json")))
    arguments = ["precompute", "--dataset", str(world), "--root", str(world.parent)]
    arguments += ["--teacher", tiny_clip, "--cache", str(cache), "--config", str(config)]
    arguments += ["--workers", str(workers)] if workers else []
    with subprocess.Popen(
        [sys.executable, str(program), *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:
        last = time.monotonic() + 120
        while len(committed(cache)) < 5 and process.poll() is None:
            assert time.monotonic() < last, "it never came to that"
            time.sleep(0.02)
        family = psutil.Process(process.pid).children(recursive=True)
        begin = time.monotonic()
        if kind == signal.SIGINT:  # a terminal sends it to all of them
            os.killpg(process.pid, kind)
        else:
            process.send_signal(kind)
        out, said = process.communicate(timeout=60)
        seconds = time.monotonic() - begin
    assert process.returncode == 128 + kind, said
    assert seconds < 15
    assert len(family) >= (workers or 0)
    assert not psutil.wait_procs(family, timeout=5)[1]
    assert "Traceback" not in said + out, said
    (store,) = cache.iterdir()
    # Beside the progress, and the line on workers, there is one message.
    lines = [
        line for line in said.splitlines() if not re.match(r"precompute \d|\d workers?$", line)
    ]
    assert len(lines) == 1, said
    assert "what was finished is kept" in lines[0]
    assert "run the same command again" in lines[0]
    assert not list(store.rglob("*.partial"))
    assert not (store / ".writer.json").exists()
    assert not (store / "seal.json").exists()
    assert [wrong.file for wrong in verify_store(store, read_data=True)] == ["seal.json"]
    kept = committed(cache)
    assert 5 <= len(kept) < 31
    anew = make(world, tiny_clip, tmp_path / "anew")
    times = [file.stat().st_mtime_ns for file in kept]
    make(world, tiny_clip, cache)
    assert [file.stat().st_mtime_ns for file in kept] == times, "none of them is made again"
    assert content(store) == content(anew)


def committed(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/ledger/*/*.json"))
