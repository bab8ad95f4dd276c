"""The benchmark of stage one's host side: a teacher that sleeps, and where processor time goes."""

import time
from pathlib import Path

import numpy as np
import pytest
from helpers.drawn_world import draw_world

from benchmarks import host
from benchmarks.host import Measured, PartTimes
from benchmarks.sleeping_teacher import SleepingTeacher
from benchmarks.stage_one import Subject
from zsseg.stages.data.spec import load_spec


def write_tokens(path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(
        path,
        dense=rng.normal(size=(2, 8, 32, 32)).astype(np.float16),
        cls=rng.normal(size=(3, 8)).astype(np.float32),
    )


def test_a_sleeping_teacher_takes_time_and_no_processor(tmp_path: Path) -> None:
    write_tokens(tmp_path / "tokens.npz")
    teacher = SleepingTeacher(tmp_path / "tokens.npz", tmp_path, dense_ms=100, crop_ms=50)
    clock, processor = time.perf_counter(), time.thread_time()
    first = teacher.dense(np.zeros((2, 512, 512, 3), np.uint8))
    again = teacher.cls(np.zeros((4, 224, 224, 3), np.uint8))
    assert time.perf_counter() - clock >= 0.4
    assert time.thread_time() - processor < 0.1
    assert first.shape == (2, 8, 32, 32)
    assert again.shape == (4, 8)
    (log,) = tmp_path.glob("*.txt")
    passes = [[float(each) for each in line.split()] for line in log.read_text().splitlines()]
    assert [round(end - begin, 1) for begin, end in passes] == [0.2, 0.2]


def test_parts_count_their_own_time_and_nothing_twice() -> None:
    def spend(seconds: float) -> None:
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass

    times = PartTimes()
    inner = times.timed("inner", lambda: spend(0.05))

    def outer() -> None:
        spend(0.1)
        inner()

    times.timed("outer", outer)()
    assert times.seconds["inner"] == pytest.approx(0.05, abs=0.02)
    assert times.seconds["outer"] == pytest.approx(0.1, abs=0.02)


def test_every_part_is_measured_in_a_run(tmp_path: Path) -> None:
    """Each of the functions exists, and is called."""
    world = draw_world(tmp_path / "world", images=6)
    write_tokens(tmp_path / "tokens.npz")
    (tmp_path / "log").mkdir()
    teacher = host.write_sleeper(tmp_path, dense_ms=1, crop_ms=1)
    one = Subject(load_spec(str(world)), world.parent, teacher, tmp_path)
    found = host.measure(one, images=6, workers=0)
    assert found.parts.keys() == host.PARTS.keys() | {"other"}
    assert sum(found.parts.values()) == pytest.approx(found.processor_seconds)
    assert 0 < found.utilisation < 1
    assert found.device_seconds >= 6 * 0.001


def test_utilisation_is_of_all_devices() -> None:
    two = Measured(10, 4.0, device_seconds=6.0, devices=2, processor_seconds=1.0, parts={})
    assert two.utilisation == 0.75
    assert "0.750" in next(two.lines())
