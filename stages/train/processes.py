"""Several processes that train one student: their numbers, their exchanges, their common end.

`torchrun` and `accelerate launch` start them, with RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
MASTER_PORT in the environment. Process 0 alone writes and prints.

Before every exchange of numbers the processes compare their status (`agree`). So an error in one of
them ends the others at a known place, and none waits for ever.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from enum import IntEnum
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from zsseg.stages.errors import ResourceError, UserError
from zsseg.stages.printable import first_line

_TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others, e.g. while process 0 writes a large checkpoint."""
_BUCKET_BYTES = 2**25
"""Bytes that are summed in one operation."""


class Status(IntEnum):
    """The status of a process; of several processes the worst counts."""

    FINE = 0
    STOP = 1
    """A signal came; the run ends after this step."""
    NO_MEMORY = 2
    """The step did not fit into memory and is repeated in smaller parts."""
    FAILED = 3


class NoMemoryElsewhere(Exception):
    """Another process had too little memory for this step."""


_alone = False


@contextmanager
def alone() -> Iterator[None]:
    """Within, this process computes as if there were no others: nothing is exchanged."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def processes() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) outside torch.distributed."""
    if _alone:
        return 0, 1
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def launched() -> tuple[int, int]:
    """As `processes`, from the launcher's environment, before torch.distributed is initialised."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    return (int(os.environ.get("RANK", "0")), count) if count > 1 else (0, 1)


def local_number() -> int:
    """This process's number among those of its machine: the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextmanager
def joined_processes() -> Iterator[None]:
    """Connect the launched processes, and disconnect them at the end; a single one is left alone.

    Tensors on GPUs go through NCCL, all others through gloo. An exception in one process ends all:
    it is raised there, and SystemExit(1) without a message in the others. Raises ResourceError when
    a process is lost, and UserError when the launcher's environment is incomplete.
    """
    number, count = launched()
    if count == 1 or dist.is_initialized():  # alone, or connected already
        yield
        return
    if torch.cuda.is_available():
        if local_number() >= torch.cuda.device_count():
            raise ResourceError(
                f"process {local_number()} of this machine has no GPU of its own: it has "
                f"{torch.cuda.device_count()}. Start as many processes as there are GPUs"
            )
        torch.cuda.set_device(local_number())
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend, rank=number, world_size=count, timeout=_TIMEOUT)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"WORLD_SIZE is {count}, but its processes do not meet ({error}). Start them with "
            "`torchrun --nproc-per-node N` or `accelerate launch`, or unset WORLD_SIZE"
        ) from error
    try:
        yield
        agree()
    except _FailedElsewhere:
        raise
    except BaseException as error:
        if _is_lost_connection(error):
            _lost(number, error)
        with suppress(RuntimeError):  # the others may be gone too
            agree(Status.FAILED)
        raise
    finally:
        dist.destroy_process_group()


class _FailedElsewhere(SystemExit):
    """Another process failed, and prints why."""


def agree(status: Status = Status.FINE) -> Status:
    """The worst status of all processes; all of them have to call it at the same points.

    Raises SystemExit(1) when another process failed (of several, all but the first), and
    NoMemoryElsewhere when one that is not this one had too little memory.
    """
    number, count = processes()
    if count == 1:
        return status
    # Of equal statuses that of the first process is the largest number.
    worst = torch.tensor(int(status) * count + count - 1 - number)
    dist.all_reduce(worst, dist.ReduceOp.MAX)
    found, last = divmod(int(worst), count)
    if found == Status.FAILED and last != count - 1 - number:
        raise _FailedElsewhere(1)
    if found == Status.NO_MEMORY and status != Status.NO_MEMORY:
        raise NoMemoryElsewhere
    return Status(found)


@torch.no_grad()
def gathered(values_B: Tensor) -> Tensor:
    """The values of all processes, those of process 0 first; all processes have equally many."""
    _, count = processes()
    if count == 1:
        return values_B
    agree()
    parts = [torch.empty_like(values_B) for _ in range(count)]
    dist.all_gather(parts, values_B.contiguous())
    return torch.cat(parts)


@torch.no_grad()
def summed(values: Tensor) -> Tensor:
    """The sum over all processes."""
    if processes()[1] == 1:
        return values
    agree()
    total = values.clone()
    dist.all_reduce(total)
    return total


@torch.no_grad()
def sum_in_place(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over all processes, which have tensors of the same shapes."""
    if processes()[1] > 1:
        agree()
        for bucket in _buckets(tensors):
            flat = torch.cat([each.flatten() for each in bucket])
            dist.all_reduce(flat)
            _put(flat, bucket)


@torch.no_grad()
def copy_from_first(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by that of process 0."""
    if processes()[1] > 1:
        agree()
        for bucket in _buckets(tensors):
            flat = torch.cat([each.flatten() for each in bucket])
            dist.broadcast(flat, src=0)
            _put(flat, bucket)


def value_from_first(value: Any) -> Any:
    """The value of process 0, in every process; plain values only."""
    if processes()[1] == 1:
        return value
    agree()
    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in order, in runs of one type and about _BUCKET_BYTES bytes."""
    bucket: list[Tensor] = []
    size = 0
    for each in tensors:
        if bucket and (each.dtype != bucket[0].dtype or size + each.nbytes > _BUCKET_BYTES):
            yield bucket
            bucket, size = [], 0
        bucket.append(each)
        size += each.nbytes
    if bucket:
        yield bucket


def _put(flat: Tensor, bucket: Sequence[Tensor]) -> None:
    for each, new in zip(bucket, flat.split([each.numel() for each in bucket]), strict=True):
        each.copy_(new.view(each.shape))


def _is_lost_connection(error: BaseException) -> bool:
    # gloo raises a plain RuntimeError for a lost process.
    plain = type(error) is RuntimeError and ("gloo" in str(error) or "Connection" in str(error))
    return plain or isinstance(error, dist.DistError)


def _lost(number: int, error: BaseException) -> NoReturn:
    """Report a lost process once: in process 0."""
    if number:
        raise SystemExit(1) from error
    raise ResourceError(
        f"another of the {processes()[1]} processes is gone ({first_line(error)}). If it "
        "said nothing, it was killed: out of memory, or by the machine's scheduler. Start all of "
        "them again; a training goes on with --resume"
    ) from error
