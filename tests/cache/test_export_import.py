"""A store as one file, out and in: equal bytes, hostile and broken archives, crashes."""

import errno
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest
from helpers.seven_row_store import IDENTITY, INDEX, content, fill, make_store, open_writer
from helpers.zsseg_command import zsseg

from zsseg.stages.cache.catalogue import find_stores
from zsseg.stages.cache.disk.local import LocalStorage
from zsseg.stages.cache.disk.lock import locked
from zsseg.stages.cache.reader import Store
from zsseg.stages.cache.tools.export_archive import export_store
from zsseg.stages.cache.tools.import_archive import import_store
from zsseg.stages.cache.tools.removal import prune
from zsseg.stages.cache.tools.uses import note_use
from zsseg.stages.cache.verify import verify_store
from zsseg.stages.errors import CacheError, CacheLocked, ResourceError, UserError

Change = Callable[[tarfile.TarInfo, bytes], list[tuple[tarfile.TarInfo, bytes]]]


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = make_store(tmp_path_factory.mktemp("made") / "store")
    (store / "history.jsonl").write_text('{"root":"/somewhere/else"}\n')
    return store


@pytest.fixture(scope="module")
def archive(made: Path) -> Path:
    file = made.with_name("store.tar")
    export_store(made, file)
    return file


def rewritten(archive: Path, target: Path, change: Change) -> Path:
    """The archive with each member replaced by what `change` makes of it."""
    with tarfile.open(archive) as old, tarfile.open(target, "w") as new:
        for member in old:
            data = old.extractfile(member)
            assert data is not None
            for info, value in change(member, data.read()):
                info.size = len(value) if info.isreg() else 0
                new.addfile(info, io.BytesIO(value))
    return target


def nothing_is_left(cache: Path) -> bool:
    return not cache.exists() or list(cache.iterdir()) == []


# Out


def test_exporting_twice_gives_equal_bytes_with_nothing_of_this_machine(
    made: Path, archive: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "renamed"
    shutil.copytree(made, copy)  # other times, another name
    note_use(copy)
    (copy / "sources.jsonl").write_text('{"id":"1"}\n')
    assert export_store(copy, tmp_path / "deep" / "b.tar") == archive.stat().st_size
    assert (tmp_path / "deep" / "b.tar").read_bytes() == archive.read_bytes()
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["b.tar"]
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
    names = {member.name.partition("/")[2] for member in members}
    assert names == {*content(made), "README.md", "history.jsonl"}
    assert members[-1].name.endswith("/seal.json")
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime, m.mode) for m in members} == {
        (0, 0, "", "", 0, 0o644)
    }


def test_only_finished_sound_stores_are_exported(made: Path, tmp_path: Path) -> None:
    store, file = tmp_path / "store", tmp_path / "a.tar"
    shutil.copytree(made, store)
    with pytest.raises(UserError, match="lies in the store"):
        export_store(store, store / "a.tar")
    data = store / "dense" / "c.1.0.0.0"
    sound = data.read_bytes()
    data.write_bytes(bytes(sound[:-1]) + bytes([sound[-1] ^ 1]))
    with pytest.raises(CacheError, match=r"dense/c\.1\.0\.0\.0: content changed since"):
        export_store(store, file)
    assert not file.exists()
    data.write_bytes(b"")
    with pytest.raises(CacheError, match=r"damaged, the first: dense/c\.1\.0\.0\.0"):
        export_store(store, file)
    (store / "seal.json").unlink()
    with pytest.raises(CacheError, match="not finished"):
        export_store(store, file)
    file.write_bytes(b"mine")
    with pytest.raises(UserError, match="exists"):
        export_store(made, file)
    assert file.read_bytes() == b"mine"


