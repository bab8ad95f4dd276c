"""`zsseg dataset`: lists and describes data sets, and checks one on disk."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zsseg.pipeline import console
from zsseg.pipeline.cli.init import init
from zsseg.pipeline.cli.options import DatasetRoot
from zsseg.stages.data.spec import DatasetSpec, chosen_root, described_root, load_spec
from zsseg.stages.errors import DatasetError, UserError
from zsseg.stages.printable import counted
from zsseg.stages.yaml_files import builtin_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zsseg.stages.data.dataset_check import VerifyReport
    from zsseg.stages.data.problem_summary import ProblemSummary

_SHOWN = 3  # files named of a kind of problem

app = typer.Typer(no_args_is_help=True, help="Data sets: list, describe, fetch, import, verify.")

Name = Annotated[str, typer.Argument(help="Built-in data set, or a YAML description.")]


app.command("import")(init)


@app.command()
def ls(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """List the built-in data sets."""
    from zsseg.pipeline.tables import dataset_table

    specs = [load_spec(name) for name in builtin_names("datasets")]
    if as_json:
        sys.stdout.write(json.dumps([spec.model_dump(mode="json") for spec in specs]) + "\n")
    else:
        console.out.print(dataset_table(specs))


@app.command()
def info(
    name: Name,
    root: Annotated[Path | None, typer.Option(help="Count the images there.")] = None,
) -> None:
    """Show a data set's classes, which of them are unseen, and their prompt names."""
    from zsseg.pipeline.tables import class_table
    from zsseg.stages.data.splits import list_samples, present_splits

    spec = load_spec(name)
    console.out.print(class_table(spec))
    console.out.print()
    console.out.print(
        f"{spec.name}: {len(spec.classes)} classes, {len(spec.seen_ids)} seen, "
        f"{len(spec.unseen_ids)} unseen"
    )
    root = root or described_root(name)
    if root is not None:
        for split in present_splits(spec, root):
            samples = list_samples(spec, root, split)
            labelled = sum(sample.label is not None for sample in samples)
            console.out.print(
                f"{split}: {counted(len(samples), 'image')}, {labelled:,} with a label"
            )


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="Built-in data set.")],
    root: Annotated[Path, typer.Option(help="Folder to put it in.")],
    accept: Annotated[
        bool, typer.Option("--yes", "-y", help="Agree to its licence, and do not ask.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the archives once unpacked.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Download and unpack a public data set, by its official addresses; again: goes on.

    Its licence is shown first. Sizes and hashes are compared where they are published.
    """
    from zsseg.stages.importing import downloads

    found = downloads.public_dataset(name)
    console.out.print(f"{name}: {found.licence} ({found.page})", soft_wrap=True)
    for file in found.files:
        size = "size not published" if file.bytes is None else console.size_text(file.bytes)
        console.out.print(f"  {file.url} ({size})", soft_wrap=True)
    if not accept:
        if not sys.stdin.isatty():
            raise UserError(
                f"{name}: nobody can be asked to agree to its licence here. Read it at "
                f"{found.page}, and give --yes"
            )
        typer.confirm("Download it, and agree to its licence?", abort=True, err=True)
    with console.progress(f"fetch {name}", quiet=quiet) as advance:
        new = downloads.fetch(
            found,
            root,
            keep=keep,
            progress=lambda file, done, total: advance(done, total, file),
        )
    said = f"fetched {', '.join(new)}" if new else "all of it is here already"
    console.out.print(f"{said}; next:", f"  zsseg dataset verify {name} --root {root}", sep="\n")


@app.command()
def verify(
    name: Name,
    root: DatasetRoot = None,
    split: Annotated[str | None, typer.Option(help="Only this split. \\[default: all]")] = None,
    every_file: Annotated[
        bool, typer.Option("--all", help="List every file that is wrong, not the first few.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with every file.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Decode every image and label; say what is wrong and what would mend it, count pixels.

    Exit code 4 where files are wrong. Images without a label are none: they count as unlabelled.
    """
    from zsseg.stages.data.dataset_check import verify_split
    from zsseg.stages.data.problem_summary import summarised
    from zsseg.stages.data.splits import present_splits

    quiet = quiet or as_json
    console.configure_logging(quiet=quiet)
    spec, folder = load_spec(name), chosen_root(name, root)
    chosen = [split] if split else present_splits(spec, folder)
    wrong = warnings = 0
    shown = []
    for each in chosen:
        with console.progress(f"verify {each}", quiet=quiet) as advance:
            report = verify_split(spec, folder, each, progress=partial(_advance, advance))
        summaries = summarised(spec, report)
        told = report.warning(spec, each)
        wrong += sum(len(one.problems) for one in summaries if not one.allowed)
        warnings += sum(one.allowed for one in summaries) + bool(told)
        if as_json:
            shown.append(_json(spec, each, report, summaries))
            continue
        _print_split(spec, each, report)
        _print_problems(summaries, limit=None if every_file else _SHOWN)
        if told:
            console.err.print(f"warning: {told}", soft_wrap=True)
    if as_json:
        sys.stdout.write(json.dumps({"dataset": spec.name, "splits": shown}) + "\n")
    if wrong:
        raise DatasetError(
            f"{folder}: {counted(wrong, 'problem')} with its files (above). Mend them as it says "
            "there; --all lists every file"
        )
    if not as_json:
        ends = f"no file is wrong, but {counted(warnings, 'warning')} (above)"
        console.out.print("", ends if warnings else "no problems", sep="\n")
        where = ["--root", root] if root else []
        console.say_next("zsseg", "preview", name, *where, quiet=quiet)


def _print_split(spec: DatasetSpec, split: str, report: "VerifyReport") -> None:
    from zsseg.pipeline.tables import pixel_table

    count = f"{spec.name} {split}: {counted(report.samples, 'image')}"
    count += f", {report.unlabelled:,} of them without a label" if report.unlabelled else ""
    console.out.print("", count, sep="\n")
    console.out.print(pixel_table(spec, report))


def _print_problems(summaries: "Sequence[ProblemSummary]", *, limit: int | None) -> None:
    """A line for each kind, what would mend it, and its first files."""
    for each in summaries:
        console.out.print(f"{each.title}. {each.advice}.", soft_wrap=True)
        for problem in each.problems[:limit]:
            plain = each.kind in ("unlabelled", "label-alone")
            reason = "" if plain else f": {problem.reason}"
            console.out.print(f"  {problem.path}{reason}", soft_wrap=True)
        if limit is not None and (more := len(each.problems) - limit) > 0:
            console.out.print(f"  and {more:,} more", soft_wrap=True)


def _json(
    spec: DatasetSpec, split: str, report: "VerifyReport", summaries: "Sequence[ProblemSummary]"
) -> dict[str, object]:
    return {
        "split": split,
        "images": report.samples,
        "unlabelled": report.unlabelled,
        "pixels": dict(zip(spec.classes, report.pixels.tolist(), strict=True)),
        "void": report.void,
        "warning": report.warning(spec, split),
        "problems": [
            {
                "kind": each.kind,
                "title": each.title,
                "advice": each.advice,
                "allowed": each.allowed,
                "files": {str(problem.path): problem.reason for problem in each.problems},
            }
            for each in summaries
        ],
    }


def _advance(advance: console.Advance, done: int, total: int) -> None:
    advance(done, total, "")
