"""Ways to damage a file of a store, and the kinds of files that there are."""

import os
from collections.abc import Callable
from pathlib import Path
from random import Random

from zsseg.stages.cache.format.manifest import LEDGER

Harm = Callable[[Path, Path, Random], None]
"""Damages one file; the second is another one of the store, the random numbers say how."""


def flip(file: Path, _: Path, rng: Random) -> None:
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def truncate(file: Path, _: Path, rng: Random) -> None:
    os.truncate(file, rng.randrange(1, file.stat().st_size))


def empty(file: Path, _: Path, __: Random) -> None:
    file.write_bytes(b"")


def delete(file: Path, _: Path, __: Random) -> None:
    file.unlink()


def swap(file: Path, other: Path, _: Random) -> None:
    one, two = file.read_bytes(), other.read_bytes()
    file.write_bytes(two)
    other.write_bytes(one)


def link(file: Path, _: Path, __: Random) -> None:
    """The content is the same, but what is there is no file."""
    elsewhere = file.with_name(f"{file.name}.elsewhere")
    file.rename(elsewhere)
    file.symlink_to(elsewhere)


def folder(file: Path, _: Path, __: Random) -> None:
    file.unlink()
    file.mkdir()
    (file / "stranger").write_bytes(b"in the way")


HARMS: tuple[Harm, ...] = (flip, truncate, empty, delete, swap, link, folder)


def kind(name: str) -> str:
    """What sort of file it is: data, an array's description, a receipt, or one of the three."""
    if name.startswith(LEDGER):
        return LEDGER
    if "/" in name:
        return "zarr.json of an array" if name.endswith("zarr.json") else "data"
    return name
