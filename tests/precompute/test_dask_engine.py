"""Stage one on worker processes: the same bytes as one process, also when a worker dies.

Each process that starts imports torch: 3 s on two quiet cores, much more beside other tests.
"""

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast
from urllib.error import HTTPError
from urllib.request import urlopen

import dask
import numpy as np
import psutil
import pytest
from distributed import Client, LocalCluster  # its settings must be there before one is changed
from distributed.security import Security
from helpers.clip_store import CONFIG, request
from helpers.drawn_world import draw_world
from helpers.seven_row_store import content

from zsseg.stages.cache.reader import Store
from zsseg.stages.cache.writer import Writer
from zsseg.stages.data.samples import Sample
from zsseg.stages.errors import ResourceError, UserError
from zsseg.stages.precompute.engine.dask_client import connect
from zsseg.stages.precompute.engine.dask_engine import DaskEngine, wait_until_idle
from zsseg.stages.precompute.engine.isolation import bisect, isolate
from zsseg.stages.precompute.engine.jobs import Job, ShardResult
from zsseg.stages.precompute.progress import Progress
from zsseg.stages.precompute.run import PrecomputeResult, precompute
from zsseg.stages.precompute.teacher.teacher_files import resolve_teacher

pytestmark = [
    # Processes that are killed leave sockets behind; dask closes them when it notices.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def run(world: Path, clip: str, cache: Path, **more: Any) -> PrecomputeResult:
    settings: dict[str, Any] = {"progress": lambda _: None, "update": False} | more
    return precompute(request(world, clip, cache), **settings)


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """dask sets what it sets for its workers, OMP_NUM_THREADS among it, in this process too."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_world(tmp_path_factory.mktemp("world"), images=22)


@pytest.fixture(scope="module")
def expected(
    world: Path, tiny_clip: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    return content(run(world, tiny_clip, tmp_path_factory.mktemp("here")).path)


@pytest.mark.parametrize("asked", ["1", ""])
def test_workers_share_the_processors_unless_their_threads_are_said(
    asked: str, tiny_clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    with DaskEngine(resolve_teacher(tiny_clip), CONFIG, workers=1, scheduler=None) as engine:
        (threads,) = engine.client.run(os.getenv, "OMP_NUM_THREADS").values()
        kept = engine.client.run_on_scheduler(
            lambda dask_scheduler: dask_scheduler.transition_log.maxlen
        )
    assert threads == asked or threads == "6"
    assert (asked == "1") == (threads == "1")
    assert kept == 10, "dask keeps what every shard was sent"


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


def test_nobody_else_is_answered_by_the_cluster_of_a_run(tiny_clip: str) -> None:
    """Neither without a key, nor with one of another cluster; and no HTTP page tells of the run."""
    with DaskEngine(resolve_teacher(tiny_clip), CONFIG, workers=1, scheduler=None) as engine:
        workers = list(engine.client.nthreads())
        address = engine.client.scheduler_info()["address"]
        port = engine.client.run_on_scheduler(
            lambda dask_scheduler: dask_scheduler.http_server.port
        )
        for each in (address, *workers):
            assert each.startswith("tls://127.0.0.1:")
        for strange in (None, Security.temporary()):
            scheme = "tcp" if strange is None else "tls"
            target = address.replace("tls", scheme)
            with pytest.raises((OSError, TimeoutError)):
                Client(target, security=strange, timeout=2, set_as_default=False)
        for page in ("/status", "/info/main/workers.html", "/health", "/json/identity.json"):
            with pytest.raises(HTTPError, match="404"):
                urlopen(f"http://127.0.0.1:{port}{page}", timeout=10)


def test_certificates_of_dasks_configuration_are_used_and_plain_tcp_is_warned_of(
    world: Path,
    tiny_clip: str,
    expected: dict[str, bytes],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    keys = Security.temporary()
    paths = {name: tmp_path / f"{name}.pem" for name in ("ca", "cert", "key")}
    paths["ca"].write_text(str(keys.tls_ca_file))
    paths["cert"].write_text(str(keys.tls_client_cert))
    paths["key"].write_text(str(keys.tls_client_key))
    mine = {
        "distributed.comm.tls.ca-file": str(paths["ca"]),
        "distributed.comm.tls.client.cert": str(paths["cert"]),
        "distributed.comm.tls.client.key": str(paths["key"]),
    }
    settings: dict[str, Any] = {
        "threads_per_worker": 2,
        "dashboard_address": "127.0.0.1:0",
        "silence_logs": False,
    }
    with (
        LocalCluster(n_workers=1, security=keys, protocol="tls://", **settings) as cluster,
        dask.config.set(mine),
    ):
        result = run(world, tiny_clip, tmp_path / "tls", scheduler=cluster.scheduler_address)
    assert content(result.path) == expected
    assert "neither encrypted" not in caplog.text
    with LocalCluster(n_workers=0, **settings) as cluster, pytest.MonkeyPatch.context() as patch:
        patch.setattr("zsseg.stages.precompute.engine.dask_client.PATIENCE_S", 0.1)
        with pytest.raises(ResourceError, match="no worker"):
            run(world, tiny_clip, tmp_path / "tcp", scheduler=cluster.scheduler_address)
    assert "neither encrypted nor authenticated" in caplog.text


# 22 s: two workers start, one is killed, and another starts; each imports torch.
def test_a_killed_worker_costs_no_result(
    world: Path,
    tiny_clip: str,
    expected: dict[str, bytes],
    tmp_path: Path,
) -> None:
    """Whether we begin its shard again or dask does, which it may without asking."""
    killed: list[int] = []

    def kill_one(now: Progress) -> None:
        if not killed and now.done > 30 and (workers := worker_processes()):
            killed.append(workers[0].pid)
            workers[0].kill()

    result = run(world, tiny_clip, tmp_path, workers=2, progress=kill_one)
    assert killed
    assert not psutil.pid_exists(killed[0])
    assert content(result.path) == expected
    assert not result.failed


# 25 s: a worker is killed four times, and each time another starts, which imports torch.
def test_an_image_that_kills_its_worker_is_isolated_and_named(
    world: Path, tiny_clip: str, expected: dict[str, bytes], tmp_path: Path
) -> None:
    poison = tmp_path / "poison.py"
    poison.write_text(
        "import os, signal\n"
        "from zsseg.stages.precompute.engine import dask_worker\n"
        "from zsseg.stages.precompute.make import pictures\n"
        "def wrapped(read):\n"
        "    def read_image_row(spec, root, sample, **options):\n"
        "        if sample.id == 'scene_007':\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return read(spec, root, sample, **options)\n"
        "    return read_image_row\n"
        # dask reloads preloads
        "if pictures.read_image_row.__name__ == pictures.read_image_row.__qualname__:\n"
        "    pictures.read_image_row = wrapped(pictures.read_image_row)\n"
        "    pictures.read_shard_row = wrapped(pictures.read_shard_row)\n"
        "    dask_worker.read_image_row = pictures.read_image_row\n"
    )
    with dask.config.set({"distributed.worker.preload": [str(poison)]}):
        result = run(world, tiny_clip, tmp_path / "cache", workers=2)
    (reason,) = result.failed.values()
    assert reason.startswith("its process died at this image: images/train/scene_007.png")
    store = Store.open(result.path)
    assert np.flatnonzero(store.read_all("status")).tolist() == [7]
    # Run again, it is left alone; asked for, it is tried again, here without the poison.
    assert run(world, tiny_clip, tmp_path / "cache").written == {}
    mended = run(world, tiny_clip, tmp_path / "cache", retry_failed=True)
    assert mended.written["dense"] == 1
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
    with LocalCluster(
        n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0", silence_logs=False
    ) as cluster:
        result = run(world, tiny_clip, tmp_path, scheduler=cluster.scheduler_address)
        assert worker_processes()
    assert content(result.path) == expected


def test_a_cluster_without_workers_is_said_and_waited_for(
    world: Path,
    tiny_clip: str,
    expected: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None at the start ends the run; when the last one goes meanwhile, another may come."""
    monkeypatch.setattr("zsseg.stages.precompute.engine.dask_client.PATIENCE_S", 0.3)
    said: list[str] = []

    with LocalCluster(
        n_workers=0, threads_per_worker=2, dashboard_address="127.0.0.1:0", silence_logs=False
    ) as cluster:
        address = cluster.scheduler_address
        with pytest.raises(ResourceError, match=rf"{address}: .*no worker.*`dask worker {address}"):
            run(world, tiny_clip, tmp_path, scheduler=address)
        cluster.scale(1)
        with Client(cluster, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=60)

        class Heard(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                if "no worker is left" in record.getMessage() and not said:
                    said.append(record.getMessage())
                    cluster.scale(1)

        def look(now: Progress) -> None:
            if now.done and not gone:
                gone.append(now.done)
                cluster.scale(0)

        gone: list[int] = []
        handler = Heard()
        logging.getLogger("zsseg.stages.precompute.engine.dask_client").addHandler(handler)
        try:
            result = run(world, tiny_clip, tmp_path, scheduler=address, progress=look)
        finally:
            logging.getLogger("zsseg.stages.precompute.engine.dask_client").removeHandler(handler)
    assert address in said[0]
    assert content(result.path) == expected


def test_workers_of_a_running_cluster_write_nothing_once_the_store_is_let_go(
    world: Path, tiny_clip: str, expected: dict[str, bytes], tmp_path: Path
) -> None:
    slow, wrote, let_go = tmp_path / "slow.py", tmp_path / "wrote", list[float]()
    wrote.touch()
    slow.write_text(
        "import time\n"
        "from zsseg.stages.precompute.engine import fill_shard\n"
        "def wrapped(save):\n"
        "    def slow_save(*args, **kwargs):\n"
        "        time.sleep(1 if args[3] else 0)\n"  # the first shard is done first
        "        files = save(*args, **kwargs)\n"
        f"        with open({str(wrote)!r}, 'a') as file:\n"
        "            file.write(f'{time.time()}\\n')\n"
        "        return files\n"
        "    return slow_save\n"
        "if fill_shard.save_shard.__name__ == 'save_shard':\n"  # dask reloads preloads
        "    fill_shard.save_shard = wrapped(fill_shard.save_shard)\n"
    )
    close = Writer.close

    def noted(self: Writer) -> None:
        let_go.append(time.time())
        close(self)

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with (
        dask.config.set({"distributed.worker.preload": [str(slow)]}),
        LocalCluster(
            n_workers=1, threads_per_worker=3, dashboard_address="127.0.0.1:0", silence_logs=False
        ) as cluster,
    ):
        address = cluster.scheduler_address
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Writer, "close", noted)
            patch.setattr("zsseg.stages.precompute.shard_loop.Writer.commit", interrupted)
            patch.setattr(Writer, "write", lambda *_, **__: None)  # `text` is no worker's
            with pytest.raises(KeyboardInterrupt):
                run(world, tiny_clip, tmp_path / "cache", scheduler=address)
        time.sleep(1.5)
        times = [float(line) for line in wrote.read_text().split()]
        assert max(times) < let_go[0]
        path = run(world, tiny_clip, tmp_path / "cache", scheduler=address).path
    assert content(path) == expected


def test_shards_that_a_killed_client_left_behind_are_waited_for(tmp_path: Path) -> None:
    answers = iter([{"a": True, "b": False}, {"a": False, "b": True}, {"a": False, "b": False}])

    class BusyClient:
        def run(self, _: Any, store: Path, **__: Any) -> dict[str, bool]:
            assert store == tmp_path
            return next(answers)

    wait_until_idle(cast(Any, BusyClient()), tmp_path)
    assert list(answers) == []


@pytest.mark.parametrize("losses", [1, 2])
def test_a_worker_that_is_lost_for_no_image_is_lost_twice_before_the_run_ends(losses: int) -> None:
    made = ShardResult(Job(3, (), ()), {}, {}, {}, {}, {}, {})
    results = iter([*[None] * losses, made])

    def isolated() -> ShardResult:
        return isolate(
            made.job, Path("root"), attempt=lambda _: next(results), dies_reading=lambda _: False
        )

    if losses == 1:
        assert isolated() is made
    else:
        with pytest.raises(ResourceError, match="shard 3 lost its worker again and again"):
            isolated()


def test_images_that_kill_a_worker_at_the_teacher_are_found_and_left_out() -> None:
    """Reading them harms none; each half of the shard without them is computed."""
    samples = tuple(Sample(name, Path("root") / f"{name}.png", None) for name in "abcdefg")
    deadly, attempts = {1, 6}, list[frozenset[int]]()

    def attempt(job: Job) -> ShardResult | None:
        tried = frozenset(range(len(samples))).difference(job.left_out)
        attempts.append(tried)
        return None if tried & deadly else ShardResult(job, {}, {}, {}, {}, {}, {})

    job = Job(0, samples, ("index",))
    result = isolate(job, Path("root"), attempt=attempt, dies_reading=lambda _: False)
    assert dict(result.job.left_out) == {
        place: f"its process died at this image: {name}.png. Replace it with an intact file"
        for place, name in ((1, "b"), (6, "g"))
    }
    assert attempts[-1] == {0, 2, 3, 4, 5}


def test_a_scheduler_that_is_not_there(
    world: Path, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zsseg.stages.precompute.engine.dask_client.ANSWER_S", 0.5)
    with pytest.raises(ResourceError, match=r"tcp://127.0.0.1:9: no dask scheduler answers"):
        run(world, tiny_clip, tmp_path, scheduler="tcp://127.0.0.1:9")


def test_one_kind_of_workers_is_asked_for(world: Path, tiny_clip: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give one"):
        run(world, tiny_clip, tmp_path, scheduler="tcp://127.0.0.1:9", workers=2)
    with pytest.raises(UserError, match="give 1 or more"):
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


def test_what_fails_in_distributeds_own_event_loop_prints_no_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Ctrl-C in the moment before a request is sent: a clean-up of distributed fails there.
    told = threading.Event()
    with ExitStack() as held:
        client = connect(held, workers=1, threads=1, scheduler=None)
        client.loop.add_callback(lambda: 1 / 0)
        client.loop.add_callback(told.set)
        assert told.wait(20)
    assert not [record for record in caplog.records if record.exc_info]
