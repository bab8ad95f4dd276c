"""Unpacks an archive of somebody else: files only, inside the folder, none overwritten."""

import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from zsseg.stages.data.folders import is_leftover
from zsseg.stages.errors import DatasetError, ResourceError

_PARTIAL = ".partial"
_CHUNK = 1 << 20
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
)
_MOST_TIMES = 200  # the size of the archive; what unpacks to more is made to fill the disk


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, folder: Path, *, progress: Callable[[int, int], None]) -> None:
    """Unpack a zip or tar archive; calls `progress(files done, files)`.

    A file that is there with the right size stays, so that an interrupted call can be repeated.
    Raises DatasetError for a damaged archive, for members that lead out of the folder or are links,
    and where a file of another size is in the way; ResourceError where the disk has no room.
    """
    try:
        with _members(archive) as members:
            _refuse(archive, folder, members)
            for done, member in enumerate(members, start=1):
                _write(archive, member, folder / member.name)
                progress(done, len(members))
    except (*_DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's; those of gzip and bz2 have no number
        raise DatasetError(
            f"{archive}: is damaged, or no archive ({error}). Delete it and fetch it again"
        ) from error
    except RuntimeError as error:  # zipfile's, for what it cannot read
        raise DatasetError(
            f"{archive}: is encrypted, or packed in a way that is not known ({error}). Fetch "
            f"another form of it, or unpack it by hand to {folder}"
        ) from error


@contextmanager
def _members(archive: Path) -> Iterator[list[_Member]]:
    """The files of an archive, without what systems leave behind."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            found = [_of_zip(archive, opened, info) for info in opened.infolist()]
            yield [each for each in found if each and not is_leftover(each.name)]
    else:
        with tarfile.open(archive) as tar:
            members = [_of_tar(archive, tar, info) for info in tar]
            yield [each for each in members if each and not is_leftover(each.name)]
            assert tar.fileobj is not None
            while tar.fileobj.read(_CHUNK):  # to its end, where its checksum is
                continue


def _of_zip(archive: Path, opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member | None:
    _refuse_path(archive, info.filename)
    if info.is_dir():
        return None
    if stat.S_ISLNK(info.external_attr >> 16):
        raise _unsafe(archive, info.filename, "is a link")
    return _Member(info.filename, info.file_size, lambda: opened.open(info))


def _of_tar(archive: Path, tar: tarfile.TarFile, info: tarfile.TarInfo) -> _Member | None:
    _refuse_path(archive, info.name)
    if info.isdir():
        return None
    if not info.isreg():
        raise _unsafe(archive, info.name, "is no ordinary file")

    def content() -> IO[bytes]:
        stream = tar.extractfile(info)
        assert stream is not None
        return stream

    return _Member(info.name.removeprefix("./"), info.size, content)


def _refuse_path(archive: Path, name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise _unsafe(archive, name, "leads out of the folder")


def _unsafe(archive: Path, name: str, why: str) -> DatasetError:
    return DatasetError(
        f"{archive}: its member {name} {why}; nothing of it was unpacked. Download it from its own "
        "page"
    )


def _refuse(archive: Path, folder: Path, members: list[_Member]) -> None:
    whole = sum(member.size for member in members)
    if whole > _MOST_TIMES * archive.stat().st_size:
        raise _unsafe(archive, members[0].name, f"and others unpack to {whole:,} bytes")
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    missing = sum(member.size for member in members if not (folder / member.name).exists())
    if missing > free:
        raise ResourceError(
            f"{folder}: {missing:,} bytes are to be unpacked and {free:,} are free. Make room, and "
            "run the same command again: what was downloaded is kept"
        )


def _write(archive: Path, member: _Member, target: Path) -> None:
    if target.exists():
        if target.is_file() and target.stat().st_size == member.size:
            return
        raise DatasetError(
            f"{target}: another file is in the way of one of {archive}. Move it away, or give "
            "another --root"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + _PARTIAL)
    try:
        with member.open() as source, partial.open("wb") as out:
            shutil.copyfileobj(source, out, _CHUNK)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
