"""Maps that another system wrote, `tokens:FOLDER`: found, and read as data alone.

    FOLDER/teacher.json     {"name": "radio-siglip2", "fingerprint": "...", "width": 1152,
                             "grid": [32, 64]}
    FOLDER/text.npz         names (C,) texts; text (C, D) floats
    FOLDER/images/ID.npz    of each image: dense (D, h, w) floats; cls (D,) floats, if there is one

Legend: C names, D width, h w token grid.
"""

import io
import json
import math
import zipfile
from collections.abc import Callable, Iterable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from zsseg.stages.cache.format.recipe import fingerprint
from zsseg.stages.errors import ResourceError, UserError
from zsseg.stages.file_bytes import again, read_file, read_text_file
from zsseg.stages.precompute.teacher.teacher_parts import FoundParts
from zsseg.stages.printable import counted
from zsseg.stages.validation_errors import error_lines

PREFIX = "tokens:"
DESCRIPTION, TEXT = "teacher.json", "text.npz"
LARGEST_SIDE = 1024
"""Rows, and columns, of a map at most."""
_LARGEST_FILE = 256 << 20
_LARGEST_HEADER = 10_000
_SHOWN = 5  # images or names that a message lists


class TokenDescription(BaseModel):
    """`teacher.json`: what the maps are."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str = Field(min_length=1, max_length=200)
    """What the system is called: names the stores."""
    fingerprint: str = Field(min_length=1, max_length=10_000)
    """Another text whenever the maps are other ones."""
    width: int = Field(ge=1, le=65536)
    """D."""
    grid: tuple[PositiveInt, PositiveInt]
    """(h, w) that a store keeps; maps of other grids are brought to it."""


class TokenFiles:
    """A folder of maps; what is in it is read when it is asked for."""

    def __init__(self, spec: str) -> None:
        self.spec, self.folder = spec, Path(spec.removeprefix(PREFIX))
        if not self.folder.is_dir():
            raise ResourceError(f"{spec}: there is no folder {self.folder}. Correct the path")
        self.description = self._read_description()

    def _read_description(self) -> TokenDescription:
        file = self.folder / DESCRIPTION
        text = read_text_file(file, error=ResourceError)
        try:
            found = TokenDescription.model_validate_json(text)
        except ValidationError as error:
            lines = error_lines(TokenDescription, error)
            raise UserError(
                f"{self.spec}: {file} does not say what the maps are; correct:",
                *map("  {}".format, lines),
            ) from error
        if max(found.grid) > LARGEST_SIDE:
            raise UserError(
                f"{self.spec}: {file}: grid {list(found.grid)} has a side above {LARGEST_SIDE}. "
                "Give the grid that a store is to keep"
            )
        return found

    @cached_property
    def embeddings(self) -> dict[str, NDArray[np.float32]]:
        """Embedding (D,) by name. Raises UserError for what is not such a file."""
        file, width = self.folder / TEXT, self.description.width

        def fits(name: str, shape: tuple[int, ...], kind: str) -> bool:
            if name == "names":
                return kind == "U" and len(shape) == 1
            return kind == "f" and len(shape) == 2 and shape[1] == width

        arrays = self._arrays(file, {"names": "(C,) texts", "text": f"(C, {width}) floats"}, fits)
        names, text_CD = [str(name) for name in arrays["names"]], arrays["text"]
        if len(names) != len(text_CD) or len(set(names)) != len(names):
            raise UserError(
                f"{self.spec}: {file} has {len(set(names))} different names and {len(text_CD)} "
                "embeddings. Write one embedding for each name, and each name once"
            )
        values = text_CD.astype(np.float32)
        good_C = np.isfinite(values).all(1) & values.any(1)
        if not good_C.all():
            bad = names[int(np.flatnonzero(~good_C)[0])]
            raise UserError(
                f"{self.spec}: {file}: the embedding of '{bad}' has NaN or infinity, or only "
                "zeros. Write it again"
            )
        return dict(zip(names, values, strict=True))

    def file_of(self, image: str) -> Path:
        """The file of an image's map."""
        return self.folder / "images" / f"{image}.npz"

    def tokens(self, image: str) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """An image's map (D, h, w), and its CLS token (D,) where it has one.

        Raises ResourceError for an image without a file, UserError for what is not such a file.
        """
        file, width = self.file_of(image), self.description.width

        def fits(name: str, shape: tuple[int, ...], kind: str) -> bool:
            if name == "cls":
                return kind == "f" and shape == (width,)
            sides = shape[1:]
            fit = len(shape) == 3 and shape[0] == width and 0 < min(sides) <= max(sides)
            return kind == "f" and fit and max(sides) <= LARGEST_SIDE

        wanted = {"dense": f"({width}, h, w) floats", "cls": f"({width},) floats"}
        arrays = self._arrays(file, wanted, fits, optional=("cls",))
        for name, values in arrays.items():
            if not np.isfinite(values).all():
                raise UserError(
                    f"{self.spec}: {file}: NaN or infinity in {name}. Write this image again"
                )
        dense_Dhw, cls_D = arrays["dense"].astype(np.float32), arrays.get("cls")
        return dense_Dhw, None if cls_D is None else cls_D.astype(np.float32)

    def require(self, images: Iterable[str]) -> None:
        """Raise ResourceError where images have no map, before anything is computed."""
        if lacking := [image for image in images if not again(self.file_of(image).is_file)]:
            shown = ", ".join(lacking[:_SHOWN]) + (", ..." if len(lacking) > _SHOWN else "")
            raise ResourceError(
                f"{self.spec}: no map of {counted(len(lacking), 'image')} ({shown}): there is no "
                f"{self.file_of(lacking[0])}. Write a file for each, named by the image's id in "
                "the data set"
            )

    def images(self) -> list[str]:
        """The ids of all images with a map, sorted."""
        folder = self.folder / "images"
        found = (file.relative_to(folder).as_posix() for file in folder.rglob("*.npz"))
        return sorted(name.removesuffix(".npz") for name in found if "/." not in f"/{name}")

    def _arrays(
        self,
        file: Path,
        wanted: dict[str, str],
        fits: Callable[[str, tuple[int, ...], str], bool],
        optional: tuple[str, ...] = (),
    ) -> dict[str, NDArray[Any]]:
        """The wanted arrays of a file, whose shapes are checked before their data is read."""
        try:
            content = read_file(file, at_most=_LARGEST_FILE)
        except OSError as error:
            raise ResourceError(
                f"{self.spec}: {file} cannot be read: {error.strerror or error}. Write it"
            ) from error
        found: dict[str, NDArray[Any]] = {}
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                members = set(archive.namelist())
                for name, form in wanted.items():
                    if f"{name}.npy" in members:
                        found[name] = self._array(archive, file, name, form, fits)
                    elif name not in optional:
                        raise UserError(
                            f"{self.spec}: {file} has no array '{name}' {form}. Write it with "
                            f"numpy.savez(file, {name}=...)"
                        )
        except (UserError, MemoryError):
            raise
        except Exception as error:  # whatever the parsers of damaged bytes meet
            raise UserError(
                f"{self.spec}: {file} is no intact .npz file ({' '.join(str(error).split())}). "
                "Write it again, with numpy.savez"
            ) from error
        return found

    def _array(
        self,
        archive: zipfile.ZipFile,
        file: Path,
        name: str,
        form: str,
        fits: Callable[[str, tuple[int, ...], str], bool],
    ) -> NDArray[Any]:
        with archive.open(f"{name}.npy") as stream:
            version = np.lib.format.read_magic(stream)
            read_header = np.lib.format.read_array_header_2_0
            if version == (1, 0):
                read_header = np.lib.format.read_array_header_1_0
            shape, _, dtype = read_header(stream, max_header_size=_LARGEST_HEADER)
        size = math.prod(shape) * dtype.itemsize
        if not fits(name, shape, dtype.kind) or size > _LARGEST_FILE:
            raise UserError(
                f"{self.spec}: {file}: {name} is {dtype} {shape}, not {form}. Write what "
                f"{DESCRIPTION} says, or correct that"
            )
        with archive.open(f"{name}.npy") as stream:
            values: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
        return values


