"""Stage one killed at any moment: what is committed is right, and the end is that of a quiet run.

`ZSSEG_KILLS=100` kills as often as that instead of ten times; `--log-cli-level=INFO` says where.
"""

import json
import logging
import os
import random
import shutil
import signal
import socket
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
import zarr
from helpers.clip_store import CONFIG, content
from helpers.drawn_world import draw_world
from helpers.killable_process import POINTS, Death, passages, started

from zsseg.stages.cache.verify import verify_store

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="forks, and looks into /proc"),
    pytest.mark.timeout(3600 if "ZSSEG_KILLS" in os.environ else 300),
]

KILLS = int(os.environ.get("ZSSEG_KILLS", "10"))
CLUSTER_KILLS = max(1, KILLS // 20)
IMAGES = 24

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scenario:
    """A command, the store that it begins with, and the one that it ends with undisturbed."""

    name: str
    arguments: tuple[str, ...]
    old: Path | None
    new: Path
    seconds: float
    """That it takes undisturbed."""
    passed: dict[str, int]
    """How often it passes each point."""

    def begin(self, folder: Path) -> tuple[str, ...]:
        """The command in a folder that holds nothing but the store to begin with."""
        if self.old is not None:
            shutil.copytree(self.old, folder / self.new.name)
        return (*self.arguments, "--cache", str(folder))


def command(world: Path, clip: str, config: Path, *more: str) -> tuple[str, ...]:
    said = ("--dataset", str(world), "--root", str(world.parent), "--teacher", clip)
    return ("precompute", *said, "--config", str(config), *more)


def undisturbed(
    name: str, arguments: tuple[str, ...], folder: Path, *, old: Path | None = None
) -> Scenario:
    """A scenario, of a run in this folder from begin to end."""
    cache, said = folder / name, folder / f"{name}.txt"
    cache.mkdir()
    if old is not None:
        shutil.copytree(old, cache / old.name)
    begin = time.monotonic()
    process = started((*arguments, "--cache", str(cache)), said)
    process.join()
    seconds = time.monotonic() - begin
    assert process.exitcode == 0, said.read_text()
    (new,) = cache.iterdir()
    return Scenario(name, arguments, old, new, seconds, passages(said))


@pytest.fixture(scope="module")
def scenarios(tmp_path_factory: pytest.TempPathFactory, tiny_clip: str) -> list[Scenario]:
    """A new store, one whose images were added and removed, and one of another threshold."""
    folder = tmp_path_factory.mktemp("undisturbed")
    world = draw_world(folder / "world", images=IMAGES)
    draw_world(folder / "more", images=3, seed=7)
    shutil.copytree(folder / "world", folder / "changed")
    for kind in ("images", "labels"):
        (folder / "changed" / kind / "train" / "scene_001.png").unlink()
        for number in range(3):
            there = folder / "more" / kind / "train" / f"scene_{number:03d}.png"
            shutil.copy2(there, folder / "changed" / kind / "train" / f"scene_{number:03d}b.png")
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(CONFIG.model_dump(mode="json")))
    arguments = command(world, tiny_clip, config)
    anew = undisturbed("anew", arguments, folder)
    changed = command(folder / "changed" / world.name, tiny_clip, config, "--update")
    merged = (*arguments, "--update", "--set", "regions.merge_threshold=0.97")
    images = undisturbed("images", changed, folder, old=anew.new)
    # The first run has waited until everything was imported.
    anew = replace(anew, seconds=images.seconds)
    return [anew, images, undisturbed("threshold", merged, folder, old=anew.new)]


def check(store: Path, scenario: Scenario) -> int:
    """Each receipt and its rows are those of an undisturbed store; the number of receipts.

    Does not ask the code that wrote them: receipts are compared as bytes, rows are read by zarr.
    """
    if not (store / "zarr.json").exists():  # nothing is declared yet, or not any more
        return 0
    index = (store / "index.jsonl").read_bytes()
    known = [scenario.new, *([scenario.old] if scenario.old else [])]
    known = [other for other in known if (other / "index.jsonl").read_bytes() == index]
    receipts = sorted(store.glob("ledger/*/*.json"))
    for file in receipts:
        name = file.relative_to(store)
        same = [o for o in known if (o / name).exists()]
        same = [o for o in same if (o / name).read_bytes() == file.read_bytes()]
        assert same, f"{file} is no undisturbed run's"
        receipt = json.loads(file.read_text())
        for array in {data.split("/")[0] for data in receipt["files"]}:
            place = slice(*receipt["rows"]) if receipt["rows"] else slice(None)
            np.testing.assert_array_equal(
                rows_of(store / array, place), rows_of(same[0] / array, place), err_msg=str(file)
            )
    # A store that is just being set aside is in two places, its index first in the other.
    allowed = {"seal.json"} | ({"index.jsonl"} if (store / ".previous").exists() else set())
    wrong = [p for p in verify_store(store, read_data=True) if p.file not in allowed]
    assert wrong == []
    return len(receipts)