def test_a_store_that_changes_meanwhile_is_not_exported(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, add = tmp_path / "store", tarfile.TarFile.addfile
    shutil.copytree(made, store)

    def changing(self: tarfile.TarFile, info: tarfile.TarInfo, data: io.BufferedReader) -> None:
        add(self, info, data)
        if info.name.endswith("seal.json"):
            (store / "seal.json").unlink()

    monkeypatch.setattr(tarfile.TarFile, "addfile", changing)
    with pytest.raises(CacheError, match="not finished"):
        export_store(store, tmp_path / "a.tar")
    assert list(tmp_path.iterdir()) == [store]


def test_a_full_disk_leaves_no_archive(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "addfile", full)
        with pytest.raises(ResourceError, match="No space left"):
            export_store(made, tmp_path / "a.tar")
    monkeypatch.setattr(LocalStorage, "free_bytes", lambda self: 0)
    with pytest.raises(ResourceError, match="0 MiB free"):
        export_store(made, tmp_path / "a.tar")
    assert list(tmp_path.iterdir()) == []


# In


def test_what_comes_in_is_what_went_out(made: Path, archive: Path, tmp_path: Path) -> None:
    imported = import_store(archive, tmp_path / "cache")
    assert imported.new
    assert imported.path.name.startswith("tiny-world-train-local-dir-clip-")
    assert content(imported.path) == content(made)
    assert Store.open(imported.path).fingerprint == Store.open(made).fingerprint
    assert Store.open(imported.path).last("root") == "/somewhere/else"
    assert (imported.path / "README.md").read_bytes() == (made / "README.md").read_bytes()
    with open_writer(imported.path) as writer:  # and stage one goes on with it
        assert fill(writer) == {}
    export_store(imported.path, tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()
    assert import_store(archive, tmp_path / "cache").new is False
    assert list((tmp_path / "cache").iterdir()) == [imported.path]


def test_archives_of_stores_without_card_and_history_come_in_too(
    archive: Path, tmp_path: Path
) -> None:
    def bare(info: tarfile.TarInfo, data: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
        return [] if info.name.endswith(("README.md", "history.jsonl")) else [(info, data)]

    bare_archive = rewritten(archive, tmp_path / "bare.tar", bare)
    assert verify_store(import_store(bare_archive, tmp_path / "c").path, read_data=True) == []


def test_another_store_in_its_place_is_never_replaced(archive: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    path = import_store(archive, cache).path
    with open_writer(path) as writer:
        values = writer.read("regions", 0).copy()
        writer.write("regions", 0, {"regions": values + 1})
        writer.seal()
    before = content(path)
    with pytest.raises(CacheError, match=r"another content.*zsseg cache rm"):
        import_store(archive, cache)
    (path / "seal.json").unlink()
    with pytest.raises(CacheError, match="not finished"):
        import_store(archive, cache)
    del before["seal.json"]
    assert content(path) == before
    assert list(cache.iterdir()) == [path]


def test_a_damaged_copy_of_the_same_store_is_not_called_the_same(
    archive: Path, tmp_path: Path
) -> None:
    path = import_store(archive, tmp_path).path
    (path / "dense" / "c.0.0.0.0").unlink()
    with pytest.raises(CacheError, match=r"the same store.*but damaged"):
        import_store(archive, tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.98])
def test_an_archive_that_was_cut_short_is_refused(
    archive: Path, tmp_path: Path, share: float
) -> None:
    data, cut, cache = archive.read_bytes(), tmp_path / "cut.tar", tmp_path / "cache"
    cut.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CacheError, match=r"not imported: .*cut short"):
        import_store(cut, cache)
    assert nothing_is_left(cache)


def test_an_archive_cut_between_two_members_is_refused(archive: Path, tmp_path: Path) -> None:
    for missing in ("zarr.json", "seal.json", "dense/c.2.0.0.0", "ledger/text/000000.json"):

        def without(
            info: tarfile.TarInfo, data: bytes, missing: str = missing
        ) -> list[tuple[tarfile.TarInfo, bytes]]:
            return [] if info.name.partition("/")[2] == missing else [(info, data)]

        with pytest.raises(CacheError, match="cut short"):
            import_store(rewritten(archive, tmp_path / "a.tar", without), tmp_path / "cache")
        assert nothing_is_left(tmp_path / "cache")


def test_a_flipped_bit_is_found_before_anything_shows(archive: Path, tmp_path: Path) -> None:
    for harmed in ("dense/c.1.0.0.0", "index.jsonl", "ledger/dense/000001.json", "zarr.json"):

        def flipped(
            info: tarfile.TarInfo, data: bytes, harmed: str = harmed
        ) -> list[tuple[tarfile.TarInfo, bytes]]:
            if info.name.partition("/")[2] == harmed:
                data = data[:40] + bytes([data[40] ^ 1]) + data[41:]
            return [(info, data)]

        with pytest.raises(CacheError, match=r"a\.tar: not imported|line 1: damaged"):
            import_store(rewritten(archive, tmp_path / "a.tar", flipped), tmp_path / "cache")
        assert nothing_is_left(tmp_path / "cache")


def _with(**fields: object) -> Change:
    """Add a member with these fields after the index."""

    def change(info: tarfile.TarInfo, data: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
        if not info.name.endswith("index.jsonl"):
            return [(info, data)]
        extra = tarfile.TarInfo(info.name.partition("/")[0] + "/extra")
        for key, value in fields.items():
            setattr(extra, key, value)
        return [(info, data), (extra, b"evil")]

    return change


def _named(info: tarfile.TarInfo, data: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [(info, data), (info, data)]


_HOSTILE = {
    "absolute": _with(name="/tmp/zsseg-evil"),
    "parent": _with(name="../evil"),
    "parent below": _with(name="store/../../evil"),
    "backslash": _with(name="store\\..\\evil"),
    "dot": _with(name="./evil"),
    "symlink": _with(type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "hard link": _with(type=tarfile.LNKTYPE, linkname="store/zarr.json"),
    "device": _with(type=tarfile.CHRTYPE),
    "block device": _with(type=tarfile.BLKTYPE),
    "pipe": _with(type=tarfile.FIFOTYPE),
    "folder": _with(type=tarfile.DIRTYPE),
    "contiguous": _with(type=tarfile.CONTTYPE),
    "stranger": _with(),
    "other folder": _with(name="second/zarr.json"),
    "no folder": _with(name="zarr.json"),
    "twice": _named,
}


@pytest.mark.parametrize("kind", _HOSTILE)
def test_a_hostile_archive_is_refused_and_writes_nothing(
    archive: Path, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "in").mkdir()
    hostile = rewritten(archive, tmp_path / "in" / "a.tar", _HOSTILE[kind])
    with pytest.raises(CacheError, match=r"a\.tar: not imported"):
        import_store(hostile, tmp_path / "cache")
    assert nothing_is_left(tmp_path / "cache")
    assert {path.name for path in tmp_path.iterdir()} <= {"in", "cache"}


def _manifest(**changes: object) -> Change:
    def change(info: tarfile.TarInfo, data: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
        if info.name.count("/") == 1 and info.name.endswith("/zarr.json"):
            group = json.loads(data)
            group["attributes"] |= changes
            data = json.dumps(group).encode()
        return [(info, data)]

    return change


@pytest.mark.parametrize("changes", [{"rows": 10**30}, {"zsseg_format": 2}, {"rows": 8}])
def test_a_forged_manifest_is_refused_at_once(
    archive: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    forged = rewritten(archive, tmp_path / "a.tar", _manifest(**changes))
    with pytest.raises(CacheError, match="not imported"):
        import_store(forged, tmp_path / "cache")
    assert nothing_is_left(tmp_path / "cache")


@pytest.mark.parametrize("path", ["/etc/passwd", "../../secret.png", "C:\\secret.png", "a\\..\\b"])
def test_an_index_that_leads_out_of_the_data_set_is_refused(tmp_path: Path, path: str) -> None:
    index = [{**INDEX[0], "image": path}, *INDEX[1:]]
    with open_writer(tmp_path / "store", index=index) as writer:
        fill(writer)
        writer.seal()
    export_store(tmp_path / "store", tmp_path / "a.tar")
    with pytest.raises(CacheError, match="outside of the data set"):
        import_store(tmp_path / "a.tar", tmp_path / "cache")
    assert nothing_is_left(tmp_path / "cache")


def test_arrays_of_objects_are_no_arrays_of_a_store(archive: Path, tmp_path: Path) -> None:
    def objects(info: tarfile.TarInfo, data: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
        return [(info, data.replace(b'"float32"', b'"object"'))]

    forged = rewritten(archive, tmp_path / "a.tar", objects)
    with pytest.raises(CacheError, match="which is no number"):
        import_store(forged, tmp_path / "cache")


def test_what_is_no_plain_tar_is_refused(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="no such file"):
        import_store(tmp_path / "nothing.tar", tmp_path)
    (tmp_path / "text.tar").write_text("hello" * 400)
    with pytest.raises(CacheError, match="no plain tar"):
        import_store(tmp_path / "text.tar", tmp_path / "cache")
    with tarfile.open(tmp_path / "z.tar", "w:gz") as packed:
        packed.add(archive, "store/zarr.json")
    with pytest.raises(CacheError, match="no plain tar"):
        import_store(tmp_path / "z.tar", tmp_path / "cache")


def test_killed_at_any_file_nothing_shows_and_the_next_import_ends_it(
    archive: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extracted = tarfile.TarFile.extractfile
    for calls in (0, 1, 2, 9):
        cache, left = tmp_path / str(calls), iter(range(calls))

        def killed(
            tar: tarfile.TarFile, member: tarfile.TarInfo, left: Iterator[int] = left
        ) -> IO[bytes] | None:
            if next(left, None) is None:
                raise Killed
            return extracted(tar, member)

        with monkeypatch.context() as patch:
            patch.setattr(tarfile.TarFile, "extractfile", killed)
            # A killed process cleans nothing up.
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)
            with pytest.raises(Killed):
                import_store(archive, cache)
        assert find_stores(cache) == []
        assert [path.name for path in cache.iterdir()] == ["store.tar.importing"]
        if calls == 2:
            assert len(prune(cache, unfinished=False, dry_run=False)) == 1
            assert nothing_is_left(cache)
        assert content(import_store(archive, cache).path) == content(made)
        assert len(list(cache.iterdir())) == 1


def test_killed_before_the_rename_nothing_shows(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: Path, _: Path) -> Path:
        raise Killed(self)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(Killed):
            import_store(archive, tmp_path / "cache")
    assert find_stores(tmp_path / "cache") == []
    assert import_store(archive, tmp_path / "cache").new


def test_an_import_under_way_is_not_disturbed(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = tmp_path / "store.tar.importing"
    staging.mkdir()
    with locked(staging):
        with pytest.raises(CacheLocked):
            import_store(archive, tmp_path)
        assert prune(tmp_path, unfinished=True, dry_run=False) == []
    (staging / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(CacheError, match="did not write"):
        import_store(archive, tmp_path)
    assert (staging / "photo.jpg").exists()
    monkeypatch.setattr(LocalStorage, "free_bytes", lambda self: 0)
    with pytest.raises(ResourceError, match="0 MiB are free"):
        import_store(archive, tmp_path / "cache")


def test_export_and_import_as_commands(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, cache = tmp_path / "a.tar", tmp_path / "cache"
    assert zsseg("cache", "export", made, file) == 0
    assert "zsseg cache import a.tar" in capsys.readouterr().out
    assert zsseg("cache", "export", made, file) == 2
    assert zsseg("cache", "import", file, "--cache", cache) == 0
    assert "every byte verified" in capsys.readouterr().out
    assert zsseg("cache", "import", file, "--cache", cache) == 0
    assert "there already" in capsys.readouterr().out
    file.write_bytes(file.read_bytes()[:9999])
    assert zsseg("cache", "import", file, "--cache", cache) == 5
    assert "Traceback" not in capsys.readouterr().err
    assert len(find_stores(cache)) == 1
    assert Store.open(find_stores(cache)[0].path).identity == IDENTITY
