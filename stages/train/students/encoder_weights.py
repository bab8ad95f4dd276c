"""Loads initial weights of a student's encoder from a file or an installed package.

The tensors of one network have many names: with or without a prefix, with a classifier at the end,
from another implementation of the same layers, or with the positions of another image size. All of
these are matched here, and the log says how.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsseg.stages.errors import UserError
from zsseg.stages.train.students.weight_files import counts, weight_file, weight_tables


def load_encoder_weights(
    encoder: nn.Module, source: str, *, whole: Mapping[str, Tensor] | None = None
) -> str:
    """Fill an encoder in place; returns the line about it for the log.

    `source`: `none` (keep the random weights), a file (.safetensors, or what torch.load reads with
    weights_only), `package:DISTRIBUTION`, the one weight file of an installed distribution, or
    `package:MODULE/FILE`, a file beside an importable module.

    Tensors are matched by name, less prefixes such as `module.` or `encoder.`; where the names
    differ but the shapes agree one by one in order, in order. Of several tables in a file, as a
    trainer saves them, the first that fits is taken. A classifier may be left over, more layers of
    the encoder's own kind may not: they are those of a deeper network, unless the `whole` network
    has them that this encoder is the beginning of. The position table of a ViT is resampled to the
    encoder's patch grid.
    Raises ResourceError for a file or package that is not there, and UserError for weights of
    another network.
    """
    if source == "none":
        return "encoder: random initial weights"
    path = weight_file(source)
    wanted = {name: tensor for name, tensor in encoder.state_dict().items() if counts(name)}
    faults = []
    for place, stored in weight_tables(path):
        resampled = _resample_positions(stored, wanted)
        found = _fitting(stored, wanted, whole or {}, path)
        if isinstance(found, str):
            faults.append((len(stored), found))
            continue
        pairs, how = found
        # Encoders of smp have loaders of their own, for its files alone: mit_b0 takes no `strict`.
        chosen = {name: stored[pairs[name]] for name in wanted}
        nn.Module.load_state_dict(encoder, chosen, strict=False)
        left = [name for name in stored if name not in set(pairs.values())]
        rest = f"; left over: {', '.join(left[:4])}{', ...' if left[4:] else ''}" if left else ""
        table = f" ({place})" if place else ""
        return f"encoder: {len(pairs)} tensors of {path.name}{table}, {how}{resampled}{rest}"
    raise UserError(
        f"{path}: not the weights of this encoder: {max(faults)[1]}. Choose the encoder they were "
        "made for, another file, or `--set student.weights=none`"
    )


def _fitting(
    stored: dict[str, Tensor], wanted: dict[str, Tensor], whole: Mapping[str, Tensor], path: Path
) -> tuple[dict[str, str], str] | str:
    """Wanted name -> stored name, and how they were matched; else why they are others."""
    pairs, how = _by_name(stored, wanted), "by name"
    # The tensors of a .safetensors file are sorted by name, so their order says nothing.
    if pairs is None and path.suffix != ".safetensors":
        pairs, how = _in_order(stored, wanted), "IN ORDER: their names differ, their shapes agree"
    if pairs is None:
        return _difference(stored, wanted)
    used = set(pairs.values())
    kinds = {_kind(name) for name in used}
    used |= _of_the_whole(stored, whole)
    deeper = [name for name in stored if name not in used and _kind(name) in kinds]
    if deeper:
        return (
            f"those of another network, a deeper or wider one: {len(deeper)} tensors of its layers "
            f"have no place in the encoder, first {deeper[0]}"
        )
    return pairs, how


def _of_the_whole(stored: dict[str, Tensor], whole: Mapping[str, Tensor]) -> set[str]:
    """The stored tensors that the whole network has: by name and shape, or all of it in order."""
    counted = {name: tensor for name, tensor in whole.items() if counts(name)}
    if counted and (pairs := _in_order(stored, counted)) is not None:
        return set(pairs.values())
    shapes = {_canonical(name): tensor.shape for name, tensor in counted.items()}
    return {name for name, each in stored.items() if shapes.get(_canonical(name)) == each.shape}


def _kind(name: str) -> str:
    """A tensor's name without the numbers of layers: `layer1.0.conv2.weight` is of the kind of
    `layer4.1.conv2.weight`; the number in the layer's own name, `conv2`, stays."""
    *outer, layer, tensor = ["", *_canonical(name).split(".")]
    outer = [re.sub(r"\d+", "#", part) for part in outer]
    return ".".join([*outer, "#" if layer.isdigit() else layer, tensor])


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
