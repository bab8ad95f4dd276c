"""From the memory of steps to that of a training. Pure arithmetic.

Memory is that of the moment when most is there: at the end of a part's forward pass, with what the
backward pass needs of each crop of the part; or in the optimiser's step, which has temporaries of
the size of the weights.
"""

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Measured:
    """What is known of a run before its first step, in bytes."""

    fixed: int
    """Of a part, whatever the number of its crops; without the gradients of weights."""
    costs: tuple[CropCost, ...]
    """Of crops of growing size; the last is of the run's own."""
    loaded: int
    """A crop as it is loaded."""
    batch: int
    """The same, and what is cut from it before the student sees it."""
    weights: int
    average: int
    """The weights of the average student, where there is one."""
    fewest: int
    """Crops that a part needs: 2 where batch normalisation needs as many."""
    multiple: int
    """Pixels that the sides of a crop must divide by."""

    def crop_bytes(self, pixels: int) -> int:
        """Memory of one crop of so many pixels, no more than the run's own has.

        Straight between two known sizes, which is more than it will be where it grows faster than
        the pixels; in proportion to the pixels below the smallest.
        """
        smallest = self.costs[0]
        if pixels <= smallest.pixels:
            return smallest.bytes * pixels // smallest.pixels
        low, high = self.costs
        share = (pixels - low.pixels) / (high.pixels - low.pixels)
        return round(low.bytes + share * (high.bytes - low.bytes))


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
    ahead = wanted.workers * _AHEAD * wanted.crops * measured.loaded
    return {
        "weights": measured.weights + measured.average,
        "gradients": measured.weights,
        "optimiser": _OPTIMISER * measured.weights,
        "crops": max(crops, _TEMPORARIES * measured.weights),
        "between tensors": round(_BETWEEN * crops),
        "batch": wanted.crops * measured.batch,
        "loader processes": wanted.workers * wanted.worker_bytes + ahead,
    }
