"""Makes the batches of a run in their order, in worker processes.

Step s with batches of B crops shows positions s B to s B + B - 1. Several training processes divide
them among each other, so what a step shows depends neither on their number nor on that of workers.
"""

import signal
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch.utils.data import DataLoader, Dataset

from zsseg.stages.errors import UserError
from zsseg.stages.train.batches.batch import Batch
from zsseg.stages.train.batches.changed_images import check_unchanged, doubtful_rows
from zsseg.stages.train.batches.crops import CropDataset
from zsseg.stages.train.batches.packing import Packed, packed, unpacked
from zsseg.stages.train.batches.photometric import one_opencv_thread
from zsseg.stages.train.batches.training_data import TrainingData
from zsseg.stages.train.processes import processes
from zsseg.stages.train.run_config import RunConfig


class Steps(Dataset[Packed | UserError]):
    """A process's batches of a run by step; pickles, for workers that are spawned.

    An error is an item: torch would raise it again with the worker's traceback as its message.
    """

    def __init__(self, crops: CropDataset, batch: int, *, number: int, count: int) -> None:
        """`batch` crops per step for `count` processes, of which this is `number`."""
        self._crops, self._batch = crops, batch
        self._first, self._images = number * batch // count, batch // count

    def __getitem__(self, step: int) -> Packed | UserError:
        start = step * self._batch
        own = range(start + self._first, start + self._first + self._images)
        # As many as the images of all processes need, so that gathered tensors have one shape.
        slots = self._crops.slots(range(start, start + self._batch))
        try:
            cached = [self._crops.cached(position) for position in own]
            crops = map(self._crops.crop, own, cached)
            return packed([less_empty_slots(crop, slots) for crop in crops])
        except UserError as error:
            return error


def less_empty_slots(batch: Batch, slots: int) -> Batch:
    """The batch with only the first `slots` slots for masks."""
    if batch.local_id_BK is None or batch.local_BKD is None or slots == batch.local_id_BK.shape[1]:
        return batch
    return replace(
        batch, local_BKD=batch.local_BKD[:, :slots], local_id_BK=batch.local_id_BK[:, :slots]
    )


def _start_worker(_: int) -> None:
    # Ctrl-C, and SIGTERM of a job scheduler, reach the whole process group; the training process
    # decides when the workers end.
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, signal.SIG_IGN)
    # torch limits itself to one thread in a worker; others do not, and BLAS's threads spin while
    # they wait: dense tokens cost twice the processor time.
    one_opencv_thread()
    threadpool_limits(1)


def make_loader(
    data: TrainingData, config: RunConfig, *, start_step: int = 0
) -> Generator[Batch, None, None]:
    """This process's batches of steps `start_step` .. steps - 1, whatever the number of workers.

    Raises DatasetError at once when the data set is not the store's and CacheError when files have
    changed since; while iterating DatasetError when a file can no longer be read, and CacheError
    when the store cannot. A killed worker is torch's
    RuntimeError (`resource_errors.explained`).
    """
    number, count = processes()
    crops = CropDataset(data, config)
    samples = crops.used_samples()
    crops.unchecked |= (
        check_unchanged(data.store, data.spec, samples)
        if number == 0
        else set(doubtful_rows(data.store, samples))  # one hashes, for all
    )
    return _batches(
        Steps(crops, config.train.batch, number=number, count=count), config, start_step
    )


def _batches(steps: Steps, config: RunConfig, start_step: int) -> Generator[Batch, None, None]:
    loader: DataLoader[Packed | UserError] = DataLoader(
        steps,
        batch_size=None,
        sampler=range(start_step, config.train.steps),
        num_workers=config.train.workers,
        worker_init_fn=_start_worker,
        pin_memory=torch.cuda.is_available() and config.train.device != "cpu",
        # Its own generator: the loader's draw must not shift that of the training.
        generator=torch.Generator(),
    )
    items: Any = iter(loader)
    try:
        for item in items:
            if isinstance(item, UserError):
                raise item
            yield unpacked(item)
    finally:
        # torch ends its workers when the iterator is freed, and an error's traceback keeps it. They
        # ignore SIGTERM, so Python would wait for them at its end for ever.
        if config.train.workers:
            items._shutdown_workers()
