"""The number format that a student's layers run in."""

from typing import Literal

import torch


def autocast_type(
    precision: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device
) -> torch.dtype:
    """The number format asked for; auto: see TrainConfig."""
    if precision == "auto":
        if device.type == "cpu":
            return torch.float32
        # Emulated bf16 runs, at a fraction of the speed of fp16.
        real = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if real else torch.float16
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
