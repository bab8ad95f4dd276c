"""Does a store at a URL cost one round trip after the other? Seconds at a given delay.

    python -m benchmarks.remote_store --receipts 200 --delay 20

An S3 server on loopback (of the tests: `pip install -e ".[dev]"`) waits `delay` milliseconds before
each answer, many requests at a time. A store of one image per shard is written, opened and read
row by row.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TypeVar

import numpy as np

from zsseg.stages.cache.catalogue import find_stores
from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import store_path
from zsseg.stages.cache.reader import Store
from zsseg.stages.cache.writer import ArraySpec, Artifact, Writer

Result = TypeVar("Result")

_SERVER = """\
import logging, sys, time
from moto.moto_server import werkzeug_app
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
answer = werkzeug_app.DomainDispatcherApplication.__call__
def late(*arguments):
    time.sleep(float(sys.argv[1]) / 1000)
    return answer(*arguments)
werkzeug_app.DomainDispatcherApplication.__call__ = late
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def server(delay: float) -> Iterator[None]:
    """An S3 server; the environment leads to it."""
    command = [sys.executable, "-c", _SERVER, str(delay)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{int(process.stdout.readline())}"
        os.environ |= {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}
        os.environ["AWS_DEFAULT_REGION"] = "us-east-1"
        try:
            yield
        finally:
            process.kill()


def measure(receipts: int) -> None:
    """Write a store of so many shards and print what each step takes."""
    folder = store_path("s3://bench/stores")
    store_path("s3://bench").mkdir()
    artifact = Artifact("cls", {}, (ArraySpec("cls", (512,), "float16"),))
    with Writer.open(
        folder / "store",
        identity={"dataset": "bench", "split": "train"},
        artifacts=[artifact],
        index=[{"id": str(n), "image": f"{n}.jpg", "label": None} for n in range(receipts)],
        shard_rows=1,
        info={"teacher": "none"},
    ) as writer:

        def write(shard: int) -> None:
            writer.write("cls", shard, {"cls": np.full((1, 512), shard, np.float16)})

        timed(f"write {receipts} shards", lambda: storage(folder).map(write, range(receipts)))
        timed("which are missing", writer.missing)
        timed("seal", writer.seal)
    timed("list the folder", lambda: [store.bytes for store in find_stores(folder)])
    store = timed("open", lambda: Store.open(folder / "store"))
    timed("read 20 rows", lambda: [store.read("cls", row) for row in range(min(20, receipts))])


def timed(what: str, call: Callable[[], Result]) -> Result:
    """Print how long the call takes."""
    begin = perf_counter()
    result = call()
    print(f"{what}: {perf_counter() - begin:.2f} s")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--receipts", type=int, default=200)
    parser.add_argument("--delay", type=float, default=20, help="milliseconds per request")
    given = parser.parse_args()
    with server(given.delay):
        measure(given.receipts)
