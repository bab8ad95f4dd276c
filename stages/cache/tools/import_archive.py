"""Unpacks a store from an archive that is not trusted; it appears only when it is complete.

Members are unpacked into a folder whose name marks it as no store, verified byte by byte there, and
the folder is renamed at the end. For a bucket that happens in a temporary folder of this machine;
the files are sent at the end, the seal last.
"""

import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from zsseg.stages.cache.catalogue import locate_store
from zsseg.stages.cache.disk.durable import make_folder, sync
from zsseg.stages.cache.disk.json_files import read_json_lines
from zsseg.stages.cache.disk.local import LocalStorage
from zsseg.stages.cache.disk.lock import HOLDER, LOCK, acquire, locked
from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.ledger import read_seal
from zsseg.stages.cache.format.manifest import (
    GROUP,
    IMPORTING,
    INDEX,
    SEAL,
    Manifest,
    read_manifest,
    shard_file,
)
from zsseg.stages.cache.format.stored_rows import stored_rows
from zsseg.stages.cache.tools.contents import file_count
from zsseg.stages.cache.tools.export_archive import BESIDES, expected_files
from zsseg.stages.cache.tools.removal import remove_leftover
from zsseg.stages.cache.verify import verify_store
from zsseg.stages.errors import CacheError, ResourceError

_LARGEST_MANIFEST = 1 << 26  # bytes; it is read whole before anything about it is known
_LARGEST_NAME = 1 << 16  # bytes of a header that holds a long name; tarfile reads it whole
_BLOCK = 1 << 20


class _BoundedMember(tarfile.TarInfo):
    """A member whose header is read only when it is of the length of a name."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        plain = self.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
        if not plain and self.size > _LARGEST_NAME:
            raise tarfile.ReadError(f"a header claims {self.size:,} bytes")
        whole: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return whole


@dataclass(frozen=True)
class Imported:
    """The path of the store; `new` is False when the same store was there already."""

    path: StorePath
    new: bool


def import_store(archive: Path, folder: StorePath) -> Imported:
    """Unpack an archive of `export_store` into a folder of stores.

    The store is put where `zsseg precompute` looks for it. CacheError when the archive is cut
    short, holds anything but the regular files of one store, does not verify, or when another store
    is in its place; CacheLocked when the same archive is being imported; ResourceError when there
    is not enough space.
    """
    # Into a folder it is renamed when it is whole; to a bucket its files are sent.
    if isinstance(folder, Path):
        return _unpack(archive, folder)
    storage(folder).check_reachable()
    with tempfile.TemporaryDirectory(prefix="zsseg-import-") as here:
        return _send(_unpack(archive, Path(here)).path, folder, archive)


def _unpack(archive: Path, folder: Path) -> Imported:
    if not archive.is_file():
        raise CacheError(f"{archive}: no such file. `zsseg cache export STORE FILE.tar` makes one")
    staging = folder / (archive.name + IMPORTING)
    try:
        with tarfile.open(archive, mode="r:", tarinfo=_BoundedMember) as tar:
            members = _members(tar, archive, staging)
            make_folder(folder)
            _check_space(members.values(), archive, folder)
            if staging.is_dir():
                remove_leftover(staging)
            staging.mkdir()
            return _move_in(tar, members, archive, staging)
    except tarfile.TarError as error:
        raise _refused(archive, f"cut short, or no plain tar file ({error})") from error


def _send(store: StorePath, folder: StorePath, archive: Path) -> Imported:
    """Send a verified store to a bucket, under the lock of the one that it becomes."""
    final = _final_path(read_manifest(store), folder)
    if storage(final / GROUP).exists():
        _check_same(final, store, archive)
        return Imported(final, new=False)
    names = [name for name in storage(store).list_files() if name not in (LOCK, HOLDER)]

    def send(name: str) -> None:
        storage(final / name).write(storage(store / name).read())

    with locked(final):
        send(GROUP)  # first: if this is interrupted, an unfinished store is left, for `rm`
        storage(final).map(send, [name for name in names if name not in (GROUP, SEAL)])
        send(SEAL)
    return Imported(final, new=True)


def _move_in(
    tar: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo], archive: Path, staging: Path
) -> Imported:
    """Unpack into a folder that is no store by its name, verify, and give it its name."""
    lock = acquire(staging)
    where: StorePath = staging
    try:
        for name in (GROUP, SEAL):
            _extract(tar, members[name], staging / name)
        manifest = _manifest(staging, members, archive)
        final = _final_path(manifest, staging.parent)
        if storage(final).exists():
            _check_same(final, staging, archive)
            return Imported(final, new=False)
        for name in sorted(members.keys() - {GROUP, SEAL}):
            _extract(tar, members[name], staging / name)
        _check_index(staging, manifest, archive)
        if problems := verify_store(staging, read_data=True):
            raise _refused(
                archive,
                f"{len(problems)} of its files are damaged or missing, the first: "
                f"{problems[0].file}: {problems[0].reason}",
            )
        _check_unpacked(staging, manifest, archive)
        for path in [staging, *(path for path in staging.rglob("*") if path.is_dir())]:
            sync(path)
        (staging / HOLDER).unlink(missing_ok=True)
        staging.rename(staging.parent / final.name)
        where = final
        sync(staging.parent)
        return Imported(final, new=True)
    finally:
        if where == staging:
            # The lock's file goes with the folder; `prune` deletes what cannot be deleted here.
            shutil.rmtree(staging, ignore_errors=True)
        lock.release(where)


def _members(tar: tarfile.TarFile, archive: Path, staging: Path) -> dict[str, tarfile.TarInfo]:
    """The members by their path in the store; CacheError before anything is written."""
    size = archive.stat().st_size
    members: dict[str, tarfile.TarInfo] = {}
    folders = set()
    for member in tar:
        named = repr(member.name[:100])
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
            raise _refused(archive, f"{named} is no regular file (a link, a device or a folder)")
        parts = member.name.split("/")
        if "" in parts or "." in parts or ".." in parts or "\\" in member.name:
            raise _refused(archive, f"{named} leads elsewhere (absolute, or with '..')")
        if hasattr(tarfile, "data_filter"):  # from Python 3.11.4: the same checks by Python
            try:
                tarfile.data_filter(member, str(staging))
            except tarfile.FilterError as error:
                raise _refused(archive, f"{named}: {error}") from error
        name = "/".join(parts[1:])
        if not name or name in members:
            raise _refused(archive, f"{named} is not in the store's folder, or is there twice")
        if member.offset_data + member.size > size:
            raise _refused(archive, f"cut short within {named}")
        members[name] = member
        folders.add(parts[0])
    if len(folders) != 1 or not {GROUP, SEAL, INDEX} <= members.keys():
        raise _refused(archive, f"not one folder with {GROUP}, {INDEX} and {SEAL}, or cut short")
    if members[GROUP].size > _LARGEST_MANIFEST:
        raise _refused(archive, f"its {GROUP} is of {members[GROUP].size} bytes")
    return members


def _manifest(staging: Path, members: Mapping[str, tarfile.TarInfo], archive: Path) -> Manifest:
    """The manifest, when it and the archive name the same files."""
    try:
        manifest = read_manifest(staging)
        read_seal(staging)
    except (CacheError, RecursionError) as error:
        raise _refused(archive, str(error)) from error
    # Counted first: the list of a forged manifest may be endless.
    if file_count(manifest) > len(members):
        raise _refused(archive, "files of the store are missing; it is cut short")
    expected = expected_files(manifest)
    if missing := sorted(expected - members.keys()):
        raise _refused(archive, f"{missing[0]} is missing; it is cut short")
    if strange := sorted(members.keys() - expected - set(BESIDES)):
        raise _refused(archive, f"{strange[0]!r} is no file of this store")
    return manifest


def _final_path(manifest: Manifest, folder: StorePath) -> StorePath:
    identity = manifest.identity
    return locate_store(
        folder,
        identity,
        dataset=str(identity.get("dataset", "")),
        split=str(identity.get("split", "")),
        teacher=str(manifest.info.get("teacher", "")),
    )


def _check_same(final: StorePath, staging: StorePath, archive: Path) -> None:
    """CacheError unless the store in its place is intact and has the archive's fingerprint."""
    advice = f"Move it away, delete it (`zsseg cache rm {final}`), or give another --cache"
    try:
        there = read_seal(final)["root"]
    except CacheError as error:
        raise CacheError(
            f"{final}: in the place of the store in {archive}, and not finished. {advice}"
        ) from error
    if there != read_seal(staging)["root"]:
        raise CacheError(
            f"{final}: made for the same data and teacher as the store in {archive}, but with "
            f"another content (fingerprint {there}). {advice}"
        )
    with storage(final).read_ahead():
        damaged = verify_store(final, read_data=False)
    if damaged:
        raise CacheError(
            f"{final}: the same store as in {archive}, but damaged. {advice}, and import again"
        )


