import subprocess
import sys
from pathlib import Path

import pytest
from small_store import IDENTITY, make_store, open_writer

from stages.cache.catalogue import StoreSummary, choose_store, find_stores, store_name
from stages.cache.reader import Store
from stages.cache.recipe import fingerprint
from stages.errors import CacheError


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
        bytes=Store.open(folder / "a-train").bytes(),
        sealed=True,
    )
    assert (val.split, val.sealed) == ("val", False)
    assert "c-broken" in caplog.text
    assert find_stores(folder / "nothing") == []


def test_the_store_itself_or_the_only_one_that_fits_is_chosen(folder: Path) -> None:
    assert choose_store(folder / "b-val", split="train") == folder / "b-val"
    assert choose_store(folder, split="train") == folder / "a-train"
    assert choose_store(folder, dataset="tiny-world", split="val") == folder / "b-val"


def test_several_stores_are_listed(folder: Path) -> None:
    with pytest.raises(CacheError, match="several stores fit; give the path of one") as error:
        choose_store(folder, dataset="tiny-world")
    assert f"{folder / 'a-train'}  7 images, local-dir:clip\n" in str(error.value)
    assert f"{folder / 'b-val'}  7 images, local-dir:clip, unfinished" in str(error.value)


@pytest.mark.parametrize("name", ["", "nothing"])
def test_no_store_says_which_command_makes_one(folder: Path, name: str) -> None:
    with pytest.raises(CacheError, match="`zsseg precompute --dataset camvid --split train --root"):
        choose_store(folder / name, dataset="camvid", split="train")
    with pytest.raises(CacheError, match="no store here; `zsseg precompute --dataset NAME --root"):
        choose_store(folder / "nothing")


def test_looking_for_stores_needs_no_zarr() -> None:
    program = (
        "import sys; from pathlib import Path; from stages.cache.catalogue import find_stores\n"
        "find_stores(Path('.')); assert not {'zarr', 'torch'} & set(sys.modules)"
    )
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True, timeout=60)
