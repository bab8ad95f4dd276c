"""Names of classes on the command line: separated by commas, quoted, or in a file."""

from pathlib import Path

import pytest

from zsseg.pipeline.run_options import read_names
from zsseg.stages.errors import UserError


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (None, []),
        ("car, tree", ["car", "tree"]),
        ('"bed, double", car', ["bed, double", "car"]),
        ('lamp,"table, round","a ""b"""', ["lamp", "table, round", 'a "b"']),
        ('5" screen, car', ['5" screen', "car"]),
        ("car [red], d'oeuvre", ["car [red]", "d'oeuvre"]),
        ("car,, tree", ["car", "", "tree"]),  # refused by `checked_names`
    ],
)
def test_names(text: str | None, names: list[str]) -> None:
    assert read_names(text, "--classes") == names


@pytest.mark.parametrize("text", ['"bed, double', '"bed, double" wide, car', ""])
def test_what_is_no_list(text: str) -> None:
    with pytest.raises(UserError, match="--background"):
        read_names(text, "--background")


def test_a_file_of_names(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes("\ufeffbed, double\r\n\r\n  caf\u00e9 \r\n".encode())
    assert read_names(f"@{path}", "--classes") == ["bed, double", "caf\u00e9"]
    for content, reason in ((b"\xff\xfea", "not UTF-8 text .UTF-16"), (b"\n\n", "no name")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=reason):
            read_names(f"@{path}", "--classes")
    with pytest.raises(UserError, match=r"--classes @.*nowhere: there is no"):
        read_names(f"@{tmp_path / 'nowhere'}", "--classes")
    with pytest.raises(UserError, match="it is a folder, not a file"):
        read_names(f"@{tmp_path}", "--classes")
