"""Real processes of one training on this machine, as a launcher would start them."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch


def free_port() -> int:
    """A port that nothing listens to."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def child(work: Callable[[], None], said: Path) -> BaseProcess:
    """A started process that does `work`; its stderr, and the error that ends it, go to `said`.

    Forked, so that it has what the test has patched. Exit code 9 stands for an error.
    """

    def start() -> None:
        torch.set_num_threads(1)  # the parent's threads are not here
        with said.open("w") as file, redirect_stderr(file):
            try:
                work()
            except SystemExit as stop:
                sys.exit(stop.code)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=file)
                sys.exit(9)

    made = multiprocessing.get_context("fork").Process(target=start)
    made.start()
    return made


def together(
    count: int, work: Callable[[int], None], folder: Path, *, seconds: float = 250
) -> list[tuple[int, str]]:
    """Run `work(number)` in `count` processes of one training; exit code and words of each."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)

    def start(number: int) -> None:
        os.environ |= {
            "RANK": str(number),
            "LOCAL_RANK": str(number),
            "WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "GLOO_SOCKET_IFNAME": "lo",
        }
        work(number)

    said = [folder / f"{number}.err" for number in range(count)]
    children = [child(partial(start, number), said[number]) for number in range(count)]
    for each in children:
        each.join(seconds)
    stuck = [each for each in children if each.is_alive()]
    for each in stuck:
        each.kill()
        each.join()
    assert not stuck, "a process waits for ever"
    return [
        (each.exitcode or 0, file.read_text()) for each, file in zip(children, said, strict=True)
    ]
