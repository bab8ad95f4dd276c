"""The folder of a student that is handed on: weights, record and text, without its training.

config.json         format, step, and the size and hash of the other files: in the Hub's name for it
model.safetensors   weights and buffers of the student
run.json, text.safetensors    as in a run folder (`run_folder`), without paths of the machine
README.md           the model card, with the picture.jpg it shows

It reads like a run folder wherever a student is asked for something. Nothing of it is run: who
opens one that somebody else made has only data read.
"""

import io
import json
import pickletools
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from zsseg.stages.cache.disk.hashing import hash_file
from zsseg.stages.errors import UserError
from zsseg.stages.file_bytes import TEXT_BYTES, read_file
from zsseg.stages.validation_errors import error_lines

MANIFEST, WEIGHTS = "config.json", "model.safetensors"
LIBRARY = "zsseg"
_FORMAT = 1
_OURS = re.compile(
    r"config\.json|model\.safetensors|run\.json|text\.safetensors|README\.md|picture\.jpg"
    r"|report\.html|evaluation-.*|text_cache"
)
_ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06")
_PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
_LENGTH = 8
"""Bytes of a safetensors file that give the length of its header, which is JSON."""
_AGAIN = "Fetch the folder again from who made it"


class HashedFile(BaseModel):
    """What a file of the folder was when it was made."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    bytes: int
    xxh3_128: str


class PretrainedManifest(BaseModel):
    """What config.json says."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    library_name: str = LIBRARY
    format: int = _FORMAT
    version: str
    """Of zsseg, that wrote it."""
    step: int
    """Training steps that the weights have had."""
    files: dict[str, HashedFile]


def hashed(path: Path) -> HashedFile:
    """The size and hash of a file."""
    return HashedFile(bytes=path.stat().st_size, xxh3_128=hash_file(path))


def is_pretrained(folder: Path) -> bool:
    """Is it a folder of this kind, and no run that can be trained on?"""
    return (folder / MANIFEST).is_file()


def what_else_is_in(folder: Path) -> str | None:
    """What zsseg did not write there: a folder that has it may not be replaced. None: nothing."""
    try:
        library = json.loads((folder / MANIFEST).read_bytes()).get("library_name")
    except (OSError, ValueError, AttributeError):
        library = None
    if library != LIBRARY:
        return MANIFEST
    return next((each.name for each in folder.iterdir() if not _OURS.fullmatch(each.name)), None)


def check_pretrained(folder: Path) -> PretrainedManifest:
    """What a folder says of itself, once its files are those that it names.

    Raises UserError for one of another library or of a later version, for a file that is damaged,
    and, before anything is read, for any file that could carry code.
    """
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        if _carries_code(path):
            raise UserError(
                f"{path}: may hold Python objects (a pickle, or an archive of torch.save). Such a "
                f"file can run code when it is loaded, so nothing of {folder} is read. Delete it, "
                "if the folder needs it not, or ask for a folder with safetensors only"
            )
    manifest = _manifest(folder / MANIFEST)
    for name, wanted in manifest.files.items():
        path = folder / name
        if Path(name).name != name or not path.is_file() or hashed(path) != wanted:
            raise UserError(f"{path}: missing, or not what was written. {_AGAIN}")
    if missing := {WEIGHTS, "run.json", "text.safetensors"} - manifest.files.keys():
        raise UserError(f"{folder / MANIFEST}: names no {', '.join(sorted(missing))}. {_AGAIN}")
    return manifest


def _manifest(path: Path) -> PretrainedManifest:
    try:
        content = read_file(path, at_most=TEXT_BYTES)
        found = json.loads(content)
        of = found.get("library_name") if isinstance(found, dict) else None
        if of != LIBRARY or found.get("format") != _FORMAT:
            raise UserError(
                f"{path}: not a student of this version of zsseg (library_name {of!r}). Give a "
                "folder that `zsseg export --format safetensors` wrote, or use a newer zsseg"
            )
        return PretrainedManifest.model_validate_json(content)
    except ValidationError as error:
        lines = "; ".join(error_lines(PretrainedManifest, error))
        raise UserError(f"{path}: damaged: {lines}. {_AGAIN}") from error
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot be read ({error}). {_AGAIN}") from error


def _carries_code(path: Path) -> bool:
    """Is it a pickle, or an archive of torch.save, whatever it is called?"""
    with path.open("rb") as file:
        start = file.read(_LENGTH + 1)
    header = int.from_bytes(start[:_LENGTH], "little")
    if start[_LENGTH:] == b"{" and _LENGTH + header <= path.stat().st_size:
        return False  # safetensors: the length may begin as a pickle does
    return start[:4] in _ARCHIVES or start[:2] in _PICKLES or _is_old_pickle(path)


def _is_old_pickle(path: Path) -> bool:
    """Pickles of protocols 0 and 1 begin like any text: is it one from end to end?"""
    with path.open("rb") as file, io.StringIO() as listing:
        try:
            pickletools.dis(file, listing)
        except Exception:  # whatever its parser meets in a file that is none
            return False
    return True
