"""Settings with which a training would fit into memory, each found by the forecast itself."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

from zsseg.stages.train.foretell.estimate import Measured, Wanted
from zsseg.stages.train.processes import processes
from zsseg.stages.train.run_config import SMALLEST_CROP, RunConfig

Fits = Callable[[Measured, Wanted], bool]

_SHARES = [Fraction(eighths, 8) for eighths in range(7, 1, -1)]
"""Of the crop's sides, that are tried."""

_FAMILIES = (
    ("mit_b5", "mit_b4", "mit_b3", "mit_b2", "mit_b1", "mit_b0"),
    ("mscan_l", "mscan_b", "mscan_s", "mscan_t"),
    ("resnet152", "resnet101", "resnet50", "resnet34", "resnet18"),
    tuple(f"efficientnet-b{number}" for number in range(7, -1, -1)),
)
"""Encoders of one kind, the largest first."""

_SIZES = ("large", "base", "small", "tiny")
"""In names of timm's encoders, such as `vit_base_patch16_384`."""


def offers(
    measured: Measured,
    wanted: Wanted,
    config: RunConfig,
    *,
    fits: Fits,
    with_encoder: Callable[[str], Measured | None],
) -> Iterator[str]:
    """The settings as text, those that change no result first.

    `with_encoder` measures the run with another encoder; None: there is no such student. That takes
    its time, so others are tried only where no number of parts is enough.
    """
    divided = _in_more_parts(measured, wanted, fits)
    if divided is not None:
        yield f"{_loading(wanted, divided)} (the same result)"
    if (fewer := _fewer_crops(measured, wanted, fits)) is not None:
        yield f"--set train.batch={fewer.crops * processes()[1]}"
    # What is offered from here on may need the step in parts too.
    one_each = replace(wanted, parts=_most_parts(measured, wanted))
    ways = (wanted, replace(one_each, workers=wanted.workers), replace(one_each, workers=0))
    for way in ways:
        if (side := _smaller_crop(measured, way, config, fits)) is not None:
            yield _joined(f"--set augmentation.crop={side}", _loading(wanted, way))
            break
    if divided is not None:
        return
    for encoder in smaller_encoders(config.student.encoder)[1::2]:
        other = with_encoder(encoder)
        for way in ways if other is not None else ():
            assert other is not None
            if fits(other, way):
                yield _joined(f"--set student.encoder={encoder}", _loading(wanted, way))
                return


def smaller_encoders(name: str) -> Sequence[str]:
    """Encoders of the same kind that are smaller, the largest first; not all of them may exist."""
    for family in _FAMILIES:
        if name in family:
            return family[family.index(name) + 1 :]
    for number, size in enumerate(_SIZES):
        if size in name:
            return [name.replace(size, other) for other in _SIZES[number + 1 :]]
    return []


def _in_more_parts(measured: Measured, wanted: Wanted, fits: Fits) -> Wanted | None:
    """The fewest parts that fit, with fewer loader processes where these alone are too much."""
    parts = range(wanted.parts, _most_parts(measured, wanted) + 1)
    for workers in dict.fromkeys((wanted.workers, min(wanted.workers, 2), 0)):
        tries = (replace(wanted, parts=each, workers=workers) for each in parts)
        if (found := next((each for each in tries if fits(measured, each)), None)) is not None:
            return found
    return None


def _fewer_crops(measured: Measured, wanted: Wanted, fits: Fits) -> Wanted | None:
    fewest = max(wanted.parts * measured.fewest, 1)
    tries = (replace(wanted, crops=each) for each in range(wanted.crops - 1, fewest - 1, -1))
    return next((each for each in tries if fits(measured, each)), None)


def _smaller_crop(
    measured: Measured, wanted: Wanted, config: RunConfig, fits: Fits
) -> list[int] | None:
    for share in _SHARES:
        sides = [
            math.floor(side * share / measured.multiple) * measured.multiple
            for side in config.augmentation.crop
        ]
        smallest = min(sides) >= max(SMALLEST_CROP, measured.multiple)
        if smallest and fits(measured, replace(wanted, pixels=math.prod(sides))):
            return sides
    return None


def _most_parts(measured: Measured, wanted: Wanted) -> int:
    return max(wanted.crops // measured.fewest, 1)


def _loading(wanted: Wanted, other: Wanted) -> str:
    """The changes of how a step is loaded and divided."""
    changes = {
        "accumulate": (wanted.parts, other.parts),
        "workers": (wanted.workers, other.workers),
    }
    return " ".join(
        f"--set train.{name}={new}" for name, (old, new) in changes.items() if old != new
    )


def _joined(*texts: str) -> str:
    return " ".join(filter(None, texts))
