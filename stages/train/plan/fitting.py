"""Goes down from what is wished to what fits into memory, by the forecast of a training."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod

from zsseg.stages.device import choose_device
from zsseg.stages.errors import ResourceError
from zsseg.stages.machine_memory import gigabytes
from zsseg.stages.train.batches.crops import CropDataset
from zsseg.stages.train.batches.store_check import check_store
from zsseg.stages.train.batches.training_data import TrainingData
from zsseg.stages.train.foretell.estimate import Measured, Wanted
from zsseg.stages.train.foretell.measure import (
    CannotForetellError,
    ShadowRun,
    not_foretold,
    shadow_run,
)
from zsseg.stages.train.foretell.memory_check import TrainForecast, reckoner, refusal
from zsseg.stages.train.plan.planned import Decision, TrainingPlan
from zsseg.stages.train.resource_errors import explained
from zsseg.stages.train.run_config import SMALLEST_CROP, RunConfig
from zsseg.stages.train.student_precision import autocast_type

_SPARE = 1.1
"""Times what is foretold: other programs may take memory until the first step."""
_SHARES = (Fraction(1), Fraction(3, 4), Fraction(1, 2), Fraction(3, 8), Fraction(1, 4))
"""Of the wished crop's sides, that are tried."""


@dataclass(frozen=True)
class FittingPlan:
    """A plan that fits, and the crops that a step of its student needs at least."""

    plan: TrainingPlan
    crops: int
    dataset: CropDataset | None = None
    """Its crops, of the wished size, if they were listed."""


@dataclass(frozen=True)
class _Way:
    """Settings of less memory."""

    wanted: Wanted
    crop: tuple[int, int]


def fitting_plan(plans: Iterable[TrainingPlan], data: TrainingData) -> FittingPlan:
    """The first plan that fits: whole, else in more parts, with fewer loaders, in smaller crops.

    The plans are of the same training with one encoder each, the wished one first. Nothing changes
    that the user has set. Raises ResourceError where none fits, and as `loop.train` before a step.
    """
    least: tuple[TrainForecast, RunConfig] | None = None
    for plan in plans:
        config = plan.config()
        check_store(data.store, data.spec, config)
        with explained(config):
            run, measured = _measured(config, data)
        if run is None or measured is None:
            return FittingPlan(plan, 2)
        wanted, forecast = reckoner(config, data)
        for way in _ways(measured, _Way(wanted, config.augmentation.crop), plan):
            found = forecast(measured, way.wanted)
            if _fits(found):
                return FittingPlan(_changed(plan, way, found), measured.fewest, run.dataset)
            sized = config.augmentation.model_copy(update={"crop": way.crop})
            least = found, config.model_copy(update={"augmentation": sized})
    assert least is not None, "there is a plan"
    raise ResourceError(
        f"plan: {refusal(*least)}, in the smallest way that was tried "
        f"(student.encoder={least[1].student.encoder}). Close other programs, train on a machine "
        "with more memory, or take a smaller student: --set student.encoder=tu-resnet10t"
    )


def _measured(config: RunConfig, data: TrainingData) -> tuple[ShadowRun | None, Measured | None]:
    """A plan's run in shadow and what its student costs; None where it cannot be foretold."""
    device = choose_device(config.train.device)
    run = shadow_run(config, data, device, autocast_type(config.train.precision, device))
    try:
        return run, None if run is None else run.for_other_settings()
    except CannotForetellError as error:
        not_foretold(error)
        return run, None


def _fits(found: TrainForecast) -> bool:
    return all(
        room is None or _SPARE * needed <= room.free
        for needed, room in zip(found.needed, found.rooms, strict=True)
    )


def _ways(measured: Measured, wished: _Way, plan: TrainingPlan) -> Iterator[_Way]:
    """What may be trained instead, the best first: the whole crop in any parts before others."""
    whole = wished.wanted
    free: Callable[[str], bool] = lambda name: name not in plan.given  # noqa: E731
    workers = dict.fromkeys((whole.workers, 0) if free("train.workers") else (whole.workers,))
    parts = [whole.parts]
    while free("train.accumulate") and whole.crops // (2 * parts[-1]) >= measured.fewest:
        parts.append(2 * parts[-1])
    for crop in _crops(measured, wished.crop, others=free("augmentation.crop")):
        for loaders in workers:
            for number in parts:
                wanted = replace(whole, parts=number, workers=loaders, pixels=prod(crop))
                yield _Way(wanted, crop)


def _crops(measured: Measured, wished: tuple[int, int], *, others: bool) -> list[tuple[int, int]]:
    """The wished crop and, if `others` are allowed, smaller ones that the student takes."""
    if not others:
        return [wished]
    multiple = measured.multiple
    found = []
    for share in _SHARES:
        height, width = (max(int(side * share) // multiple, 1) * multiple for side in wished)
        if min(height, width) >= SMALLEST_CROP:
            found.append((height, width))
    return list(dict.fromkeys(found))


def _changed(plan: TrainingPlan, way: _Way, found: TrainForecast) -> TrainingPlan:
    """The plan with what had to change, and how memory is."""
    gpu = found.on_gpu
    room = found.rooms[gpu]
    needs = f"{gigabytes(found.needed[gpu])} are foretold"
    memory = f"{needs}, {gigabytes(room.free)} are free: {room.bound}" if room else needs
    crops = way.wanted.crops
    parts = Decision(
        "parts of a step",
        f"{way.wanted.parts} of {-(-crops // way.wanted.parts)} crops",
        {"train.accumulate": way.wanted.parts},
        memory,
    )
    height, width = way.crop
    smaller = {
        "augmentation.crop": ([height, width], f"{height} x {width}"),
        "train.workers": (way.wanted.workers, str(way.wanted.workers or "none")),
    }
    return replace(plan, choices=(*(_lowered(each, smaller) for each in plan.choices), parts))


def _lowered(choice: Decision, smaller: dict[str, tuple[object, str]]) -> Decision:
    """The choice with the value that fits, where that is another one."""
    name = next(iter(choice.settings))
    if name not in smaller or choice.settings[name] == smaller[name][0]:
        return choice
    value, said = smaller[name]
    reason = f"{choice.said} would not fit into memory"
    return replace(choice, said=said, settings={**choice.settings, name: value}, reason=reason)
