"""From measured steps of a crop or two to the memory and time of whole steps. Pure arithmetic.

Memory is that of the moment when most is there: at the end of a part's forward pass, with what the
backward pass needs of each crop of the part; or in the optimiser's step, which has temporaries of
the size of the weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

_OPTIMISER = 2
"""Tensors of the weights' size that AdamW keeps."""
_TEMPORARIES = 2
"""Tensors of the weights' size that it makes in a step."""
_BETWEEN = 0.15
"""Of the memory of crops: what the allocator loses between tensors, and libraries take for
themselves while they compute (5 to 20 % in docs/performance.md)."""
_AHEAD = 2
"""Batches that torch's loader prepares per worker (prefetch_factor)."""


@dataclass(frozen=True)
class CropCost:
    """What a crop costs in a step, by its pixels."""

    pixels: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Measured:
    """What was measured of a run before its first step, in bytes."""

    fixed: int
    """Of a part, whatever the number of its crops; without the gradients of weights."""
    fixed_seconds: float
    """The same in time."""
    costs: tuple[CropCost, ...]
    """Of crops of growing size; the last is as near to the run's own as could be tried."""
    loaded: int
    """A crop as it is loaded."""
    batch: int
    """The same, and what is cut from it before the student sees it."""
    weights: int
    optimiser: int
    """What the optimiser has already, in a run that goes on."""
    fewest: int
    """Crops that a part needs: 2 where batch normalisation needs as many."""
    multiple: int
    """Pixels that the sides of a crop must divide by."""

    def crop_bytes(self, pixels: int) -> int:
        """Memory of one crop of so many pixels."""
        return round(_by_pixels([(each.pixels, each.bytes) for each in self.costs], pixels))

    def step_seconds(self, wanted: "Wanted") -> float:
        """Seconds of a step, forwards and backwards."""
        points = [(each.pixels, each.seconds) for each in self.costs]
        crops = wanted.crops * _by_pixels(points, wanted.pixels)
        return wanted.parts * self.fixed_seconds + crops


@dataclass(frozen=True)
class Wanted:
    """The settings that memory follows from, as one process has them."""

    crops: int
    """Of a step."""
    parts: int
    pixels: int
    """Of a crop."""
    workers: int
    worker_bytes: int
    """That a loader process has for itself."""


def memory_parts(measured: Measured, wanted: Wanted) -> dict[str, int]:
    """Bytes that a training takes beside what it has before its first step, by what they are for.

    `loader processes` are not the training process's own.
    """
    per_part = -(-wanted.crops // wanted.parts)
    crops = measured.fixed + per_part * measured.crop_bytes(wanted.pixels)
    moments = max(_OPTIMISER * measured.weights - measured.optimiser, 0)
    ahead = wanted.workers * _AHEAD * wanted.crops * measured.loaded
    return {
        "gradients": measured.weights,
        "optimiser": moments,
        "crops": max(crops, _TEMPORARIES * measured.weights),
        "between tensors": round(_BETWEEN * crops),
        "batch": wanted.crops * measured.batch,
        "loader processes": wanted.workers * wanted.worker_bytes + ahead,
    }


def _by_pixels(points: Sequence[tuple[int, float]], pixels: int) -> float:
    """A cost at so many pixels: between two measured ones straight, beyond them b p + c p^2.

    The curve goes through the last two, c at least 0; with one point alone the cost grows as the
    pixels do.
    """
    last, value = points[-1]
    if pixels <= points[0][0]:
        return points[0][1] * pixels / points[0][0]
    for (low, below), (high, above) in pairwise(points):
        if pixels <= high:
            return below + (above - below) * (pixels - low) / (high - low)
    if len(points) == 1:
        return value * pixels / last
    before, earlier = points[-2]
    curve = max((value / last - earlier / before) / (last - before), 0.0)
    return (value / last - curve * last) * pixels + curve * pixels**2
