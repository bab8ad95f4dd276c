"""Bounds the pixels of decoded images that a process has in memory, whatever their size.

An image of 24 megapixels takes 100 MB as it lies in memory and up to four times as much while it is
decoded, resized and cut. Threads and shards are counted in images; so their memory is bounded here.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

BYTES_AT_WORK = 20
"""Per pixel, of an image and its label that a thread decodes, resizes or cuts crops of, copies
included: `python -m benchmarks.large_images`."""

BYTES_KEPT = 4
"""Per pixel, of an image and its label that only lie in memory."""

MEGAPIXEL = 10**6


class PixelGate:
    """Lets threads work on images as long as these have no more than `limit` pixels together."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._change = threading.Condition()
        self._pixels = 0

    @contextmanager
    def held(self, pixels: int) -> Iterator[None]:
        """Within, so many pixels are worked on. An image above the limit is worked on alone.

        A thread must not ask again while it is inside.
        """
        with self._change:
            self._change.wait_for(lambda: not self._pixels or self._pixels + pixels <= self.limit)
            self._pixels += pixels
        try:
            yield
        finally:
            with self._change:
                self._pixels -= pixels
                self._change.notify_all()


class PixelStock:
    """How many pixels a shard may keep from one artifact to the next."""

    def __init__(self, limit: int) -> None:
        self._left, self._lock = limit, threading.Lock()

    def takes(self, pixels: int) -> bool:
        """Is there room for so many more? Then they are counted."""
        with self._lock:
            fits = pixels <= self._left
            self._left -= pixels if fits else 0
            return fits


AT_WORK = PixelGate(64 * MEGAPIXEL)
"""Of this process, for all its shards."""
