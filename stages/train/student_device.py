"""Where a student runs, and in which precision."""

from typing import Literal

import torch

from zsseg.stages.errors import ResourceError


def choose_device(device: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device asked for; auto: the GPU where one is usable. Raises ResourceError."""
    usable = torch.cuda.is_available()
    if device == "cuda" and not usable:
        raise ResourceError(
            "device cuda: torch finds no usable GPU (is the driver installed, and torch built for "
            "CUDA?). Use device cpu or auto to run on the CPU"
        )
    return torch.device("cuda" if usable and device != "cpu" else "cpu")


def autocast_type(
    precision: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device
) -> torch.dtype:
    """The number format of the student's layers; auto: see TrainConfig."""
    if precision == "auto":
        if device.type == "cpu":
            return torch.float32
        # Emulated bf16 runs, at a fraction of the speed of fp16.
        real = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if real else torch.float16
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
