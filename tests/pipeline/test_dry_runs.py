"""`train --dry-run` and `precompute --dry-run`: what a person is told of memory and time."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from helpers.clip_store import CONFIG, files
from helpers.tiny_training import train_tiny_students
from helpers.zsseg_command import zsseg

from zsseg.stages.machine_memory import Room
from zsseg.stages.train.foretell import memory_check

TRAIN = {
    "student": {"weights": "none"},
    "objectives": {"focal": 0.5, "sdd": 1.0},
    "augmentation": {"short_side": 48, "crop": [768, 768]},
    "train": {"steps": 1800, "batch": 16, "workers": 1, "warmup_steps": 0, "device": "cpu"},
}

Foretell = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Several that wait for each other take many times as long for tensors so small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def foretell(
    made: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Foretell:
    """Says what `train --dry-run` prints with so many bytes of memory free."""
    train_tiny_students(monkeypatch)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(TRAIN))

    def printed(free: int, *more: str) -> list[str]:
        rooms = (Room(free, "a limit of the test"), None)
        monkeypatch.setattr(memory_check, "_rooms", lambda _: rooms)
        place = ("--cache", made[1], "--config", tmp_path / "mine.yaml", "--out", tmp_path / "run")
        assert zsseg("train", *place, "--dry-run", *more) == 0
        assert not (tmp_path / "run").exists()
        return capsys.readouterr().out.splitlines()

    return printed


def gigabytes_of(lines: list[str], what: str) -> float:
    """The size in the line that ends with these words."""
    (size,) = (line.split()[0] for line in lines if line.endswith(what))
    return float(size)


def test_a_training_that_fits_is_told_by_its_parts_and_its_time(foretell: Foretell) -> None:
    lines = foretell(10**12)
    assert lines[0].startswith("mine from ")
    assert "memory:" in lines
    parts = ("before the student is built", " crops", "loader processes")
    sizes = [gigabytes_of(lines, part) for part in parts]
    (whole,) = (line for line in lines if " in all, " in line)
    assert float(whole.split()[0]) >= max(sizes) > 0
    assert "free: 1000.0 GB (a limit of the test)" in lines
    (time,) = (line for line in lines if line.startswith("time: "))
    found = re.match(r"time: (\S+) s per step, 1,?800 steps take (\d\S*) (s|min|h) ", time)
    assert found, time
    unit = {"s": 1, "min": 60, "h": 3600}[found[3]]
    assert float(found[2]) * unit == pytest.approx(1800 * float(found[1]), rel=0.05, abs=unit)
    assert not any("refused" in line for line in lines)


def test_a_training_that_does_not_fit_is_told_with_settings_that_do(foretell: Foretell) -> None:
    (whole,) = (line for line in foretell(10**12) if " in all, " in line)
    free = int(0.8e9 * float(whole.split()[4]))
    lines = foretell(free)
    assert f"free: {free / 1e9:.1f} GB (a limit of the test)" in lines
    assert not any(line.startswith("time: ") for line in lines)
    (refused,) = (line for line in lines if line.startswith("this would be refused. Use "))
    setting = re.search(r"--set (train\.accumulate=\d+)", refused)
    assert setting, refused
    again = foretell(free, "--set", setting[1])
    assert any(line.startswith("time: ") for line in again)


def test_stage_one_is_told_with_the_most_that_a_process_has(
    made: tuple[Path, Path],
    tiny_clip: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    one_teacher: None,
) -> None:
    world, store = made
    before = files(store)
    settings = CONFIG.model_copy(update={"megapixels": 100, "shard_images": 2})
    (tmp_path / "stage.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    data = ("--dataset", world, "--root", world.parent, "--teacher", tiny_clip)
    place = ("--cache", tmp_path / "cache", "--config", tmp_path / "stage.yaml")
    assert zsseg("precompute", *data, *place, "--dry-run", "-q") == 0
    lines = capsys.readouterr().out.splitlines()
    (memory,) = (line for line in lines if line.startswith("memory: "))
    assert re.match(r"memory: at most [\d.]+ [MG]B in each process \(", memory)
    for part in ("teacher and libraries", "its passes", "images at work", "arrays of shards"):
        assert re.search(rf"[\d.]+ [kMG]?B {part}", memory), memory
    assert not list(tmp_path.glob("cache/*/*"))
    assert files(store) == before
