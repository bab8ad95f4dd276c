"""Real processes of one training on this machine, as a launcher would start them."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path

import torch


def free_port() -> int:
    """A port that nothing listens to."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def together(
    count: int, work: Callable[[int], None], folder: Path, *, seconds: float = 200
) -> list[tuple[int, str]]:
    """Run `work(number)` in `count` forked processes; exit code and stderr of each.

    Forked, so that they have what the test has patched.
    """
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
        torch.set_num_threads(1)  # the parent's threads are not here
        with (folder / f"{number}.err").open("w") as file, redirect_stderr(file):
            try:
                work(number)
            except SystemExit as stop:
                sys.exit(stop.code)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=file)
                sys.exit(9)

    context = multiprocessing.get_context("fork")
    children = [context.Process(target=start, args=(number,)) for number in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join(seconds)
    stuck = [child for child in children if child.is_alive()]
    for child in stuck:
        child.kill()
        child.join()
    assert not stuck, "a process waits for ever"
    return [
        (child.exitcode or 0, (folder / f"{number}.err").read_text())
        for number, child in enumerate(children)
    ]
