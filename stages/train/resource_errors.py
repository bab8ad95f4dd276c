"""Turns torch's errors about memory, loader processes and small batches into errors of ours."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from zsseg.stages.errors import ResourceError, UserError
from zsseg.stages.train.processes import processes
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
        raise UserError(_single_value(config)) from error


def _single_value(config: RunConfig) -> str:
    """The message for a batch normalisation that has one value per channel to normalise by.

    That is a forward pass of one crop through a layer that pools it to a single position (DeepLab,
    PSPNet), whatever the size of the crop, or a crop so small that its coarsest map is one.
    """
    batch, parts = config.train.batch, config.train.accumulate
    count = processes()[1]
    per_pass = batch // count // parts
    divided = f" / train.accumulate {parts}" * (parts > 1) + f" / {count} processes" * (count > 1)
    why = (
        f"a forward pass has {per_pass} crop (train.batch {batch}{divided})"
        if per_pass < 2
        else "memory was short, so the step was divided into single crops"
    )
    advice = []
    if parts > 1:
        advice.append("a smaller train.accumulate, such as 1")
    if count > 1:
        advice.append("fewer processes, or train.sync_batch_norm=true on GPUs")
    if per_pass >= 2:
        advice.append("a smaller augmentation.crop, so that two crops fit")
    else:
        advice.append(f"train.batch={2 * parts * count} or more")
    advice.append("a student that does not pool the whole image, such as segformer or fpn")
    return (
        f"student {config.student.architecture}: {why}, which leaves a batch normalisation a "
        f"single value per channel to normalise by. Use {'; or '.join(advice)}"
    )
