"""Chooses the device that a network of either stage runs on."""

from typing import TYPE_CHECKING, Literal

from zsseg.stages.errors import ResourceError, UserError

if TYPE_CHECKING:
    import torch


def choose_device(asked: Literal["auto", "cpu", "cuda"]) -> "torch.device":
    """The device asked for; auto: the GPU where torch can use one.

    Raises ResourceError for a GPU that is not there, UserError for another word. torch is imported
    in here, so that commands which only ask for a device when they run start without it.
    """
    import torch

    if asked not in ("auto", "cpu", "cuda"):
        raise UserError(f"device={asked!r}: there is none of this name. Use auto, cpu or cuda")
    usable = torch.cuda.is_available()
    if asked == "cuda" and not usable:
        raise ResourceError(
            "device=cuda, but torch finds no usable GPU (is the driver installed, and torch built "
            "for CUDA?). Use device=cpu or device=auto to run on the CPU"
        )
    return torch.device("cuda" if usable and asked != "cpu" else "cpu")
