"""A damaged or hostile store hides none of the others from `cache ls` and `prune`."""

import json
import shutil
from pathlib import Path

import pytest
from helpers.zsseg_command import zsseg

from zsseg.stages.cache.catalogue import find_stores
from zsseg.stages.cache.reader import Store
from zsseg.stages.cache.tools.removal import prune
from zsseg.stages.cache.tools.uses import find_runs, runs_of

DEEP = "[" * 100_000
GROUPS = {
    "deep": DEEP,
    "deep attributes": '{"attributes": ' + '{"a": ' * 50_000,
    "list": "[]",
    "number": '{"attributes": 3}',
    "no text": "\x00\xff",
    "long number": '{"attributes": ' + "9" * 5000 + "}",
}
WRONG: list[object] = [None, 3, [], {}, "x", -1]


def groups(sound: str) -> dict[str, str]:
    """Contents of a zarr.json by name: no JSON of ours, and ours with one wrong value each."""
    found = dict(GROUPS)
    for field in json.loads(sound)["attributes"]:
        for value in WRONG:
            values = json.loads(sound)
            values["attributes"][field] = value
            found[f"{field} {value}"] = json.dumps(values)
    return found


@pytest.fixture
def folder(made: tuple[Path, Path], tmp_path: Path) -> Path:
    """A folder of stores: one that is sound, and one for each kind of damage."""
    _, store = made
    stores = tmp_path / "stores"
    shutil.copytree(store, stores / "sound")
    for number, text in enumerate(groups((store / "zarr.json").read_text()).values()):
        bad = stores / f"bad {number:02d}\x1b[2J"
        bad.mkdir()
        (bad / "zarr.json").write_text(text, encoding="latin-1")
    for number, text in enumerate((DEEP, "[]", '{"root": 3}', "\xff")):
        sealed = stores / f"seal {number}"
        sealed.mkdir()
        shutil.copy(store / "zarr.json", sealed)
        shutil.copy(store / "index.jsonl", sealed)
        (sealed / "seal.json").write_text(text, encoding="latin-1")
    (stores / "folder" / "zarr.json").mkdir(parents=True)
    (stores / "loop").symlink_to("loop")
    return stores


def test_the_sound_one_is_listed_and_pruned(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "sound" / "seal.json.partial").write_bytes(b"12345")
    assert "sound" in {store.path.name for store in find_stores(folder)}
    assert zsseg("cache", "ls", folder, "--runs", folder / "none") == 0
    shown = capsys.readouterr()
    assert "sound" in shown.out
    assert "\x1b" not in shown.out + shown.err
    found = prune(folder, unfinished=False, dry_run=False)
    assert folder / "sound" / "seal.json.partial" in {each.path for each in found}


def test_runs_that_cannot_be_read_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number, text in enumerate((DEEP, "[]", '{"store": 3}', "\xff")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "run.json").write_text(text, encoding="latin-1")
    assert find_runs(tmp_path) == []
    assert len(caplog.records) == 4
    assert runs_of(tmp_path, []) == []


def test_a_cut_line_of_the_history_costs_that_line_only(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copytree(made[1], tmp_path / "store")
    before = Store.open(tmp_path / "store").history
    with (tmp_path / "store" / "history.jsonl").open("ab") as file:
        file.write(b'{"root": "/da')
    assert Store.open(tmp_path / "store").history == before
    assert before
