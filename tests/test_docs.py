"""What the documents name is there: files, links, commands and options; the README is short."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer

from zsseg.pipeline.cli.main import app
from zsseg.pipeline.cli.options import Exit
from zsseg.stages import errors

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "data_cache" / "README.md"]
)
PAGES.remove(ROOT / "CHANGELOG.md")  # speaks of what was
README = (ROOT / "README.md").read_text(encoding="utf-8")

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def code_of(page: Path) -> list[str]:
    """The lines of a page's fenced code, with continued lines joined."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return "".join(blocks).replace("\\\n", " ").splitlines()


def tracked() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=False
    ).stdout.splitlines()
    if not listed:
        pytest.skip("not a git checkout")
    return listed


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_the_tree_of_the_readme_names_every_folder_and_every_file_at_the_top() -> None:
    tree = README.partition("## The tree")[2].partition("## ")[0]
    named = set(re.findall(r"[\w.-]+", tree))
    files = [Path(name) for name in tracked()]
    top = {path.name for path in files if len(path.parts) == 1}
    own_trees = ("tests/", "zsseg/")  # folders as above, and links to what is above
    folders = {
        part
        for path in files
        for part in path.parts[:-1]
        if not path.as_posix().startswith(own_trees)
    }
    assert top | folders | {"tests", "zsseg"} <= named
    assert len(tree.splitlines()) <= 50


def test_the_tree_of_the_readme_names_nothing_that_is_not_there() -> None:
    block = README.partition("## The tree")[2].split("```")[1]
    there = {part for name in tracked() for part in Path(name).parts}
    for name in re.findall(r"[\w.-]+(?:\.py\b|/)", block):
        assert name.rstrip("/") in there, name


@by_page
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        aim = (page.parent / file) if file else page
        assert aim.exists(), f"{page.name}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", aim.read_text("utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in titles}
            assert anchor in anchors, f"{page.name}: {target}"


@by_page
def test_files_named_in_the_text_are_there(page: Path) -> None:
    text = page.read_text("utf-8")
    pattern = r"`((?:pipeline|stages|configs|tests|benchmarks|docs|zsseg)/[\w./-]+)`"
    placeholders = {name for name in re.findall(pattern, text) if "NAME" in name}
    written_later = {"benchmarks/results.json"}  # by `make bench`
    for name in set(re.findall(pattern, text)) - placeholders - written_later:
        assert (ROOT / name).exists(), f"{page.name}: {name}"
    for name in re.findall(r"pytest (tests/[\w./-]+)", text):
        assert (ROOT / name).exists(), f"{page.name}: {name}"
    for module in re.findall(r"python -m ((?:benchmarks|zsseg)[\w.]+)", text):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), f"{page.name}: {module}"


@by_page
def test_commands_and_their_options_exist(page: Path) -> None:
    root = typer.main.get_command(app)
    lines = [re.sub(r"^.* -- (?=zsseg )", "", line.partition(" #")[0]) for line in code_of(page)]
    for line in lines:
        # Words of a shell loop stand around a command.
        if found := re.search(r"(?:^|\bdo |; )\s*(zsseg [^;]*)", line):
            words = shlex.split(found[1])[1:]
            command = root
            while hasattr(command, "commands") and words and not words[0].startswith("-"):
                name = words.pop(0)
                assert name in command.commands, f"{page.name}: {line}"
                command = command.commands[name]
            options = {
                name for each in command.params for name in [*each.opts, *each.secondary_opts]
            }
            used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
            assert used <= options | {"--help", "--debug"}, f"{page.name}: {line}"


def test_the_page_of_errors_has_every_kind_and_code() -> None:
    page = (ROOT / "docs" / "errors.md").read_text("utf-8")
    table = page.partition("\n## ")[0]
    kinds = [each for each in vars(errors).values() if isinstance(each, type)]
    assert len(kinds) >= 7
    for kind in kinds:
        assert issubclass(kind, errors.UserError)
        row = next(line for line in table.splitlines() if f"`{kind.__name__}`" in line)
        assert row.startswith(f"| {kind.exit_code} |"), kind.__name__
        assert f"\n## {kind.exit_code}: " in page
    for code in Exit:
        assert re.search(rf"^\| (?:\d+, )?{code.value}\b", table, re.MULTILINE), code.name


def test_the_messages_on_the_page_of_errors_are_in_the_code() -> None:
    files = [*(ROOT / "stages").rglob("*.py"), *(ROOT / "pipeline").rglob("*.py")]
    code = "\n".join(file.read_text("utf-8") for file in files)
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # strings that are put together
    page = (ROOT / "docs" / "errors.md").read_text("utf-8").partition("\n## ")[2]
    messages = re.findall(r"`([^`]+)`", " ".join(re.findall(r"^\| ([^|]+) \|", page, re.MULTILINE)))
    pieces = [piece.strip() for message in messages for piece in message.split("...") if piece]
    assert len(pieces) > 15
    assert [piece for piece in pieces if piece not in code] == []


FAULTS = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")


def test_every_row_of_the_faults_names_tests_or_says_that_it_was_not_tried() -> None:
    rows = [line for line in FAULTS.splitlines() if re.match(r"\| \d+ \|", line)]
    assert [int(row.split("|")[1]) for row in rows] == list(range(1, 56))
    for row in rows:
        assert "::test_" in row or "**Not tried**" in row, row


def test_the_tests_named_for_faults_are_there() -> None:
    named = re.findall(r"`(tests/[\w/.]+)::(test_\w+)`", FAULTS)
    assert len(named) == FAULTS.count("::")
    for file, name in named:
        there = re.search(rf"^def {name}\(", (ROOT / file).read_text("utf-8"), re.MULTILINE)
        assert there, f"{file}::{name}"
