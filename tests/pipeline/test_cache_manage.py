"""Listing what is used, deleting stores and leftovers, and telling stores apart."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from helpers.seven_row_store import (
    IDENTITY,
    INDEX,
    artifacts,
    content,
    fill,
    make_store,
    open_writer,
    values,
)
from helpers.zsseg_command import zsseg

from zsseg.stages.cache.catalogue import choose_store, find_stores
from zsseg.stages.cache.disk import durable
from zsseg.stages.cache.disk.local import LocalStorage
from zsseg.stages.cache.disk.lock import locked
from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.reader import Store
from zsseg.stages.cache.tools import removal
from zsseg.stages.cache.tools.removal import check_removable, prune, remove_leftover, remove_store
from zsseg.stages.cache.tools.store_comparison import compare_stores
from zsseg.stages.cache.tools.uses import find_runs, last_used, note_use, runs_of
from zsseg.stages.cache.verify import verify_store
from zsseg.stages.errors import CacheError, CacheLocked


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture(autouse=True)
def no_logging_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands would set up logging for this process, which other tests share."""
    monkeypatch.setattr("zsseg.pipeline.console.configure_logging", lambda *, quiet: None)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return make_store(tmp_path / "cache" / "a-train")


def write_run(folder: Path, store: Path, fingerprint: str) -> Path:
    folder.mkdir(parents=True)
    record = {"store": str(store.resolve()), "store_fingerprint": fingerprint, "more": 1}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


# Uses


def test_a_use_is_noted_and_changes_nothing(store: Path) -> None:
    before, fingerprint = content(store), Store.open(store).fingerprint
    assert last_used(store) is None
    note_use(store)
    used = last_used(store)
    assert used is not None
    assert abs(datetime.now(UTC) - used) < timedelta(minutes=1)
    assert content(store) == before
    assert Store.open(store).fingerprint == fingerprint
    assert verify_store(store, read_data=True) == []
    with open_writer(store) as writer:  # and stage one does not mind it
        assert fill(writer) == {}
        writer.seal()
    assert content(store) == before


def test_a_store_that_cannot_be_written_is_used_without_a_note(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: LocalStorage) -> None:
        raise PermissionError(30, "Read-only file system", str(self.path))

    monkeypatch.setattr(LocalStorage, "touch", refused)
    note_use(store)
    assert last_used(store) is None


