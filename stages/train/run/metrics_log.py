"""Writes the numbers of a run: one JSON line per log step, the same for TensorBoard and a tracker.

metrics.jsonl       losses, learning rate, speed
validation.jsonl    of a run that is validated: scores, IoU of each class, seconds, pictures
validation/         the pictures: image, prediction and label side by side
"""

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard.writer import SummaryWriter

from zsseg.stages.cache.disk.durable import append_durably, open_no_link, write_durably
from zsseg.stages.cache.disk.json_files import json_lines
from zsseg.stages.data.images import jpeg_bytes
from zsseg.stages.train.run.trackers import Tracker

VALIDATIONS = "validation.jsonl"

logger = logging.getLogger(__name__)


class MetricsLog:
    """`metrics.jsonl`, `validation.jsonl` and `tensorboard/` of a run folder.

    A resumed run goes on at `start_step`, its validations after `validated`: lines that a killed
    run wrote after its last checkpoint, and a line that was cut short, are removed, so that every
    step is in the file once.
    """

    def __init__(
        self, run: Path, *, start_step: int, validated: int = 0, tracker: Tracker | None = None
    ) -> None:
        self._run, self._tracker = run, tracker
        if (validations := run / VALIDATIONS).exists():
            lines = _lines_until(validations, validated)
            write_durably(validations, "".join(f"{line}\n" for line in lines).encode())
        path = run / "metrics.jsonl"
        kept = _lines_until(path, start_step)
        write_durably(path, "".join(f"{line}\n" for line in kept).encode())
        self._file = TextIOWrapper(
            open_no_link(path, os.O_WRONLY | os.O_APPEND), encoding="utf-8", newline="\n"
        )
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=start_step + 1)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Record the numbers of a step."""
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()
        self._show(step, metrics)

    def validated(
        self,
        step: int,
        scores: Mapping[str, float],
        iou: Mapping[str, float],
        entry: Mapping[str, Any],
        pictures: Mapping[str, NDArray[np.uint8]],
    ) -> None:
        """Record a validation: `scores` by name, `iou` by class, what else is to say, and pictures
        (H, W, 3) by image. A score that is not defined is null."""
        files = {}
        for number, (image, picture_HW3) in enumerate(pictures.items()):
            files[image] = f"validation/step-{step:06d}-{number}.jpg"
            write_durably(self._run / files[image], jpeg_bytes(picture_HW3))
            self._board.add_image(f"validation/{image}", picture_HW3, step, dataformats="HWC")
            if self._tracker is not None:
                self._tracker.picture(step, f"validation/{image}", picture_HW3)
        line = {
            "step": step,
            "scores": _defined(scores),
            "iou": _defined(iou),
            **entry,
            "pictures": files,
        }
        append_durably(self._run / VALIDATIONS, json_lines([line]))
        shown = {f"validation/{name}": value for name, value in scores.items()}
        self._show(step, shown | {f"iou/{name}": value for name, value in iou.items()})

    def _show(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if self._tracker is not None:
            self._tracker.numbers(step, values)

    def sync(self) -> None:
        """Force `metrics.jsonl` to disk, before a checkpoint: no resume repeats these steps."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        self._board.close()
        if self._tracker is not None:
            self._tracker.close()


class Throughput:
    """Images and cache bytes per second, and the share of time spent waiting for data."""

    def __init__(self, bytes_per_image: int) -> None:
        self._bytes = bytes_per_image
        self._start, self._waited, self._images = time.perf_counter(), 0.0, 0

    @contextmanager
    def waiting(self, images: int) -> Iterator[None]:
        """Time how long the next `images` are waited for."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start
        self._images += images

    def leave_out(self, seconds: float) -> None:
        """Do not count so many of the last seconds: they were spent on something else."""
        self._start += seconds

    def report(self) -> dict[str, float]:
        """Since the last report: `images_per_second`, `data_wait` (0 to 1; of this process), and
        `cache_mb_per_second` (10^6 bytes as they are stored, not counting compression)."""
        now = time.perf_counter()
        seconds = now - self._start
        images_per_second = self._images / seconds
        rates = {
            "images_per_second": images_per_second,
            "data_wait": self._waited / seconds,
            "cache_mb_per_second": images_per_second * self._bytes / 1e6,
        }
        self._start, self._waited, self._images = now, 0.0, 0
        return rates


def _defined(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else value for name, value in values.items()}


def _lines_until(path: Path, step: int) -> list[str]:
    """The complete lines of the first `step` steps."""
    kept = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line.decode())
        except (ValueError, KeyError, TypeError):
            logger.warning("%s: dropping a line that is damaged or was cut short", path)
    return kept
