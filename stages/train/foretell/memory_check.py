"""Compares what a training will take with what the machine can give, before its first step.

Where it does not fit, settings that would are looked for, each by the same forecast.
"""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from zsseg.stages.device import choose_device
from zsseg.stages.errors import ResourceError
from zsseg.stages.machine_memory import (
    Room,
    gigabytes,
    gpu_room,
    memory_room,
    resident_bytes,
)
from zsseg.stages.train.batches.training_data import TrainingData
from zsseg.stages.train.foretell.estimate import Measured, Wanted, memory_parts
from zsseg.stages.train.foretell.measure import (
    CannotForetellError,
    ShadowRun,
    not_foretold,
    shadow_run,
)
from zsseg.stages.train.foretell.offers import offers
from zsseg.stages.train.processes import processes
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.train.student_precision import autocast_type

_WORKER_BYTES = 150_000_000
"""That a loader process has for itself: pages of the training process that it has changed."""
_DECODED_BYTES = 20
"""Per pixel of an image that it decodes."""
_CERTAIN = 50_000
"""Bytes per pixel of a batch's crops that no student here needs: SegFormer-B4 takes 9,000."""
_LOADERS = "loader processes"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainForecast:
    """Memory of a training, as foretold."""

    now: int
    """Bytes that this process has before the student is built, measured."""
    parts: dict[str, int]
    """Bytes that come on top, by what they are for."""
    on_gpu: bool
    """Are all parts but those of the loader processes in a GPU's memory?"""
    rooms: tuple[Room | None, Room | None]
    """What is free for this process: memory of the machine and of its GPU; None: not known."""

    @property
    def needed(self) -> tuple[int, int]:
        """Bytes on top of `now`: in the machine's memory, and in the GPU's."""
        loaders = self.parts[_LOADERS]
        own = sum(self.parts.values()) - loaders
        return (loaders, own) if self.on_gpu else (loaders + own, 0)

    @property
    def peak(self) -> int:
        """The machine's memory, of this process and its loader processes, at most."""
        return self.now + self.needed[0]

    @property
    def fits(self) -> bool:
        """Is there room for it, as far as that is known?"""
        return all(
            room is None or needed <= room.free
            for needed, room in zip(self.needed, self.rooms, strict=True)
        )


def check_memory(config: RunConfig, data: TrainingData) -> TrainForecast | None:
    """Foretell the memory of a training before its student is built; refuse what cannot fit.

    None, where `train.memory_forecast` is off, so little is trained that it surely fits, batch
    normalisation exchanges numbers with other processes, or the student has an operation whose
    memory cannot be foretold. Raises ResourceError, with settings that would fit.
    """
    if config.train.sync_batch_norm and processes()[1] > 1:
        return None
    if config.train.memory_forecast == "off":
        return None
    device = choose_device(config.train.device)
    run = shadow_run(config, data, device, autocast_type(config.train.precision, device))
    if run is None or _surely_fits(run.weights, config, device):
        return None
    try:
        found, fitting = foretell(run, config, data)
    except CannotForetellError as error:
        not_foretold(error)
        return None
    if found.fits:
        return found
    text = refusal(found, config)
    if config.train.memory_forecast == "warn":
        logger.warning("%s. It is tried, as train.memory_forecast=warn asks", text)
        return found
    raise ResourceError(
        f"{text}. {advice(fitting)}. To try it all the same: --set train.memory_forecast=warn"
    )


def advice(fitting: Sequence[str]) -> str:
    """What to do, from the settings that would fit."""
    if fitting:
        return f"Use {'; or '.join(fitting)}"
    return "Nothing smaller of this student fits: use another, or a machine with more memory"


def foretell(
    run: ShadowRun, config: RunConfig, data: TrainingData
) -> tuple[TrainForecast, list[str]]:
    """The forecast of a training, and settings that would fit where it does not.

    Raises CannotForetellError.
    """
    device = choose_device(config.train.device)
    wanted, forecast = reckoner(config, data)

    def with_encoder(encoder: str) -> Measured | None:
        student = config.student.model_copy(update={"encoder": encoder, "weights": "none"})
        other = config.model_copy(update={"student": student})
        built = shadow_run(other, data, device, autocast_type(config.train.precision, device))
        return None if built is None else built.for_other_settings()

    found = forecast(run.as_configured(), wanted)
    if found.fits:
        return found, []
    fitting = offers(
        run.for_other_settings(),
        wanted,
        config,
        fits=lambda measured, wanted: forecast(measured, wanted).fits,
        with_encoder=with_encoder,
    )
    return found, list(fitting)


def reckoner(
    config: RunConfig, data: TrainingData
) -> tuple[Wanted, Callable[[Measured, Wanted], TrainForecast]]:
    """What a run wants as it is set, and the forecast of this or another wish, as things are now.

    The forecast takes what a crop and the student cost.
    """
    device = choose_device(config.train.device)
    now, rooms = resident_bytes(), _rooms(device)

    def forecast(measured: Measured, wanted: Wanted) -> TrainForecast:
        return TrainForecast(now, memory_parts(measured, wanted), device.type == "cuda", rooms)

    return _wanted(data, config), forecast


def free_memory(device: torch.device) -> Room | None:
    """What a training has for itself where its student is; None: not known."""
    machine, gpu = _rooms(device)
    return gpu if device.type == "cuda" else machine


def _surely_fits(weights: int, config: RunConfig, device: torch.device) -> bool:
    """Is so little trained that there is room for many times as much?"""
    height, width = config.augmentation.crop
    most = 8 * weights + config.train.batch * height * width * _CERTAIN
    most += config.train.workers * 2 * _WORKER_BYTES
    return all(room is None or most < room.free for room in _rooms(device))


def _rooms(device: torch.device) -> tuple[Room | None, Room | None]:
    """The room of each of this machine's processes, and that of its GPU."""
    machine, here = memory_room(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if machine is not None and here > 1:
        bound = f"{machine.bound}, shared by {here} processes"
        machine = Room(machine.free // here, bound)
    return machine, gpu_room(device) if device.type == "cuda" else None


def _wanted(data: TrainingData, config: RunConfig) -> Wanted:
    height, width = config.augmentation.crop
    sides_N2 = data.store.read_all("size").astype(np.int64)
    return Wanted(
        crops=config.train.batch // processes()[1],
        parts=config.train.accumulate,
        pixels=height * width,
        workers=config.train.workers,
        worker_bytes=_WORKER_BYTES + _DECODED_BYTES * int(sides_N2.prod(1).max()),
    )


def refusal(found: TrainForecast, config: RunConfig) -> str:
    """What does not fit."""
    gpu = found.rooms[0] is None or found.needed[0] <= found.rooms[0].free
    needed, room = found.needed[gpu], found.rooms[gpu]
    assert room is not None
    (height, width), crops = config.augmentation.crop, config.train.batch
    return (
        f"out of memory, as foretold before the first step: {gigabytes(needed)} more are needed "
        f"({gigabytes(found.parts['crops'])} of it for a step of {crops} crops of {height} x "
        f"{width}), and {gigabytes(room.free)} are free ({room.bound})"
    )
