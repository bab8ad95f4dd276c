"""Reading ahead changes when things are read, and nothing else."""

import threading
import time

import pytest

from zsseg.stages.evaluate.read_ahead import read_ahead


def test_results_come_in_order() -> None:
    def read(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number**2

    assert list(read_ahead(read, range(20))) == [number**2 for number in range(20)]
    assert list(read_ahead(read, [])) == []


def test_one_thread_is_two_items_ahead_and_no_more() -> None:
    started: list[int] = []
    threads: set[int] = set()

    def read(number: int) -> int:
        started.append(number)
        threads.add(threading.get_ident())
        return number

    for got in read_ahead(read, range(10)):
        deadline = time.monotonic() + 10
        while len(started) < min(got + 3, 10) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.005)
        assert started == list(range(min(got + 3, 10)))
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_an_error_comes_when_its_turn_does() -> None:
    read_numbers: list[int] = []

    def read(number: int) -> int:
        read_numbers.append(number)
        if number == 3:
            raise ValueError("three")
        return number

    numbers = read_ahead(read, range(100))
    assert [next(numbers) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(numbers)
    assert max(read_numbers) <= 5


def test_nothing_is_read_after_the_reader_left() -> None:
    read_numbers: list[int] = []
    before = threading.active_count()
    numbers = read_ahead(lambda number: read_numbers.append(number), range(1000))
    next(numbers)
    numbers.close()
    assert len(read_numbers) <= 3
    assert threading.active_count() == before