def rows_of(folder: Path, place: slice) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Their bytes: a NaN is no number, and -0 is not 0."""
    array = zarr.open_array(folder, mode="r")
    return np.ascontiguousarray(np.asarray(array[place])).reshape(-1).view(np.uint8)


def check_end(store: Path, scenario: Scenario) -> None:
    assert content(store) == content(scenario.new)
    assert not (store / ".previous").exists()
    assert not list(store.rglob("*.partial"))
    assert not (store / ".writer.json").exists()


def ways_to_die(scenario: Scenario, rng: random.Random) -> list[Death | float]:
    """The points that it passes, in any order, and a random moment for each of them.

    The first passages only, so that a store lives through several deaths before it is finished;
    last, where they are taken first, that of setting a store aside, which is done once.
    """
    deaths: list[Death | float] = []
    for point in rng.sample(POINTS, len(POINTS)):
        if count := scenario.passed.get(point):
            latest = count if point == "aside" else 1 + count // 3
            deaths.append(Death(point, rng.randint(1, latest)))
            deaths.append(rng.uniform(0, scenario.seconds))
    deaths.sort(key=lambda death: isinstance(death, Death) and death.point == "aside")
    return deaths


def kill(scenario: Scenario, folder: Path, death: Death | float) -> tuple[bool, str]:
    """Was it killed, or finished before? And its output."""
    said, named = folder.with_suffix(".txt"), isinstance(death, Death)
    arguments = (*scenario.arguments, "--cache", str(folder))
    process = started(arguments, said, death=death if isinstance(death, Death) else None)
    if not isinstance(death, Death):
        process.join(death)
        process.kill()
    process.join()
    text = said.read_text() if said.exists() else ""
    assert process.exitcode in (0, -signal.SIGKILL), text
    assert "Traceback" not in text
    assert named or "error" not in text
    return process.exitcode != 0, text


def test_killed_at_any_moment_the_end_is_that_of_a_quiet_run(
    scenarios: list[Scenario], tmp_path: Path
) -> None:
    rng, died, stores = random.Random(0), Counter[str](), 0
    commits = Counter[int]()
    while died.total() < KILLS:
        scenario = scenarios[stores % len(scenarios)]
        folder = tmp_path / str(stores)
        scenario.begin(folder)
        folder.mkdir(exist_ok=True)
        store, deaths = folder / scenario.new.name, ways_to_die(scenario, rng)
        killed = True
        while killed and died.total() < KILLS:
            deaths = deaths or ways_to_die(scenario, rng)
            death = deaths.pop()
            killed, _ = kill(scenario, folder, death)
            if killed:
                died[death.point if isinstance(death, Death) else "a random moment"] += 1
                commits[check(store, scenario)] += 1
        if killed:
            held = (store / ".writer.json").exists()
            killed, said = kill(scenario, folder, 300.0)
            assert held == ("did not end properly" in said)
        assert not killed
        check_end(store, scenario)
        shutil.rmtree(folder)
        stores += 1
    log = "%d kills of %d stores: %s; receipts there: %s"
    _log.info(log, died.total(), stores, dict(died), dict(commits))
    assert KILLS / 5 <= died["a random moment"] <= KILLS * 4 / 5
    assert len(commits) > 3, "not always at the same state"


def test_a_second_run_is_told_who_is_at_work(scenarios: list[Scenario], tmp_path: Path) -> None:
    scenario, cache, said = scenarios[0], tmp_path / "cache", tmp_path / "second.txt"
    arguments, store = scenario.begin(cache), cache / scenario.new.name
    first = started(arguments, tmp_path / "first.txt")
    assert first.pid is not None
    while not receipts(store) and first.is_alive():
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGSTOP)
    before = content(store)
    second = started(arguments, said)
    second.join(60)
    assert second.exitcode == 6
    assert content(store) == before
    (line,) = said.read_text().splitlines()
    assert f"process {first.pid} on {socket.gethostname()} (since 20" in line
    os.kill(first.pid, signal.SIGCONT)
    first.join()
    assert first.exitcode == 0
    check_end(store, scenario)
    other = started((*arguments, "--set", "regions.merge_threshold=0.97"), said)
    other.join()
    assert other.exitcode == 5
    assert "regions.merge_threshold: stored 0.9, asked 0.97" in said.read_text()
    check_end(store, scenario)


def test_a_client_that_is_killed_takes_its_workers_with_it(
    scenarios: list[Scenario], tmp_path: Path
) -> None:
    rng, scenario = random.Random(1), scenarios[0]
    store, said = tmp_path / "cache" / scenario.new.name, tmp_path / "said.txt"
    arguments = (*scenario.begin(tmp_path / "cache"), "--workers", "2")
    killed = 0
    while killed < CLUSTER_KILLS:
        before, last = receipts(store), time.monotonic() + 100
        process = started(arguments, said)
        assert process.pid is not None
        while receipts(store) <= before and process.is_alive() and time.monotonic() < last:
            time.sleep(0.01)
        time.sleep(rng.random() * 0.2)
        workers: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            workers = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.join()
        if process.exitcode == 0:  # it was at its last shards, and quicker
            shutil.rmtree(store)
            scenario.begin(tmp_path / "cache")
            continue
        killed += 1
        assert process.exitcode == -signal.SIGKILL, said.read_text()
        assert len(workers) >= 2, killed
        _, alive = psutil.wait_procs(workers, timeout=10)
        assert not alive
        check(store, scenario)
    again, _ = kill(scenario, tmp_path / "cache", 300.0)
    assert not again
    check_end(store, scenario)


def receipts(store: Path) -> int:
    return len(list(store.glob("ledger/*/*.json")))
