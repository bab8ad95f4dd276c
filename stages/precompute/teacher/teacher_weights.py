"""The weights of a teacher read from a file: a dict of tensors, however its trainer wrapped it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from zsseg.stages.errors import UserError
from zsseg.stages.tensor_files import ADVICE, read_tensor_file

Weights = dict[str, Tensor]

_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "ema", "model_ema", "net")
"""Under these keys trainers put the weights beside optimizer, epoch and settings."""
_PREFIXES = ("module.", "_orig_mod.", "model.", "clip.", "clip_model.")
"""What DistributedDataParallel, torch.compile and modules around the model put before names."""


def read_weights(file: Path, spec: str) -> Weights:
    """The tensors of a file by their names in the model: on the CPU, without a trainer's wrapping.

    Nothing in the file runs. Raises UserError for a file that is damaged or has no weights in it;
    ResourceError when it cannot be read.
    """
    try:
        content = read_tensor_file(file)
    except UserError as error:
        raise type(error)(f"{spec}: {error}") from error
    return _without_prefixes(_unwrapped(content, file, spec))


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
    raise UserError(f"{spec}: {file} has no weights that zsseg finds ({keys}). {ADVICE}")


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
