"""Makes a plan: facts, choices, what fits into memory, and the steps that there is time for."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from zsseg.stages.data.held_out_split import held_out_split, labelled_samples
from zsseg.stages.errors import DatasetError
from zsseg.stages.machine_memory import return_freed_memory
from zsseg.stages.printable import counted
from zsseg.stages.train.batches.training_data import TrainingData
from zsseg.stages.train.foretell.dry_run import measured_step
from zsseg.stages.train.plan.choices import (
    choose_batch,
    choose_crop,
    choose_precision,
    choose_validation,
    choose_workers,
)
from zsseg.stages.train.plan.facts import MachineFacts, StoreFacts, machine_facts, store_facts
from zsseg.stages.train.plan.fitting import fitting_plan
from zsseg.stages.train.plan.objectives_for import choose_method
from zsseg.stages.train.plan.planned import Decision, TrainingPlan
from zsseg.stages.train.plan.weights_here import encoder_choices, weights_choice
from zsseg.stages.train.processes import processes, value_from_first

_CPU_MINUTES, _GPU_MINUTES = 10.0, 60.0
_USED = 0.8
"""Of the time: the rest goes to the start, loading, the optimiser and checkpoints."""
_FEWEST, _MOST = 20, 80_000
"""Steps: with fewer nothing is learnt; paper 1 makes 80,000 for COCO-Stuff."""
_VIEWS = 1000
"""Of each image, without `--minutes`: what a student sees more often, it knows by heart."""


def agreed_plan(
    data: TrainingData, given: Mapping[str, Any], *, minutes: float | None
) -> TrainingPlan:
    """The plan of the first of the processes that train together, in all of them.

    `given`: what the user has set, by dotted name; `minutes`: of training. Raises as `make_plan`.
    """
    first = processes()[0] == 0
    plan: TrainingPlan | None = value_from_first(
        make_plan(data, given, minutes=minutes) if first else None
    )
    assert plan is not None
    return plan


def make_plan(
    data: TrainingData, given: Mapping[str, Any], *, minutes: float | None
) -> TrainingPlan:
    """The settings of a training that the user has not set, with a reason for each.

    Raises UserError where the user's settings contradict each other, ResourceError where nothing
    fits into memory, CacheError and DatasetError where there is nothing to learn from.
    """
    store, machine = store_facts(data.store, data.spec), machine_facts(given)
    fitting = fitting_plan(_plans(store, machine, given), data)
    plan = fitting.plan
    if "train.steps" not in given:
        timed = measured_step(plan.config(), data, fitting.dataset, crops=fitting.crops)
        seconds = timed.seconds / machine.processes
        return_freed_memory()
        batch = plan.config().train.batch
        steps = choose_steps(store, machine, seconds=seconds, batch=batch, minutes=minutes)
        plan = replace(plan, choices=(*plan.choices, steps))
    config = plan.config()
    split, images = _validated(data, given, usable=store.images)
    validation = choose_validation(store, config, split=split, images=images)
    return replace(plan, choices=(*plan.choices, _rhythm(config.train.steps), validation))


def _validated(
    data: TrainingData, given: Mapping[str, Any], *, usable: int
) -> tuple[str | None, int]:
    """The split to validate on, and its images with labels; of the store where none is labelled."""
    _, spec, root = data
    if not (spec.seen_ids or given.get("validation.unseen")):
        return None, usable
    if isinstance(name := given.get("validation.split"), str):
        return name, len(labelled_samples(spec, root, name))
    try:
        found = held_out_split(spec, root)
    except DatasetError:  # such as a folder that is not there: the training will say so
        return None, 0
    return (None, 0) if found is None else (found.name, len(found.samples))


def _plans(
    store: StoreFacts, machine: MachineFacts, given: Mapping[str, Any]
) -> Iterator[TrainingPlan]:
    """The plans as wished, one for each encoder."""
    common = (
        choose_method(store, protocol=given.get("protocol", "transductive")),
        choose_crop(store, machine),
        choose_batch(machine),
        choose_workers(machine),
        choose_precision(machine),
    )
    encoder = given.get("student.encoder")
    if not isinstance(encoder, str):
        yield from (TrainingPlan((each, *common), given) for each in encoder_choices(machine))
        return
    weights = None if "student.weights" in given else weights_choice(encoder)
    yield TrainingPlan(common if weights is None else (weights, *common), given)


def choose_steps(
    store: StoreFacts, machine: MachineFacts, *, seconds: float, batch: int, minutes: float | None
) -> Decision:
    """The steps that there is time for, at so many seconds each."""
    default = _CPU_MINUTES if machine.device == "cpu" else _GPU_MINUTES
    allowed = default if minutes is None else minutes
    steps = min(max(int(_USED * allowed * 60 / seconds), _FEWEST), _MOST)
    speed = f"{seconds:.2g} s each, as measured"
    if steps == _FEWEST:
        return _steps(steps, f"the least, though they take {steps * seconds / 60:.1f} min; {speed}")
    if minutes is not None:
        return _steps(steps, f"what {minutes:g} min are enough for; {speed}")
    speed += "; --minutes for another time"
    if steps > (enough := max(_VIEWS * store.images // batch, _FEWEST)):
        return _steps(enough, f"{_VIEWS:,} views of each image; {speed}")
    learns = "a CPU learns the first things in" if machine.device == "cpu" else "a GPU gets far in"
    return _steps(steps, f"{allowed:g} min, which {learns}; {speed}")


def _steps(steps: int, reason: str) -> Decision:
    return Decision("steps", counted(steps, "step"), {"train.steps": steps}, reason)


def _rhythm(steps: int) -> Decision:
    """What happens every so many steps, or after them."""
    return Decision(
        "schedule",
        f"warm-up of {counted(min(1500, steps // 10), 'step')}",
        {
            "train.warmup_steps": min(1500, steps // 10),
            "train.log_every": max(1, min(50, steps // 20)),
            "train.checkpoint_every": max(1, min(4000, steps // 4)),
        },
        "a tenth of the steps, 1,500 at most; a checkpoint each quarter, and every 4,000 steps",
    )
