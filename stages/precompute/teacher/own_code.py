"""A teacher of the user's own: `python:FILE.py:NAME`, found, run and looked at.

This runs the user's code, and is called for what a person typed on the command line alone: what a
store, a run or a configuration names never comes here (`teacher_files.resolve_teacher`).
Legend: n images or prompts, H W pixels, D width, h w token grid.
"""

import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from zsseg.stages.errors import ResourceError, UserError
from zsseg.stages.file_bytes import TEXT_BYTES, read_file
from zsseg.stages.precompute.teacher.teacher_parts import FoundParts

PREFIX = "python:"
LARGEST_WIDTH = 65536
"""Numbers of a token at most."""
_WANTED = "a class or function that takes no arguments and gives the teacher"


class OwnObject(Protocol):
    """What the user's object has. Arrays are NumPy's or torch tensors, of any float type.

    Optional, besides: `fill_colour`, an RGB value (0..255) for what is outside the mask of a crop
    (default: the mean of ImageNet, 124, 116, 104); `templates = False`, where `text` takes class
    names as they are and not prompts made of them.
    """

    fingerprint: str
    """Says which weights these are: another text for other weights, and nothing else."""
    width: int
    """D."""
    image_size: tuple[int, int]
    """Height and width in pixels that `cls` takes images at."""
    stride: int
    """Pixels of each side that one dense token stands for. Images for `dense` have sides that are
    multiples of it, if `dense.size` has."""

    def cls(self, images: NDArray[np.uint8]) -> NDArray[np.floating]:
        """(n, D) one embedding of each image or crop (n, H, W, 3), RGB, at `image_size`."""

    def dense(self, images: NDArray[np.uint8]) -> NDArray[np.floating]:
        """(n, D, H / stride, W / stride) embeddings of the places of images (n, H, W, 3), RGB."""

    def text(self, prompts: list[str]) -> NDArray[np.floating]:
        """(n, D) embeddings of texts, in the space of those of images."""


def find_own(spec: str) -> FoundParts:
    """Run the file, build the object and see that it has what it needs.

    Raises ResourceError for a file that is not there, UserError for code that fails and for an
    object that lacks something, all of it named in one message.
    """
    file, name, source = _source(spec)
    built = build_own(spec, _hash(source))
    return FoundParts(
        place=file,
        name=f"{file.stem}-{name}",
        width=built.width,
        description_hash=xxhash.xxh3_128_hexdigest(f"{_hash(source)} {name}".encode()),
        weights_hash=xxhash.xxh3_128_hexdigest(built.fingerprint.encode()),
    )


@lru_cache(maxsize=1)
def build_own(spec: str, source_hash: str) -> OwnObject:
    """The user's object, built once in a process. Raises as `find_own`, and for a changed file."""
    file, name, source = _source(spec)
    if _hash(source) != source_hash:
        raise UserError(f"{spec}: {file} changed while it was read. Run the command again")
    module = _module(spec, file, source)
    made = getattr(module, name, None)
    if not callable(made):
        there = [key for key, value in vars(module).items() if _is_own(value, module)]
        raise UserError(
            f"{spec}: {file} has no {name} that can be called. Name {_WANTED}"
            + (f"; there are: {', '.join(there)}" if there else "")
        )
    try:
        built: OwnObject = made()
    except (UserError, MemoryError):
        raise
    except (Exception, SystemExit) as error:  # whatever the user's code meets
        raise UserError(
            f"{spec}: {name}() of {file} raised {described(error)}. Give {_WANTED}"
        ) from error
    if faults := list(_faults(built)):
        raise UserError(
            f"{spec}: what {name}() of {file} gives is no teacher: {'; '.join(faults)}. "
            "Give it what it lacks: docs/teachers.md lists what a teacher has"
        )
    return built


def source_hash(spec: str) -> str:
    """The hash of the file's bytes. Raises as `find_own`."""
    return _hash(_source(spec)[2])


def described(error: BaseException) -> str:
    """An error of the user's code: its class, its text, and the line where it was raised."""
    trace, line = error.__traceback__, ""
    while trace is not None:
        line = f" (line {trace.tb_lineno} of {trace.tb_frame.f_code.co_filename})"
        trace = trace.tb_next
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300].rstrip('.')}{line}"


def _source(spec: str) -> tuple[Path, str, bytes]:
    text, colon, name = spec.removeprefix(PREFIX).rpartition(":")
    if not colon or not name.isidentifier() or not text.endswith(".py"):
        raise UserError(f"{spec}: write python:FILE.py:NAME, where NAME in the file is {_WANTED}")
    file = Path(text)
    try:
        return file, name, read_file(file, at_most=TEXT_BYTES)
    except OSError as error:
        raise ResourceError(
            f"{spec}: {file} cannot be read: {error.strerror or error}. Correct the path"
        ) from error


def _hash(source: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(source)


def _module(spec: str, file: Path, source: bytes) -> ModuleType:
    """The file, run. Just these bytes: Python's own import might take an older compiled file."""
    module = ModuleType(f"zsseg_teacher_{_hash(source)}")
    module.__file__ = str(file.resolve())
    sys.modules[module.__name__] = module  # dataclasses and pickle look there
    try:
        exec(compile(source, module.__file__, "exec"), module.__dict__)
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's code meets
        advice = "Mend it"
        if isinstance(error, ModuleNotFoundError):
            advice = "Install what it imports; of files beside it nothing is found"
        raise UserError(f"{spec}: running {file} raised {described(error)}. {advice}") from error
    return module


def _is_own(value: object, module: ModuleType) -> bool:
    return callable(value) and getattr(value, "__module__", None) == module.__name__


def _faults(built: Any) -> Iterator[str]:
    """What an object lacks, each in a few words."""
    checks: dict[str, tuple[Callable[[Any], bool], str]] = {
        "fingerprint": (
            lambda value: isinstance(value, str) and bool(value.strip()),
            "a text that says which weights these are",
        ),
        "width": (
            lambda value: _whole(value) and value <= LARGEST_WIDTH,
            f"the numbers of an embedding, 1 to {LARGEST_WIDTH}",
        ),
        "image_size": (_is_pair, "height and width in pixels, as (224, 224)"),
        "stride": (_whole, "the pixels of each side of a dense token, as 16"),
        **dict.fromkeys(("cls", "dense", "text"), (callable, "a method")),
    }
    for name, (fits, wanted) in checks.items():
        if not hasattr(built, name):
            yield f"it has no {name} ({wanted})"
        elif not fits(getattr(built, name)):
            yield f"its {name} is {getattr(built, name)!r:.60}, not {wanted}"
    colour = getattr(built, "fill_colour", (0, 0, 0))
    if not (isinstance(colour, tuple | list) and len(colour) == 3 and all(map(_is_byte, colour))):
        yield f"its fill_colour is {colour!r:.60}, not three numbers from 0 to 255"


def _whole(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(map(_whole, value))


def _is_byte(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 255
