"""Chooses crop, batch, loading, precision and validation from the facts: one function each, without
side effects."""

from math import ceil, prod

from zsseg.stages.printable import counted
from zsseg.stages.train.plan.facts import MachineFacts, StoreFacts
from zsseg.stages.train.plan.planned import Decision
from zsseg.stages.train.run_config import RunConfig

_CELL = 32
"""Sides of crops are multiples of this: the coarsest stride of encoders, and twice the default
`objectives.dense_stride`."""
_GPU_SIDE, _CPU_SIDE = 512, 384
"""Short side that larger images are brought to: the papers' on a GPU; on a CPU about that of the
images that the recipes for it were measured with."""
_CPU_CROP = 192
_GPU_BATCH, _CPU_BATCH = 16, 4
_VALIDATIONS, _SELDOM = 4, 4000
"""In a run; and steps between two of a long run, as many as between its checkpoints."""
_SHARE = 0.1
"""Of the time of the steps that validations may take."""
_FORWARD = 0.5
"""What an image costs in validation, times what as many pixels cost in a step: no backward pass,
but reading and labelling at full size."""
_FEWEST, _MOST = 4, 100
"""Images of a validation, if there are so many."""


def choose_crop(store: StoreFacts, machine: MachineFacts) -> Decision:
    """The size that images are brought to, and that of crops."""
    height, width = store.size
    on_gpu = machine.device == "cuda"
    most = _GPU_SIDE if on_gpu else _CPU_SIDE
    short = min(height, width)
    side = min(short, most)
    wanted = side if on_gpu else min(_CPU_CROP, side * 3 // 4)
    crop = max(wanted // _CELL * _CELL, _CELL)
    brought = most if short > most else None
    images = f"the median image has {height} x {width} pixels"
    if brought:
        images += f", its short side is brought to {most}"
    why = "paper 1's size, or the whole image" if on_gpu else "a part of it, as a CPU is slow"
    return Decision(
        "crop",
        f"{crop} x {crop}",
        {
            "augmentation.crop": [crop, crop],
            "augmentation.short_side": brought,
            "augmentation.scale": [0.5, 2.0] if on_gpu else [0.75, 2.0],
            "evaluate.short_side": brought,
            "evaluate.mode": "whole",
        },
        f"{images}; {why}",
    )


def choose_batch(machine: MachineFacts) -> Decision:
    """Crops of a step, of all processes together."""
    least, why = (_GPU_BATCH, "paper 1's") if machine.device == "cuda" else (_CPU_BATCH, "on a CPU")
    # Two for each process: batch normalisation needs as many.
    each = max(-(-least // machine.processes), 2)
    crops = each * machine.processes
    if machine.processes > 1:
        why = f"{each} for each of {machine.processes} processes"
    return Decision("batch", f"{crops} crops", {"train.batch": crops}, why)


def choose_workers(machine: MachineFacts) -> Decision:
    """Loader processes, beside the one that trains."""
    workers = min(machine.cores - 1, 8 if machine.device == "cuda" else 2)
    return Decision(
        "workers",
        f"{workers}" if workers else "none",
        {"train.workers": workers},
        f"{machine.cores} processor {'core' if machine.cores == 1 else 'cores'}",
    )


def choose_precision(machine: MachineFacts) -> Decision:
    """The number format of the student's layers."""
    why = {
        "fp32": "a CPU is fastest with it",
        "bf16": "this GPU computes with it, and it cannot overflow",
        "fp16": "this GPU computes with it, and has no bf16",
    }[machine.precision]
    return Decision("precision", machine.precision, {"train.precision": machine.precision}, why)


def choose_validation(
    store: StoreFacts, config: RunConfig, *, split: str | None, images: int
) -> Decision:
    """When the run is scored, and on how many images.

    `split`: the one that is held out, with so many labelled `images`; None: there is none. Where no
    class is seen the images are those of the store.
    """
    if not images:
        never = "no split beside that of training has labels"
        return Decision("validation", "none", {"validation.every": 0}, never)
    steps = config.train.steps
    every = min(ceil(steps / _VALIDATIONS), _SELDOM)
    short = config.evaluate.short_side
    factor = 1.0 if short is None else short / min(store.size)
    pixels = config.train.batch * prod(config.augmentation.crop) / (prod(store.size) * factor**2)
    affordable = int(_SHARE * every * pixels / _FORWARD)
    number = min(max(affordable, _FEWEST), _MOST, images)
    where = f"of '{split}'" if split else "that are trained on, beside the teacher's names"
    return Decision(
        "validation",
        f"every {counted(every, 'step')} on {counted(number, 'image')} {where}",
        {"validation.every": every, "validation.images": number},
        f"{_VALIDATIONS} times, or every {_SELDOM:,} steps, in a tenth of the time at most",
    )
