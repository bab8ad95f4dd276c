"""A description may name the folder of its data set, relative to itself."""

from pathlib import Path

import pytest

from zsseg.stages.data.spec import chosen_root, described_root, load_spec
from zsseg.stages.errors import DatasetError


def description(folder: Path, line: str = "") -> str:
    path = folder / "street.yaml"
    path.write_text(f"classes: [road, sky]\npatterns: {{images: .}}\nunseen: all\n{line}\n")
    return str(path)


def test_the_folder_is_the_one_given_else_that_of_the_description(tmp_path: Path) -> None:
    named = description(tmp_path, "root: photos")
    assert chosen_root(named, None) == tmp_path / "photos"
    assert chosen_root(named, Path("elsewhere")) == Path("elsewhere")
    absolute = description(tmp_path, "root: /data/photos")
    assert chosen_root(absolute, None) == Path("/data/photos")


def test_the_folder_is_no_part_of_what_a_data_set_is(tmp_path: Path) -> None:
    plain = load_spec(description(tmp_path))
    assert load_spec(description(tmp_path, "root: photos")) == plain


def test_where_nothing_names_the_folder_the_error_says_how(tmp_path: Path) -> None:
    plain = description(tmp_path)
    assert described_root(plain) is None
    with pytest.raises(DatasetError, match=r"--root FOLDER, or write `root: FOLDER` into .*street"):
        chosen_root(plain, None)
    with pytest.raises(DatasetError, match=r"Give --root FOLDER$"):
        chosen_root("camvid", None)
    with pytest.raises(DatasetError, match=r"`root` is 3\. Write a folder"):
        chosen_root(description(tmp_path, "root: 3"), None)