def test_runs_are_those_of_the_folder_or_of_the_content(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs, fingerprint = tmp_path / "runs", Store.open(store).fingerprint
    here = write_run(runs / "a", store, "f" * 32)
    copied = write_run(runs / "deep" / "b", tmp_path / "elsewhere", fingerprint)
    write_run(runs / "c", tmp_path / "elsewhere", "0" * 32)
    (runs / "broken").mkdir()
    (runs / "broken" / "run.json").write_text("{")
    (runs / "foreign").mkdir()
    (runs / "foreign" / "run.json").write_text('{"store": 3}')
    known = find_runs(runs)
    assert len(known) == 3
    assert runs_of(store, known) == [here, copied]
    assert "broken" in caplog.text
    assert "foreign" in caplog.text
    assert find_runs(tmp_path / "nothing") == []
    (store / "seal.json").unlink()
    assert runs_of(store, known) == [here]


def test_what_is_set_aside_is_the_store_s_own(store: Path) -> None:
    """Between two sets of images: tidying keeps what rows are copied from, removing takes it."""
    with open_writer(store, index=INDEX[:5], update=True):
        pass
    assert (store / ".previous" / "zarr.json").exists()
    before = {path for path in store.rglob("*") if path.is_file()}
    assert prune(store.parent, unfinished=False, dry_run=False) == []
    assert {path for path in store.rglob("*") if path.is_file()} == before
    remove_store(store)
    assert not store.exists()


def test_ls_says_last_use_and_runs(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store(store.with_name("b-train"))
    run = write_run(tmp_path / "runs" / "a", store, "0")
    note_use(store)
    listed = ("cache", "ls", store.parent, "--runs", tmp_path / "runs")
    assert zsseg(*listed, "--json") == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["runs"] == [str(run)]
    assert datetime.fromisoformat(first["last_used"]).tzinfo is not None
    assert (first["sealed"], first["images"], first["bytes"]) == (
        True,
        7,
        storage(store).total_bytes(),
    )
    assert (second["runs"], second["last_used"]) == ([], None)
    assert zsseg(*listed) == 0
    assert "last used" in capsys.readouterr().out


def test_cache_commands_load_no_torch(store: Path) -> None:
    for words in (["ls", str(store)], ["diff", str(store), str(store)], ["prune", str(store)]):
        code = (
            f"import sys; sys.argv = ['zsseg', 'cache', *{words!r}]\n"
            "from zsseg.pipeline.cli.main import main\n"
            "try: main()\nexcept SystemExit as stop: assert not stop.code\n"
            "assert 'torch' not in sys.modules"
        )
        root = Path(__file__).parents[2]
        subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=60)


# Removal


def test_a_store_is_removed_and_its_bytes_counted(store: Path) -> None:
    size = storage(store).total_bytes()
    other = make_store(store.with_name("b"))
    assert remove_store(store) == size
    assert list(store.parent.iterdir()) == [other]


def test_a_damaged_or_unfinished_store_can_be_removed(store: Path) -> None:
    (store / "seal.json").unlink()
    text = (store / "zarr.json").read_text()
    (store / "zarr.json").write_text(text.replace('"rows": 7', '"rows": 0'))
    remove_store(store)
    assert not store.exists()


def test_what_is_no_store_or_holds_other_files_is_left_alone(store: Path, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="no store here"):
        check_removable(tmp_path / "nothing")
    (tmp_path / "photos").mkdir()
    with pytest.raises(CacheError, match="not known to be a store"):
        check_removable(tmp_path / "photos")
    (tmp_path / "photos" / "zarr.json").write_text('{"attributes": {}}')
    with pytest.raises(CacheError, match="not a store"):
        check_removable(tmp_path / "photos")
    (tmp_path / "link").symlink_to(store)
    with pytest.raises(CacheError, match="symbolic link"):
        remove_store(tmp_path / "link")
    (store / "notes.txt").write_text("mine")
    with pytest.raises(CacheError, match=r"did not write \(notes.txt\)"):
        remove_store(store)
    assert Store.open(store)


def test_a_locked_store_is_refused_with_its_holder(store: Path, tmp_path: Path) -> None:
    with open_writer(store), pytest.raises(CacheLocked, match=f"process {os.getpid()}"):
        remove_store(store)
    assert Store.open(store)
    assert zsseg("cache", "rm", store, "--yes", "--runs", tmp_path) == 0
    assert not store.exists()


def test_a_lock_of_another_process_is_refused_too(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = (
        "import sys; from pathlib import Path; from zsseg.stages.cache.disk.lock import acquire\n"
        "lock = acquire(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(store)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        (store / "dense" / "c.0.partial").write_bytes(b"under way")
        assert zsseg("cache", "rm", store, "--yes") == 6
        assert f"process {other.pid}" in capsys.readouterr().err
        assert prune(store.parent, unfinished=True, dry_run=False) == []
        assert (store / "dense" / "c.0.partial").exists()
        other.communicate(b"")


def _kill_after(calls: int, patch: pytest.MonkeyPatch) -> None:
    left = iter(range(calls))

    def counted(original: object) -> object:
        def call(*words: object, **options: object) -> object:
            if next(left, None) is None:
                raise Killed
            assert callable(original)
            return original(*words, **options)

        return call

    patch.setattr(removal, "remove_durably", counted(durable.remove_durably))
    patch.setattr(removal, "sync", counted(durable.sync))
    patch.setattr(shutil, "rmtree", counted(shutil.rmtree))
    patch.setattr(Path, "rename", counted(Path.rename))


def test_killed_at_any_point_nothing_looks_complete_and_prune_ends_it(tmp_path: Path) -> None:
    calls = 0
    while True:
        folder = tmp_path / str(calls)
        store = make_store(folder / "a")
        with pytest.MonkeyPatch.context() as patch:
            _kill_after(calls, patch)
            try:
                remove_store(store)
            except Killed:
                pass
            else:
                break
        if store.exists():  # before the first step: untouched
            assert calls == 0
            assert verify_store(store, read_data=True) == []
        else:
            assert find_stores(folder) == []
            with pytest.raises(CacheError, match="no store here"):
                choose_store(folder / "a.removing")
            left = list(folder.iterdir())  # none when killed after the last step
            found = prune(folder, unfinished=False, dry_run=False)
            assert [each.path for each in found] == left
            assert list(folder.iterdir()) == []
        calls += 1
    assert calls >= 5


def test_a_removal_clears_what_an_earlier_one_left(store: Path) -> None:
    gone = store.with_name("a-train.removing")
    shutil.copytree(store, gone)
    remove_store(store)
    assert list(store.parent.iterdir()) == []


def test_rm_asks_says_who_uses_it_and_can_be_tried_out(
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = write_run(tmp_path / "runs" / "a", store, "0")
    remove = ("cache", "rm", store, "--runs", tmp_path / "runs")
    assert zsseg(*remove, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert f"1 runs below {tmp_path / 'runs'} were trained from it: {run}" in shown
    assert "nothing was deleted" in shown
    answers: Iterator[bool] = iter([False, True])
    monkeypatch.setattr("typer.confirm", lambda _: next(answers))
    assert zsseg(*remove) == 0
    assert Store.open(store)
    assert zsseg(*remove) == 0
    assert not store.exists()
    assert "freed" in capsys.readouterr().out


def test_rm_without_an_answer_deletes_nothing(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        assert zsseg("cache", "rm", store) == 2
    assert "--yes" in capsys.readouterr().err
    # One that is refused leaves the others in place too.
    assert zsseg("cache", "rm", store, store / "dense", "--yes") == 5
    assert Store.open(store)


# Pruning


def test_prune_deletes_leftovers_and_nothing_else(store: Path, tmp_path: Path) -> None:
    before = content(store)
    sizes = {
        "dense/c.0.partial": 3,
        f"dense/c.0.{'a' * 32}.partial": 2,
        "ledger/old/000000.json": 4,
        "old/c.0.0": 5,
    }
    sizes |= {"ledger/index/000099.json": 6}
    for name, size in sizes.items():
        (store / name).parent.mkdir(exist_ok=True)
        (store / name).write_bytes(b"x" * size)
    (store / "notes.txt").write_text("mine")
    with open_writer(store.with_name("b-unfinished"), identity=IDENTITY | {"split": "val"}):
        pass
    for dry_run in (True, False):
        found = prune(store.parent, unfinished=False, dry_run=dry_run)
        assert {str(each.path): each.bytes for each in found} == {
            str(store / name): size for name, size in sizes.items()
        }
        assert (store / "old").exists() == dry_run
    (store / "notes.txt").unlink()
    assert content(store) == before
    assert verify_store(store, read_data=True) == []
    assert prune(store.parent, unfinished=False, dry_run=False) == []
    for dry_run in (True, False):
        (unfinished,) = prune(store.parent, unfinished=True, dry_run=dry_run)
        assert unfinished.path == store.with_name("b-unfinished")
        assert unfinished.path.exists() == dry_run
    assert find_stores(store.parent)[0].path == store


def test_prune_leaves_alone_what_is_locked_foreign_or_read_only(
    store: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (store / "dense" / "c.0.partial").write_bytes(b"under way")
    foreign = store.with_name("photos.removing")
    foreign.mkdir()
    (foreign / "cat.jpg").write_bytes(b"mine")
    with locked(store):
        assert prune(store.parent, unfinished=False, dry_run=False) == []
    assert (store / "dense" / "c.0.partial").exists()
    assert (foreign / "cat.jpg").exists()
    assert "cat.jpg" in caplog.text
    assert "writes this store" in caplog.text

    def refused(_: Path) -> None:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr("zsseg.stages.cache.disk.lock.acquire", refused)
    assert prune(store.parent, unfinished=False, dry_run=False) == []
    assert f"{store}: [Errno 30] Read-only" in caplog.text


def test_prune_says_what_it_frees(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = store.with_name("old.importing")
    shutil.copytree(store, gone)
    assert zsseg("cache", "prune", store.parent, "--dry-run") == 0
    assert "would free" in capsys.readouterr().out
    assert gone.exists()
    assert zsseg("cache", "prune", store.parent) == 0
    assert f"({storage(store).total_bytes()} bytes)" in capsys.readouterr().out.replace("\n", " ")
    assert not gone.exists()


def test_only_leftovers_are_removed_as_leftovers(store: Path) -> None:
    with pytest.raises(AssertionError):
        remove_leftover(store)


# Differences


def test_equal_stores_do_not_differ(store: Path, tmp_path: Path) -> None:
    found = compare_stores(store, make_store(tmp_path / "b"))
    assert found.fields == ()
    assert [each.name for each in found.artifacts] == ["dense", "index", "regions", "text"]
    for each in found.artifacts:
        assert (each.same_recipe, each.fields, each.differing, each.missing) == (True, (), 0, 0)


def test_differences_are_told_field_by_field_and_shard_by_shard(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "b"
    changed = {"identity": IDENTITY | {"limit": 3}, "artifacts": artifacts(threshold=0.8)}
    with open_writer(other, **changed) as writer:
        fill(writer)
        changed_maps = writer.read("regions", 1) + 1
        writer.write("regions", 1, {"regions": changed_maps})
        writer.withdraw("regions", 2)
    found = compare_stores(store, other)
    assert found.fields == ("identity.limit: A nothing, B 3",)
    dense, _, regions, _ = found.artifacts
    assert (dense.same_recipe, dense.differing) == (True, 0)
    assert not regions.same_recipe
    assert regions.fields == ("regions.merge_threshold: A 0.9, B 0.8",)
    assert (regions.shards, regions.differing, regions.missing) == (3, 1, 1)
    assert zsseg("cache", "diff", store, other) == 0
    shown = capsys.readouterr().out
    assert "regions: different fingerprint; data differs in 1 of 3 shards, 1 not in both" in shown
    assert "  regions.merge_threshold: A 0.9, B 0.8" in shown


def test_stores_of_other_images_are_not_compared_shard_by_shard(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "b"
    index = [{"id": "one", "image": "one.png", "label": None}]
    with open_writer(other, index=index, artifacts=artifacts()[:1]):
        pass
    found = compare_stores(store, other)
    assert "images: A 7, B 1" in found.fields
    assert any(line.startswith("index: 7 rows only in A, 1 only in B") for line in found.fields)
    assert found.artifacts[1].shards is None
    assert found.artifacts[0].fields == ("dense: only in A",)
    assert zsseg("cache", "diff", store, other) == 0
    assert "cannot be compared" in capsys.readouterr().out


def test_images_of_other_content_are_counted(tmp_path: Path) -> None:
    stores = [tmp_path / "a", tmp_path / "b"]
    for store, hashes in zip(stores, (["x", "y", "z"], ["x", "q", "r"]), strict=True):
        with open_writer(store) as writer:
            status = values("index", writer.rows_of(0))
            writer.write("index", 0, status, notes={"images": hashes, "labels": ["same"] * 3})
    assert compare_stores(*stores).fields == ("index: 2 images of other content",)
