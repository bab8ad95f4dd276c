"""The precision that the teacher runs in."""

from typing import Literal

import torch

from zsseg.stages.precompute.precompute_config import Precision

AUTOCAST: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def choose_precision(
    asked: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device
) -> Precision:
    """The precision asked for; auto: fp16 on a GPU, fp32 elsewhere.

    Not bf16: tokens are stored with the 10 bits of fp16's mantissa, and bf16 has 7. Images that
    exceed the range of fp16 are computed again (see `passes.py`).
    """
    if asked == "auto":
        return "fp32" if device.type == "cpu" else "fp16"
    return asked