def _check_index(staging: Path, manifest: Manifest, archive: Path) -> None:
    """One entry per row, and no path that leads out of the data set's folder."""
    entries = read_json_lines(staging / INDEX)
    if len(entries) != manifest.rows:
        raise _refused(archive, f"{len(entries)} entries in {INDEX} for {manifest.rows} images")
    for entry in entries:
        for path in (entry.get("image"), entry.get("label")):
            if path is not None and not (isinstance(path, str) and _stays_below(path)):
                raise _refused(archive, f"{INDEX} names {path!r:.100}, outside of the data set")


def _check_unpacked(staging: Path, manifest: Manifest, archive: Path) -> None:
    """CacheError for a chunk that would unpack to more than a row: a few KiB may hold many GiB."""
    for name, (artifact, spec) in manifest.arrays.items():
        try:
            rows = stored_rows(staging, manifest, name)
            for shard in manifest.shards(artifact):
                rows.check_sizes(shard_file(spec, artifact, shard))
        except CacheError as error:
            raise _refused(archive, str(error)) from error


def _stays_below(path: str) -> bool:
    windows = PureWindowsPath(path)
    return not (
        PurePosixPath(path).is_absolute() or windows.drive or windows.root or ".." in windows.parts
    )


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    """Write one member to a new file, with our own mode and owner, and bring it to the disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    assert source is not None, member.name
    with source, target.open("xb") as file:
        shutil.copyfileobj(source, file, _BLOCK)
        file.flush()
        os.fsync(file.fileno())


def _check_space(members: Iterable[tarfile.TarInfo], archive: Path, folder: Path) -> None:
    needed = sum(member.size for member in members)
    free = LocalStorage(folder).free_bytes()
    if needed > free:
        raise ResourceError(
            f"{folder}: {archive} needs {needed / 2**20:.0f} MiB and {free / 2**20:.0f} MiB are "
            "free. Give a --cache folder on a larger disk"
        )


def _refused(archive: Path, why: str) -> CacheError:
    return CacheError(f"{archive}: not imported: {why}. Export the store again, or copy it again")