def find_tokens(spec: str) -> FoundParts:
    """The folder's description, hashed, with its text embeddings.

    The maps themselves are not: the fingerprint that the description declares stands for them.
    Raises ResourceError and UserError as `TokenFiles`.
    """
    files = TokenFiles(spec)
    description = files.description
    _ = files.embeddings  # what is wrong with them is said before anything is computed
    values = json.loads(description.model_dump_json(exclude={"name", "fingerprint"}))
    return FoundParts(
        place=files.folder,
        name=description.name,
        width=description.width,
        description_hash=fingerprint(values),
        weights_hash=xxhash.xxh3_128_hexdigest(description.fingerprint.encode()),
        text_hash=_text_hash(files),
    )


@lru_cache(maxsize=4)
def open_tokens(spec: str, text_hash: str | None) -> TokenFiles:
    """The files of a folder; `text_hash` is that of its text embeddings, which are kept."""
    files = TokenFiles(spec)
    if _text_hash(files) != text_hash:
        raise UserError(f"{spec}: its {TEXT} changed while it was read. Run the command again")
    return files


def _text_hash(files: TokenFiles) -> str:
    """Of names and numbers, whatever bytes numpy writes around them."""
    seen = xxhash.xxh3_128()
    for name, values in sorted(files.embeddings.items()):
        seen.update(json.dumps(name).encode())
        seen.update(values.tobytes())
    return seen.hexdigest()
