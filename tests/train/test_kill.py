"""A run that is killed at any moment, as often as you like, ends as if it had never been."""

import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from helpers.several_processes import child
from helpers.tiny_training import (
    EVERYTHING,
    World,
    make_world,
    metrics_of,
    run,
    train_tiny_students,
    what_was_learnt,
    with_changes,
)

from zsseg.stages.train import loop
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.train.step import gradients

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

STEPS, KILLS = 40, 12


def config_of(workers: int) -> RunConfig:
    train = {"steps": STEPS, "batch": 3, "checkpoint_every": 4, "workers": workers}
    return with_changes(EVERYTHING, {"self_training": {"source": "ema"}, "train": train})


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


def shown(file: Path) -> dict[int, set[str]]:
    """Which images each step showed, whenever it was done."""
    steps: dict[int, set[str]] = {}
    for line in file.read_text().splitlines():
        step, _, rows = line.partition(" ")
        steps.setdefault(int(step), set()).add(rows)
    return steps


def test_killed_and_resumed_is_uninterrupted(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL at random moments, each time with another number of loader processes."""
    train_tiny_students(monkeypatch)
    whole, killed, message = (tmp_path / name for name in ("whole", "killed", "message"))

    def noted(state: Any, batch: Any, *given: Any, **options: Any) -> Any:
        with (tmp_path / "order").open("a") as file:
            file.write(f"{options['number']} {batch.row_B.tolist()}\n")
        return gradients(state, batch, *given, **options)

    monkeypatch.setattr(loop, "gradients", noted)

    def started(out: Path, workers: int) -> BaseProcess:
        return child(lambda: void(run(world, out, config_of(workers), resume=True)), message)

    alone = started(whole, 0)
    alone.join()
    assert alone.exitcode == 0, message.read_text()
    expected = shown(tmp_path / "order")
    (tmp_path / "order").unlink()
    rng, deaths = random.Random(0), 0
    for attempt in range(10 * KILLS):
        alive = started(killed, attempt % 3)
        if deaths < KILLS:
            wait_for_steps(killed, rng.randint(1, 5), alive)
            time.sleep(rng.random() * 0.03)
            alive.kill()
        alive.join()
        assert alive.exitcode in {0, -signal.SIGKILL}, message.read_text()
        if alive.exitcode == 0:
            break
        deaths += 1
    assert deaths >= 5
    assert metrics_of(killed) == metrics_of(whole)
    assert what_was_learnt(killed) == what_was_learnt(whole)
    assert shown(tmp_path / "order") == expected
    assert len(expected) == STEPS
    assert all(len(rows) == 1 for rows in expected.values())


def wait_for_steps(out: Path, more: int, alive: BaseProcess) -> None:
    """Until the log of a run has some more lines, or its process has ended."""
    log = out / "metrics.jsonl"

    def lines() -> int:
        return log.read_bytes().count(b"\n") if log.exists() else 0

    before, last = lines(), time.monotonic() + 60
    while alive.is_alive() and time.monotonic() < last:
        now = lines()
        if now >= before + more:
            return
        before = min(before, now)  # a resumed run first takes out what it does again
        time.sleep(0.001)


def void(_: object) -> None:
    """Nothing."""
