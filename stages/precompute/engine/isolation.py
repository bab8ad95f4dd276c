"""Finds the image of a shard that kills its process, and computes the shard without it."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from zsseg.stages.errors import ResourceError
from zsseg.stages.precompute.engine.jobs import KILLED, Job, ShardResult

WORKERS_LOST = 2
"""How often a shard may lose its worker without an image being found as the cause."""

_log = logging.getLogger(__name__)


def isolate(
    job: Job,
    root: Path,
    *,
    attempt: Callable[[Job], ShardResult | None],
    dies_reading: Callable[[Sequence[int]], bool],
) -> ShardResult:
    """The result of a shard without the images that no process survives.

    `attempt` computes a job while nothing else is computed, and returns None when its worker dies;
    `dies_reading` says whether a worker dies that only reads the images at these places. Raises
    ResourceError when the worker dies WORKERS_LOST times though no single image kills it.
    """
    losses = 0
    while (result := attempt(job)) is None:
        _log.warning("shard %d kills its worker: looking for the image", job.shard)
        place = _deadly_image(job, attempt, dies_reading)
        if place is None:
            losses += 1
            if losses < WORKERS_LOST:  # a worker may also be lost for nothing that the shard did
                continue
            raise ResourceError(
                f"shard {job.shard} lost its worker again and again, though no single image of "
                "it is the cause: most often memory is short. Use fewer --workers, or a smaller "
                "shard_images in another --cache folder"
            )
        _log.warning("%s kills its process and is left out", job.samples[place].image)
        image = job.samples[place].image.relative_to(root).as_posix()
        job = job.without({place: f"{KILLED}: {image}. Replace it with an intact file"})
    return result


def _deadly_image(
    job: Job,
    attempt: Callable[[Job], ShardResult | None],
    dies_reading: Callable[[Sequence[int]], bool],
) -> int | None:
    """The place of an image that kills its worker by itself; None when there is none."""

    def dies(places: Sequence[int]) -> bool:
        others = {i: "not looked at" for i in range(len(job.samples)) if i not in set(places)}
        return attempt(job.without(others)) is None

    places = [i for i in range(len(job.samples)) if i not in job.left_out and job.reads(i)]
    # Most often it is the decoder that dies, and trying that takes no teacher.
    place = bisect(places, dies_reading)
    return bisect(places, dies) if place is None else place


def bisect(places: Sequence[int], dies: Callable[[Sequence[int]], bool]) -> int | None:
    """The place that `dies` is true of, by halving; None when it is true of no single one."""
    while len(places) > 1:
        half = places[: len(places) // 2]
        places = half if dies(half) else places[len(places) // 2 :]
    return places[0] if places and dies(places) else None
