"""The weights of a teacher read from a file: a dict of tensors, however its trainer wrapped it."""

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from zsseg.stages.errors import ResourceError, UserError

Weights = dict[str, Tensor]

_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "ema", "model_ema", "net")
"""Under these keys trainers put the weights beside optimizer, epoch and settings."""
_PREFIXES = ("module.", "_orig_mod.", "model.", "clip.", "clip_model.")
"""What DistributedDataParallel, torch.compile and modules around the model put before names."""
_ADVICE = (
    "Save the weights alone, with safetensors.torch.save_file(model.state_dict(), FILE), and give "
    "that file"
)


def read_weights(file: Path, spec: str) -> Weights:
    """The tensors of a file by their names in the model: on the CPU, without a trainer's wrapping.

    Nothing in the file runs. Raises UserError for a file that is damaged, holds anything but
    tensors and plain values, or has no weights in it; ResourceError when it cannot be read.
    """
    try:
        if file.suffix == ".safetensors":
            content: object = load_file(file)
        else:
            # A Namespace, in which many trainers keep their arguments, holds values only.
            with torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ResourceError(
            f"{spec}: cannot read {file}: {error.strerror or error}. Check the file and its disk"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # whatever the parsers of damaged bytes meet
        raise UserError(f"{spec}: cannot load {file}: {_reason(error)}. {_ADVICE}") from error
    return _without_prefixes(_unwrapped(content, file, spec))


def _reason(error: Exception) -> str:
    """Why torch or safetensors refuses a file, in one line and without their advice."""
    text = " ".join(str(error).split())
    if "TorchScript" in text:
        return "it is a TorchScript archive, a program with weights in it"
    for start in ("Unsupported global: GLOBAL ", "Unsupported class "):
        if start in text:
            named = text.partition(start)[2].split(" ")[0]
            return f"it holds objects of Python ({named}) beside the weights, which may be code"
    if isinstance(error, pickle.UnpicklingError):
        return "it holds objects of Python beside the weights, or is no file of torch.save"
    return f"it is cut short or damaged ({text[:120]})"


def _unwrapped(content: object, file: Path, spec: str) -> Weights:
    """The one dict of tensors in what a trainer saved."""
    for _ in range(4):  # a trainer's dict in another's
        if not isinstance(content, Mapping):
            break
        inner = next((content[key] for key in _WRAPPERS if _holds_tensors(content.get(key))), None)
        if inner is None:
            tensors = {str(key): value for key, value in content.items() if _is_weight(value)}
            if tensors:
                return tensors
            break
        content = inner
    keys = ", ".join(map(str, list(content)[:8])) if isinstance(content, Mapping) else "no dict"
    raise UserError(f"{spec}: {file} has no weights that zsseg finds ({keys}). {_ADVICE}")


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(
        _is_weight(each) or _holds_tensors(each) for each in value.values()
    )


def _is_weight(value: Any) -> bool:
    return isinstance(value, Tensor)


def _without_prefixes(weights: Weights) -> Weights:
    """The weights without what all their names begin with."""
    while prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in weights)), ""):
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights
