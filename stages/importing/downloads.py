"""Brings a public data set here: `configs/downloads.yaml` says where its files are."""

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from zsseg.stages.errors import DatasetError
from zsseg.stages.importing.download import PublicFile, download
from zsseg.stages.importing.unpack import unpack
from zsseg.stages.yaml_files import packaged_values

_FOLDER = "downloads"
_DONE = ".done"

Progress = Callable[[str, int, int], None]
"""Called with the name of a file, its bytes done, and all."""


class DownloadFile(BaseModel):
    """One file of a data set."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    url: str
    md5: str | None = None
    bytes: int | None = None
    into: str
    """Folder below the root."""
    unpack: bool = True

    @property
    def name(self) -> str:
        """Its file name."""
        return PurePosixPath(urlsplit(self.url).path).name


class PublicDataset(BaseModel):
    """A data set that others publish."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    licence: str
    page: str
    """Where it is described, and its terms stand."""
    files: list[DownloadFile]
    """Empty where they cannot be had without an account, or have no archive."""


def public_datasets() -> Mapping[str, PublicDataset]:
    """By name of the built-in description."""
    values = packaged_values("downloads.yaml")
    return {name: PublicDataset.model_validate(each) for name, each in values.items()}


def public_dataset(name: str) -> PublicDataset:
    """One that can be fetched. Raises DatasetError for others, with where to get them by hand."""
    known = public_datasets()
    if name not in known:
        able = ", ".join(each for each, found in known.items() if found.files)
        raise DatasetError(
            f"{name}: no address of such a data set is known. Give one of {able}; your own images "
            "need none: zsseg init DIR"
        )
    if not known[name].files:
        raise DatasetError(
            f"{name}: has no files that can be fetched without an account. Get it from "
            f"{known[name].page}, put its folders as docs/datasets.md shows them, and give them as "
            "--root"
        )
    return known[name]


def fetch(found: PublicDataset, root: Path, *, keep: bool, progress: Progress) -> list[str]:
    """Download and unpack the files of a data set below `root`; names of those that were new.

    What is there already is not fetched again; a file that was interrupted goes on. Archives are
    removed once they are unpacked, unless `keep`.
    """
    new = []
    for file in found.files:
        archive = root / _FOLDER / file.name
        done = archive.with_name(archive.name + _DONE)
        if done.exists():
            continue
        target = archive if file.unpack else root / file.into / file.name
        wanted = PublicFile(url=file.url, md5=file.md5, bytes=file.bytes)
        if not target.exists():
            download(wanted, target, progress=_named(progress, file.name))
        if file.unpack:
            unpack(target, root / file.into, progress=_named(progress, f"unpack {file.name}"))
            if not keep:
                target.unlink()
        done.parent.mkdir(parents=True, exist_ok=True)
        done.write_text(f"{file.url}\n", encoding="utf-8")
        new.append(file.name)
    return new


def _named(progress: Progress, name: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(name, done, total)
