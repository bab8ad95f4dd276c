"""Reads a file of tensors, of a student's encoder or a teacher; no code in it runs.

A trainer saves objects of its own classes beside the weights. An inert stand-in takes the place of
each, so that the tensors can be had without them.
"""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from zsseg.stages.errors import ResourceError, UserError

ADVICE = (
    "Save the weights alone, with safetensors.torch.save_file(model.state_dict(), FILE), and give "
    "that file"
)


def read_tensor_file(path: Path) -> object:
    """What a file of `torch.save` or safetensors holds, on the CPU.

    Raises UserError for a file that is damaged or none of these, ResourceError when it cannot be
    read.
    """
    named: list[str] = []
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        named = _named_classes(path)
        stand_ins: list[Any] = [(type("StandIn", (_StandIn,), {}), name) for name in named]
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ResourceError(
            f"{path}: cannot be read: {error.strerror or error}. Check the file and its disk"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # whatever the parsers of damaged bytes meet
        raise UserError(
            f"{path}: cannot be read as a weight file: {_reason(error, named)}. {ADVICE}"
        ) from error


def _named_classes(path: Path) -> list[str]:
    """The classes and functions that a file names and torch does not load."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # not a zip archive, or so damaged that torch's parser fails somewhere
        return ["argparse.Namespace"]  # what is most often there, also in old files


class _StandIn:
    """An object of a class of somebody else: made, filled and asked nothing."""

    def __new__(cls, *_: object, **__: object) -> "_StandIn":
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def _reason(error: Exception, named: list[str]) -> str:
    """Why torch or safetensors refuses a file, in one line and without their advice."""
    text = " ".join(str(error).split())
    if "TorchScript" in text:
        return "it is a TorchScript archive, a program with weights in it"
    if "legacy .tar" in text:
        return "it is a tar archive"
    for start in ("Unsupported global: GLOBAL ", "Unsupported class ", "unsupported GLOBAL "):
        if start in text:
            first = text.partition(start)[2].split(" ")[0]
            return f"it holds objects of Python ({first}) beside the weights, which may be code"
    if isinstance(error, UnpicklingError) and named and named != ["argparse.Namespace"]:
        listed = f"{', '.join(named[:4])}{', ...' * (len(named) > 4)}"
        return f"it holds objects of Python ({listed}) beside the weights, which may be code"
    if isinstance(error, UnpicklingError):
        return "it holds objects of Python beside the weights, or is no file of torch.save"
    if isinstance(error, SafetensorError):
        return f"it is cut short, damaged or none ({text[:80]})"
    return "it is cut short or damaged"
