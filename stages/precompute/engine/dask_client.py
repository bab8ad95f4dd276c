"""A dask client and the workers behind it: started here, or those of a running scheduler."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING

from zsseg.stages.errors import ResourceError
from zsseg.stages.printable import counted

if TYPE_CHECKING:
    from distributed import Client

ANSWER_S = 20.0
"""Seconds that a running scheduler has to answer."""
PATIENCE_S = 60.0
"""Seconds without any worker after which a run ends, or warns where it has begun."""

_log = logging.getLogger(__name__)


def connect(
    held: ExitStack, *, workers: int | None, threads: int, scheduler: str | None
) -> "Client":
    """A client of `workers` new processes of `threads` each, or of the workers of a scheduler.

    Closing `held` ends the processes that were started. Raises ResourceError when no scheduler
    answers, or it has no worker.
    """
    import distributed  # noqa: F401 (its defaults have to be there before one is changed)
    from dask import config

    # Lost workers are reported by dask_engine.py, in terms of images and shards.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    # Ctrl-C in the moment before a request is sent makes distributed's own clean-up fail in its
    # event loop (`sync` in distributed/utils.py), which prints the traceback of a NameError.
    logging.getLogger("tornado.application").setLevel(logging.CRITICAL)
    # It keeps its last messages, by default a thousand: for each shard all that it was sent.
    held.enter_context(config.set({"distributed.admin.low-level-log-length": 10}))
    if scheduler is not None:
        client = _join(scheduler)
    else:
        assert workers is not None
        client = _start(held, workers=workers, threads=threads)
    held.enter_context(client)
    address = client.scheduler_info()["address"]
    if not client.nthreads():
        try:
            client.wait_for_workers(1, timeout=PATIENCE_S)
        except TimeoutError as error:
            raise ResourceError(
                f"{address}: this dask scheduler has no worker, and none came within "
                f"{PATIENCE_S:.0f} s. `dask worker {address}` starts one"
            ) from error
    held.enter_context(_warning_without_workers(client, address))
    return client


def _join(scheduler: str) -> "Client":
    from distributed import Client

    try:  # with the certificates of distributed.comm.tls in dask's own configuration
        client = Client(scheduler, timeout=ANSWER_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ResourceError(
            f"--scheduler {scheduler}: no dask scheduler answers there ({error}). "
            "`dask scheduler` starts one, `dask worker ADDRESS` its workers"
        ) from error
    if not client.scheduler_info()["address"].startswith(("tls://", "wss://")):
        _log.warning(
            "--scheduler %s: neither encrypted nor authenticated: whoever can reach its port, on "
            "this machine or in its network, can run code as the user of its workers. Start the "
            "cluster with certificates (distributed.comm.tls in dask's configuration) and give "
            "tls://HOST:PORT",
            scheduler,
        )
    return client


def _start(held: ExitStack, *, workers: int, threads: int) -> "Client":
    """A client of new processes of this machine, which listen on loopback only.

    Other users of the machine reach loopback too, and whoever speaks to dask has code run: only who
    holds the key of this cluster, made for it and kept in memory, is answered.
    """
    from dask import config
    from distributed import Client, LocalCluster
    from distributed.security import Security

    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    # OMP_NUM_THREADS in the environment is meant per process; without it they share the machine.
    share = os.environ.get(names[0]) or max(1, (os.cpu_count() or 1) // workers)
    environment = {
        f"distributed.nanny.pre-spawn-environ.{name}": os.environ.get(name) or str(share)
        for name in names
    }
    # Without a dashboard dask listens for HTTP all the same: there is nothing to answer with.
    silent: dict[str, list[str]] = {
        f"distributed.{part}.http.routes": [] for part in ("scheduler", "worker")
    }
    with (
        _shielded_from_ctrl_c(),
        config.set({"distributed.scheduler.allowed-failures": 0, **environment, **silent}),
    ):
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=threads,
            memory_limit=0,
            host="127.0.0.1",
            protocol="tls://",
            security=Security.temporary(),
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
            silence_logs=logging.CRITICAL,
        )
        held.enter_context(cluster)
        client = Client(cluster, set_as_default=False)
    _log.info("%s", counted(workers, "worker"))
    return client


@contextmanager
def _warning_without_workers(client: "Client", address: str) -> Iterator[None]:
    """Inside, warn every PATIENCE_S seconds that there is no worker: dask waits in silence."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(PATIENCE_S):
            with suppress(OSError, TimeoutError):  # the caller, who waits for an answer, gets it
                if not client.nthreads():
                    _log.warning(
                        "no worker is left at %s: waiting for one. `dask worker %s` starts one; "
                        "Ctrl-C ends this run, and keeps what is committed",
                        address,
                        address,
                    )

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def _shielded_from_ctrl_c() -> Iterator[None]:
    """Threads and processes that are started inside do not get a terminal's Ctrl-C.

    A terminal sends it to all processes that run in it. This process ends its workers itself; they
    would answer with tracebacks. Ctrl-C for this process waits for the end of the block.
    """
    if os.name == "nt":
        yield
        return
    resource_tracker.ensure_running()  # started with a process, it would unblock Ctrl-C again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
