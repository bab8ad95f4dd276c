"""A `zsseg` command in a process of its own that can be told where to die.

Processes are forked from one that has imported everything and computed nothing, so that one costs
no start, and no thread of the tests is missing in it.
"""

import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.context import ForkContext, ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

POINTS = ("torn", "shard", "file", "renamed", "receipt", "seal", "aside", "removing", "discarding")
"""Where a process can die: with half a file written; before a shard or another file gets its name;
after that; before a receipt; between card and seal; while a store is set aside; before a file or a
folder is deleted."""

_IMPORTED = (
    "open_clip",
    "zsseg.pipeline.cli.main",
    "zsseg.pipeline.cli.forecast_text",
    "zsseg.pipeline.tables",
    "sklearn.cluster",
    "zsseg.stages.precompute.shard_loop",
    "zsseg.stages.precompute.engine.fill_shard",
    "zsseg.stages.precompute.make.kmeans",
    "zsseg.stages.precompute.engine.questions",
    "zsseg.stages.precompute.run",
    "zsseg.stages.precompute.teacher.clip_teacher",
)


@dataclass(frozen=True)
class Death:
    """SIGKILL at the `passage`-th time that a point is passed, counted from 1."""

    point: str
    passage: int


def started(
    arguments: Sequence[str],
    said: Path,
    *,
    death: Death | None = None,
    patched: bool = False,
) -> BaseProcess:
    """A process of this command. What it prints goes to the file `said`.

    `patched`: forked from this process instead, so that it has what the test has patched and
    loaded; the test may not have used more than one of torch's threads. One that ends leaves beside
    `said` (`.passed`) how often it passed each point.
    """
    context: ForkContext | ForkServerContext
    if patched:
        context = multiprocessing.get_context("fork")
    else:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(_IMPORTED))
    process = context.Process(target=_run, args=(tuple(arguments), said, death))
    process.start()
    return process


def passages(said: Path) -> dict[str, int]:
    """How often a process that has ended passed each point."""
    found: dict[str, int] = json.loads(said.with_suffix(".passed").read_text())
    return found


def _run(
    arguments: tuple[str, ...],
    said: Path,
    death: Death | None,
) -> None:
    import torch

    from zsseg.pipeline.cli.main import main

    with said.open("wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    # Where pytest has others in their place, a forked process has them too.
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    torch.set_num_threads(1)
    passed = _watch(death)
    sys.argv = ["zsseg", *arguments]
    try:
        main()
    finally:
        said.with_suffix(".passed").write_text(json.dumps(passed))


def _watch(death: Death | None) -> Counter[str]:
    """Count the passages of each point from now on, and die at the one that is meant."""
    from zsseg.stages.cache.disk.local import LocalStorage
    from zsseg.stages.cache.format import ledger

    passed: Counter[str] = Counter()
    counting = threading.Lock()

    def here(point: str, last: Callable[[], None] = lambda: None) -> None:
        with counting:
            passed[point] += 1
            if death == Death(point, passed[point]):
                last()
                os.kill(os.getpid(), signal.SIGKILL)

    def before(point: str, owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def watched(*given: Any, **more: Any) -> Any:
            here(point)
            return original(*given, **more)

        setattr(owner, name, watched)

    replace, fsync, write = Path.replace, os.fsync, LocalStorage.write

    def replacing(file: Path, target: Any) -> Path:
        aside = Path(target).parent.name == ".previous"
        here("aside" if aside else "shard" if Path(target).name.startswith("c.") else "file")
        renamed = replace(file, target)
        here("renamed")
        return renamed

    def tear(descriptor: int, size: int) -> None:
        with suppress(OSError):  # a folder, or a file that is open to read
            os.ftruncate(descriptor, size)

    def syncing(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().suffix in (".partial", ".jsonl"):
            half = os.fstat(descriptor).st_size * 2 // 3
            here("torn", lambda: tear(descriptor, half))
        fsync(descriptor)

    def sealing(file: LocalStorage, content: bytes) -> None:
        if file.path.name == "seal.json":
            here("seal")
        write(file, content)

    for owner, name, replacement in (
        (Path, "replace", replacing),
        (os, "fsync", syncing),
        (LocalStorage, "write", sealing),
    ):
        setattr(owner, name, replacement)
    before("receipt", ledger, "write_receipt")
    before("removing", Path, "unlink")
    before("discarding", shutil, "rmtree")
    return passed
