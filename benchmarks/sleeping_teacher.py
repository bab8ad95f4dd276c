"""A teacher that takes a GPU's time and none of the processor's, for `benchmarks.host`.

It gives stored tokens, so that regions are mined from what a real teacher said, and sleeps as long
as a device would compute. One `device`: a second call waits for the first in the engine's lock.
Legend: n images, D width, h w token grid.
"""

import os
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class SleepingTeacher:
    """What `python:FILE.py:NAME` asks of a teacher (docs/teachers.md)."""

    image_size = (224, 224)
    stride = 16

    def __init__(self, tokens: Path, log: Path, *, dense_ms: float, crop_ms: float) -> None:
        """`tokens`: an `.npz` of `dense` (n, D, h, w) and `cls` (n, D); each process notes in a
        file of folder `log` when its device was at work.
        """
        with np.load(tokens) as stored:
            self._dense_nDhw: NDArray[np.float16] = stored["dense"]
            self._cls_nD: NDArray[np.float32] = stored["cls"]
        self._log, self._dense_s, self._crop_s = log, dense_ms / 1000, crop_ms / 1000
        self.width = self._cls_nD.shape[1]
        self.fingerprint = f"sleeping {dense_ms} {crop_ms}"
        self._given = 0

    def cls(self, images: NDArray[np.uint8]) -> NDArray[np.floating]:
        """(n, D) stored tokens, whatever the crops show."""
        with self._at_work(len(images) * self._crop_s):
            return self._cls_nD[self._next(len(images)) % len(self._cls_nD)]

    def dense(self, images: NDArray[np.uint8]) -> NDArray[np.floating]:
        """(n, D, h, w) stored maps of tokens, one after the other."""
        with self._at_work(len(images) * self._dense_s):
            return self._dense_nDhw[self._next(len(images)) % len(self._dense_nDhw)]

    def text(self, prompts: list[str]) -> NDArray[np.floating]:
        """(n, D) drawn by each prompt's own letters."""
        seeds = [zlib.crc32(prompt.encode()) for prompt in prompts]
        return np.stack([np.random.default_rng(seed).normal(size=self.width) for seed in seeds])

    def _next(self, count: int) -> NDArray[np.int64]:
        self._given += count
        return np.arange(self._given - count, self._given)

    @contextmanager
    def _at_work(self, seconds: float) -> Iterator[None]:
        begin = time.monotonic()
        yield
        time.sleep(max(0.0, seconds - (time.monotonic() - begin)))
        with (self._log / f"{os.getpid()}.txt").open("a") as log:
            log.write(f"{begin} {time.monotonic()}\n")
