"""What is printed: any name as it is, nothing that a terminal would act on, on any stdout."""

import io
import os
import subprocess
import sys
from collections.abc import Sequence

import pytest
from helpers.zsseg_command import zsseg
from rich.table import Table

from zsseg.pipeline import console
from zsseg.pipeline.demo import demo_run
from zsseg.stages.printable import counted, first_line

COMMAND = "import sys; from zsseg.pipeline.cli.main import main; main()"


def printed(capsys: pytest.CaptureFixture[str], text: str) -> str:
    console.out.print(text, soft_wrap=True)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("run [lr=3]", "run [lr=3]"),
        ("x[/y]", "x[/y]"),
        ("[bold]a[/bold] :smile: [link=http://a.b]c", "[bold]a[/bold] :smile: [link=http://a.b]c"),
        ("a\x1b[31mred\x07", r"a\x1b[31mred\x07"),
        ("back\rspace\b", r"back\x0dspace\x08"),
        ("c1 \x9b31m", r"c1 \x9b31m"),
        ("right \u202eto left", r"right \u202eto left"),
        (os.fsdecode(b"caf\xe9.jpg"), r"caf\xe9.jpg"),
        ("straße 道路", "straße 道路"),
    ],
)
def test_a_name_is_printed_as_it_is(
    capsys: pytest.CaptureFixture[str], name: str, shown: str
) -> None:
    assert printed(capsys, name) == f"{shown}\n"
    table = Table("name", box=None)
    table.add_row(name)
    console.print_whole(table)
    assert capsys.readouterr().out.splitlines()[1].strip() == shown


def test_a_cell_and_a_word_of_progress_stay_in_their_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = Table("name", "other", box=None)
    table.add_row("one\nerror: two", "b")
    console.print_whole(table)
    assert len(capsys.readouterr().out.splitlines()) == 2
    with console.progress("read") as advance:
        advance(1, 1, "a\nb\x1b[2J")
    assert capsys.readouterr().err.endswith("  a\\nb\\x1b[2J\n")


def test_a_name_in_an_error_stays_in_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert zsseg("cache", "info", "a\nerror: \x1b]0;b[/]") != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert r"a\nerror: \x1b]0;b[/]" in line


def test_streams_that_are_closed_or_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr("sys.stdout", ascii_only)
    monkeypatch.setattr("sys.stderr", None)
    console.open_streams()
    sys.stdout.write("± \udcff")
    console.err.print("nobody reads this")
    sys.stderr.close()
    ascii_only.flush()
    assert ascii_only.buffer.getvalue() == rb"\xb1 \udcff"


def shell(line: str) -> subprocess.CompletedProcess[str]:
    command = f'zsseg() {{ "{sys.executable}" -c "{COMMAND}" "$@"; }}; {line}'
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)


def test_nobody_reads_stdout() -> None:
    closed = shell("zsseg config ls >&-")
    assert (closed.returncode, closed.stderr) == (0, "")
    piped = shell("zsseg config show sdd_rst | true; exit ${PIPESTATUS[0]}")
    assert piped.returncode in (0, 1)
    assert piped.stderr == ""
    full = shell("zsseg config show sdd_rst > /dev/full")
    assert full.returncode == 7
    assert full.stderr.startswith("error: No space left on device")
    assert "Traceback" not in full.stderr
    assert "Exception" not in full.stderr


def test_ctrl_c_ends_the_demo(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun: list[Sequence[str]] = []

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def two_commands(*_: object, **__: object) -> None:
        run = _[1]
        assert callable(run)
        for words in (["config", "show", "sdd_rst"], ["config", "ls"]):
            begun.append(words)
            run(words)

    monkeypatch.setattr(demo_run, "run_demo", two_commands)
    monkeypatch.setattr("zsseg.pipeline.cli.config.experiment_text", interrupted)
    assert zsseg("demo", "--out", "nowhere") == 130
    assert len(begun) == 1
    assert "run the same command again" in capsys.readouterr().err


def test_an_interrupted_table_says_how_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("zsseg.pipeline.ablate.table_plan.table_name", interrupted)
    assert zsseg("ablate", "II") == 130
    shown = capsys.readouterr().err
    assert "to go on, run the same command again: what was finished is kept" in shown


@pytest.mark.parametrize(
    ("number", "words", "shown"),
    [
        (1, ("image",), "1 image"),
        (0, ("image",), "0 images"),
        (20_000, ("step",), "20,000 steps"),
        (1, ("pass", "passes"), "1 pass"),
        (2, ("file is", "files are"), "2 files are"),
    ],
)
def test_a_number_has_its_noun_in_the_right_form(
    number: int, words: tuple[str, ...], shown: str
) -> None:
    assert counted(number, *words) == shown


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("\n broken\nby this\n"), "broken"),
        (NotImplementedError(), "NotImplementedError"),  # as torch raises it
        (ValueError(" \n"), "ValueError"),
    ],
)
def test_an_error_that_says_nothing_is_named_by_its_kind(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_the_next_command_can_be_typed_and_is_left_out_within_another(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.say_next("zsseg", "run", "my photos.yaml", quiet=False)
    assert capsys.readouterr() == ("", "next: zsseg run 'my photos.yaml'\n")
    console.say_next("zsseg", "run", "photos.yaml", quiet=True)
    with console.no_output():
        console.say_next("zsseg", "run", "photos.yaml", quiet=False)
    assert capsys.readouterr() == ("", "")
