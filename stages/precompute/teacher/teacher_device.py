"""Where the teacher runs, and in which precision."""

from typing import Literal

import torch

from zsseg.stages.errors import ResourceError
from zsseg.stages.precompute.precompute_config import Precision

AUTOCAST: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def choose_device(asked: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device asked for; auto: the GPU where torch can use one.

    Raises ResourceError for a GPU that is not there.
    """
    usable = torch.cuda.is_available()
    if asked == "cuda" and not usable:
        raise ResourceError("device=cuda, but torch finds no usable GPU. Use device=cpu or auto")
    return torch.device("cuda" if usable and asked != "cpu" else "cpu")


def choose_precision(
    asked: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device
) -> Precision:
    """The precision asked for; auto: fp16 on a GPU, fp32 elsewhere.

    Not bf16: tokens are stored with the 10 bits of fp16's mantissa, and bf16 has 7. What fp16 has
    too little range for is computed again (see `forward.py`).
    """
    if asked == "auto":
        return "fp32" if device.type == "cpu" else "fp16"
    return asked
