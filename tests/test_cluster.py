"""Stage one on worker processes: the same bytes, whatever happens to a worker."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dask
import numpy as np
import psutil
import pytest
from conftest import draw_world
from small_store import content

from stages.cache.reader import Store
from stages.cache.store import Writer
from stages.data.spec import load_spec
from stages.errors import ResourceError, UserError
from stages.precompute.cluster import bisect
from stages.precompute.config import DenseConfig, PrecomputeConfig, RegionConfig, TextConfig
from stages.precompute.progress import Progress
from stages.precompute.run import PrecomputeResult, precompute

CONFIG = PrecomputeConfig(
    text=TextConfig(templates="single"),
    dense=DenseConfig(size=(64, 96)),
    regions=RegionConfig(windows=(2, 4), minimum_tokens=2, backend="sklearn"),
    shard_images=4,
    batch=3,
    device="cpu",
)

pytestmark = [
    # Processes that are killed leave sockets behind; dask closes them when it notices.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def run(world: Path, clip: str, cache: Path, **more: Any) -> PrecomputeResult:
    settings: dict[str, Any] = {"progress": lambda _: None} | more
    return precompute(
        load_spec(str(world)),
        root=world.parent,
        split="train",
        teacher=clip,
        cache=cache,
        config=CONFIG,
        limit=None,
        update=False,
        **settings,
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_world(tmp_path_factory.mktemp("world"), images=22)


@pytest.fixture(scope="module")
def expected(
    world: Path, tiny_clip: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    return content(run(world, tiny_clip, tmp_path_factory.mktemp("here")).path)


def worker_processes() -> list[psutil.Process]:
    """The dask workers that this process has started."""
    found = []
    for child in psutil.Process().children(recursive=True):
        if "spawn_main" in " ".join(child.cmdline()):
            found.append(child)
    return found


def test_two_workers_write_the_bytes_of_one_process_and_listen_on_loopback_only(
    world: Path, tiny_clip: str, expected: dict[str, bytes], tmp_path: Path
) -> None:
    seen: list[Progress] = []
    addresses: set[str] = set()

    def look(now: Progress) -> None:
        seen.append(now)
        for process in (psutil.Process(), *worker_processes()):
            listening = (c for c in process.net_connections() if c.status == psutil.CONN_LISTEN)
            addresses.update(connection.laddr.ip for connection in listening)

    result = run(world, tiny_clip, tmp_path, workers=2, progress=look)
    assert content(result.path) == expected
    assert seen[-1].done == seen[-1].total
    assert set(result.seconds) >= {"read", "preprocess", "teacher", "regions", "crops", "write"}
    assert addresses == {"127.0.0.1"}
    assert not worker_processes()


def test_a_killed_worker_costs_no_result(
    world: Path,
    tiny_clip: str,
    expected: dict[str, bytes],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    killed: list[int] = []

    def kill_one(now: Progress) -> None:
        if not killed and now.done > 30 and (workers := worker_processes()):
            killed.append(workers[0].pid)
            workers[0].kill()

    result = run(world, tiny_clip, tmp_path, workers=2, progress=kill_one)
    assert killed
    assert "was lost; it is done again elsewhere" in caplog.text
    assert content(result.path) == expected
    assert not result.failed


def test_an_image_that_kills_its_worker_is_isolated_and_named(
    world: Path, tiny_clip: str, expected: dict[str, bytes], tmp_path: Path
) -> None:
    poison = tmp_path / "poison.py"
    poison.write_text(
        "import os, signal\n"
        "from stages.precompute import rows, worker\n"
        "def wrapped(read):\n"
        "    def read_row(spec, root, sample):\n"
        "        if sample.id in ('scene_006', 'scene_021'):\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return read(spec, root, sample)\n"
        "    return read_row\n"
        "if rows.read_row.__name__ == rows.read_row.__qualname__:\n"  # dask reloads preloads
        "    rows.read_row = worker.read_row = wrapped(rows.read_row)\n"
    )
    with dask.config.set({"distributed.worker.preload": [str(poison)]}):
        result = run(world, tiny_clip, tmp_path / "cache", workers=2)
    reasons = [f"its process died at this image: images/train/{name}.png" for name in result.failed]
    assert list(result.failed) == ["scene_006", "scene_021"]
    for reason, wanted in zip(result.failed.values(), reasons, strict=True):
        assert reason.startswith(wanted)
    store = Store.open(result.path)
    assert np.flatnonzero(store.read_all("status")).tolist() == [6, 21]
    # Run again, it is left alone; asked for, it is tried again, here without the poison.
    assert run(world, tiny_clip, tmp_path / "cache").written == {}
    mended = run(world, tiny_clip, tmp_path / "cache", retry_failed=True)
    assert mended.written["dense"] == 2
    assert content(result.path).keys() == expected.keys()
    assert content(result.path) == expected


def test_an_interrupted_run_of_workers_continues_to_the_same_bytes(
    world: Path, tiny_clip: str, expected: dict[str, bytes], tmp_path: Path
) -> None:
    commit, calls = Writer.commit, [0]

    def failing(self: Writer, *args: Any, **kwargs: Any) -> None:
        calls[0] += 1
        if calls[0] == 9:
            raise KeyboardInterrupt
        commit(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Writer, "commit", failing)
        with pytest.raises(KeyboardInterrupt):
            run(world, tiny_clip, tmp_path, workers=1)
    assert not worker_processes()
    assert content(run(world, tiny_clip, tmp_path).path) == expected


def test_workers_of_a_running_cluster_are_joined(
    world: Path, tiny_clip: str, expected: dict[str, bytes], tmp_path: Path
) -> None:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=2, dashboard_address=None, silence_logs=False
    ) as cluster:
        result = run(world, tiny_clip, tmp_path, scheduler=cluster.scheduler_address)
        assert worker_processes()
    assert content(result.path) == expected


def test_a_scheduler_that_is_not_there(world: Path, tiny_clip: str, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"tcp://127.0.0.1:9: no dask scheduler answers"):
        run(world, tiny_clip, tmp_path, scheduler="tcp://127.0.0.1:9")


def test_one_kind_of_workers_is_asked_for(world: Path, tiny_clip: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give one"):
        run(world, tiny_clip, tmp_path, scheduler="tcp://127.0.0.1:9", workers=2)
    with pytest.raises(UserError, match="at least one"):
        run(world, tiny_clip, tmp_path, workers=0)


@pytest.mark.parametrize("culprit", [None, *range(13)])
def test_bisection_finds_the_one(culprit: int | None) -> None:
    asked: list[Sequence[int]] = []

    def dies(places: Sequence[int]) -> bool:
        asked.append(places)
        return culprit in places

    assert bisect(list(range(13)), dies) == culprit
    assert len(asked) <= 5
    assert bisect([], dies) is None
