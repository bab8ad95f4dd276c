"""Stores in a folder: named, listed, chosen."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from helpers.seven_row_store import IDENTITY, make_store, open_writer

from zsseg.stages.cache.catalogue import (
    StoreSummary,
    choose_store,
    find_stores,
    locate_store,
    store_name,
)
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.recipe import fingerprint
from zsseg.stages.errors import CacheError


def test_names_are_readable_safe_and_differ_with_the_identity() -> None:
    name = store_name(IDENTITY, dataset="camvid", split="Train/a b", teacher="ViT-B-16/openai")
    assert name == f"camvid-train-a-b-vit-b-16-openai-{fingerprint(IDENTITY)[:8]}"
    other = store_name(IDENTITY | {"limit": 3}, dataset="camvid", split="train", teacher="x")
    assert not other.endswith(name[-8:])
    assert "/" not in store_name({}, dataset="../../x", split="..", teacher="")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished train store, an unfinished val store, a damaged one and a stray file."""
    make_store(tmp_path / "a-train")
    with open_writer(tmp_path / "b-val", identity=IDENTITY | {"split": "val"}):
        pass
    (tmp_path / "c-broken").mkdir()
    (tmp_path / "c-broken" / "zarr.json").write_text("{")
    (tmp_path / "README.md").write_text("")
    return tmp_path


def test_stores_are_found_and_summed_up(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    train, val = find_stores(folder)
    assert train == StoreSummary(
        path=folder / "a-train",
        dataset="tiny-world",
        split="train",
        teacher="local-dir:clip",
        images=7,
        sealed=True,
    )
    files = [file for file in (folder / "a-train").rglob("*") if file.is_file()]
    assert train.bytes == sum(file.stat().st_size for file in files) > 0
    assert (val.split, val.sealed) == ("val", False)
    assert "c-broken" in caplog.text
    assert find_stores(folder / "nothing") == []


def test_a_store_is_one_store_and_not_its_arrays(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (found,) = find_stores(folder / "a-train")
    assert (found.path, found.images) == (folder / "a-train", 7)
    assert not caplog.records


def test_sizes_are_only_taken_when_asked_and_survive_a_running_writer(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = Path.stat
    asked: list[Path] = []

    def vanishing(self: Path, **options: bool) -> os.stat_result:
        if self.name.startswith("c."):
            asked.append(self)
            self.unlink(missing_ok=True)
            shutil.rmtree(folder / "a-train" / "regions", ignore_errors=True)
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", vanishing)
    train, _ = find_stores(folder)
    assert choose_store(folder, split="train") == train.path
    assert not asked
    assert train.bytes > 0
    assert asked


def test_a_store_is_placed_where_its_identity_lies(tmp_path: Path) -> None:
    def place(identity: Mapping[str, object], teacher: str) -> StorePath:
        return locate_store(tmp_path, identity, dataset="tiny", split="train", teacher=teacher)

    assert place(IDENTITY, "clip").parent == tmp_path
    made = make_store(place(IDENTITY, "clip"))
    assert place(IDENTITY, "clip") == made
    assert place(IDENTITY, "renamed-clip") == made
    other = IDENTITY | {"limit": 3}
    assert place(other, "clip").name.startswith("tiny-train-clip-")
    assert place(other, "clip") != made
    # A name that only looks like it, and a store that cannot be read, are left alone.
    assert isinstance(made, Path)
    impostor = tmp_path / f"x-{fingerprint(other)[:8]}"
    shutil.copytree(made, impostor)
    assert place(other, "clip") != impostor
    (made / "zarr.json").write_text("{")
    assert place(IDENTITY, "renamed-clip").name.startswith("tiny-train-renamed-clip-")


def test_the_store_itself_or_the_only_one_that_fits_is_chosen(folder: Path) -> None:
    assert choose_store(folder / "b-val", split="train") == folder / "b-val"
    assert choose_store(folder, split="train") == folder / "a-train"
    assert choose_store(folder, split="val") == folder / "b-val"


def test_several_stores_are_listed(folder: Path) -> None:
    with pytest.raises(CacheError, match="several stores fit; give the path of one") as error:
        choose_store(folder)
    assert f"{folder / 'a-train'}  7 images, local-dir:clip\n" in str(error.value)
    assert f"{folder / 'b-val'}  7 images, local-dir:clip, unfinished" in str(error.value)


@pytest.mark.parametrize("name", ["", "nothing"])
def test_no_store_says_which_command_makes_one(folder: Path, name: str) -> None:
    with pytest.raises(
        CacheError,
        match=r"no store for --split test here; `zsseg precompute --dataset NAME --split test ",
    ):
        choose_store(folder / name, split="test")
    with pytest.raises(CacheError, match="no store here; `zsseg precompute --dataset NAME --root"):
        choose_store(folder / "nothing")


def test_looking_for_stores_needs_no_zarr() -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from zsseg.stages.cache.catalogue import find_stores\n"
        "find_stores(Path('.')); assert not {'zarr', 'torch'} & set(sys.modules)"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True, timeout=60)
