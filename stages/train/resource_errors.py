"""Turns torch's errors about memory, loader processes and small batches into errors of ours."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from zsseg.stages.errors import ResourceError, UserError
from zsseg.stages.train.run_config import RunConfig

_NO_MEMORY = ("DefaultCPUAllocator", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")
"""In messages of torch that mean the same as its OutOfMemoryError."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Is it one of torch's errors for too little memory?"""
    return isinstance(error, torch.OutOfMemoryError) or any(
        sign in str(error) for sign in _NO_MEMORY
    )


@contextmanager
def explained(config: RunConfig) -> Iterator[None]:
    """Turn torch's errors about memory, loader processes and batches of one into our own.

    It surrounds a whole loop, because torch raises the error of a dead loader process from a signal
    handler, at any line. Raises ResourceError and UserError.
    """
    batch, (height, width) = config.train.batch, config.augmentation.crop
    try:
        yield
    except RuntimeError as error:
        text = str(error).strip()
        if is_out_of_memory(error):
            raise ResourceError(
                f"out of memory: {text.splitlines()[0]} Not even a single crop fits, so a smaller "
                "train.batch would not help. If another program holds the memory, wait for it and "
                "go on with --resume. Else use --resume --set student.checkpointing=true, or start "
                f"again with a smaller augmentation.crop (now {height} x {width}), a smaller "
                "student or train.precision=bf16"
            ) from error
        if "compiler" in text and config.train.compile:
            raise ResourceError(
                f"train.compile: torch cannot compile the student here ({text.splitlines()[0]}). "
                "Install a C++ compiler (g++), or use --set train.compile=false"
            ) from error
        # Without "(pid" it may be any error that a loader process passed on.
        if "DataLoader worker (pid" not in text and "shared memory" not in text:
            raise
        raise ResourceError(
            f"a loader process was killed ({text.splitlines()[-1]}). Out of memory, or of shared "
            "memory (/dev/shm; docker: --ipc=host): go on from the last checkpoint with --resume "
            f"and --set train.workers=0 (now {config.train.workers}), or start again with a "
            f"smaller train.batch (now {batch})"
        ) from error
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            f"train.batch: {batch} crop of {height} x {width} pixels leaves a batch normalisation "
            f"of student {config.student.architecture} a single value to normalise by. Use "
            "train.batch=2 or more, or a larger augmentation.crop"
        ) from error
