"""The workers of a cluster: processes started here, or those of a running dask scheduler."""

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING

from zsseg.stages.errors import ResourceError

if TYPE_CHECKING:
    from distributed import Client

_PATIENCE = 60.0
"""Seconds without any worker after which that is said."""

_log = logging.getLogger(__name__)


def reach(held: ExitStack, *, workers: int | None, threads: int, scheduler: str | None) -> "Client":
    """A client of `workers` new processes with so many `threads` each, or of a scheduler's workers.

    What `held` closes ends the processes that were started. Raises ResourceError when no scheduler
    answers, or it has no worker.
    """
    from dask import config
    from distributed import Client, LocalCluster

    # What it has to say of lost workers is said here, in words of images and shards.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    # It keeps its last messages, by default a thousand: of each shard all that it was sent.
    held.enter_context(config.set({"distributed.admin.low-level-log-length": 10}))
    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=20, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ResourceError(
                f"--scheduler {scheduler}: no dask scheduler answers there ({error}). "
                "`dask scheduler` starts one, `dask worker ADDRESS` its workers"
            ) from error
    else:
        assert workers is not None
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        # Who set OMP_NUM_THREADS means each process; without it they share the machine.
        share = os.environ.get(names[0]) or max(1, (os.cpu_count() or 1) // workers)
        environment = {
            f"distributed.nanny.pre-spawn-environ.{name}": os.environ.get(name) or str(share)
            for name in names
        }
        with (
            _away_from_the_terminal(),
            config.set({"distributed.scheduler.allowed-failures": 0, **environment}),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", "Port .* is already in use")
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=threads,
                memory_limit=0,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:8787",
                silence_logs=logging.CRITICAL,
            )
            held.enter_context(cluster)
            client = Client(cluster, set_as_default=False)
        _log.info("%d workers; dashboard: %s", workers, cluster.dashboard_link)
    held.enter_context(client)
    address = client.scheduler_info()["address"]
    if not client.nthreads():
        try:
            client.wait_for_workers(1, timeout=_PATIENCE)
        except TimeoutError as error:
            raise ResourceError(
                f"{address}: this dask scheduler has no worker, and none came within "
                f"{_PATIENCE:.0f} s. `dask worker {address}` starts one"
            ) from error
    held.enter_context(_missed(client, address))
    return client


@contextmanager
def _missed(client: "Client", address: str) -> Iterator[None]:
    """Says again and again within that there is no worker: dask waits for one in silence."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(_PATIENCE):
            with suppress(OSError, TimeoutError):  # who waits for an answer meets it too
                if not client.nthreads():
                    _log.warning(
                        "no worker is left at %s: waiting for one. `dask worker %s` starts one; "
                        "Ctrl-C ends this run, and keeps what is committed",
                        address,
                        address,
                    )

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def _away_from_the_terminal() -> Iterator[None]:
    """Threads and processes that are started within do not get the Ctrl-C of a terminal.

    It is sent to all that run there. This process ends its workers itself, and they would answer
    with tracebacks. Within, it waits for the end of this block.
    """
    if os.name == "nt":
        yield
        return
    resource_tracker.ensure_running()  # who starts it with a process lets Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
