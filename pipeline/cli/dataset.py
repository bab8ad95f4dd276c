"""`zsseg dataset`: lists and describes data sets, and checks one on disk."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from zsseg.pipeline import console
from zsseg.pipeline.cli.options import DatasetRoot
from zsseg.stages.data.spec import chosen_root, described_root, load_spec
from zsseg.stages.errors import DatasetError
from zsseg.stages.printable import counted
from zsseg.stages.yaml_files import builtin_names

app = typer.Typer(no_args_is_help=True, help="Data sets: list, describe, verify.")

Name = Annotated[str, typer.Argument(help="Built-in data set, or a YAML description.")]


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
def verify(
    name: Name,
    root: DatasetRoot = None,
    split: Annotated[str | None, typer.Option(help="Only this split. \\[default: all]")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Decode every image and label; name each file that is wrong, count pixels per class."""
    from zsseg.pipeline.tables import pixel_table
    from zsseg.stages.data.dataset_check import verify_split
    from zsseg.stages.data.splits import present_splits

    console.configure_logging(quiet=quiet)
    spec, folder = load_spec(name), chosen_root(name, root)
    chosen = [split] if split else present_splits(spec, folder)
    problems = warnings = unlabelled = 0
    for each in chosen:
        with console.progress(f"verify {each}", quiet=quiet) as advance:
            report = verify_split(spec, folder, each, progress=partial(_advance, advance))
        count = f"{spec.name} {each}: {counted(report.samples, 'image')}"
        count += f", {report.unlabelled:,} of them without a label" if report.unlabelled else ""
        console.out.print("", count, sep="\n")
        console.out.print(pixel_table(spec, report))
        for problem in report.problems:
            console.out.print(f"{problem.path}: {problem.reason}", soft_wrap=True)
        if told := report.warning(spec, each):
            console.err.print(f"warning: {told}", soft_wrap=True)
            warnings += 1
        problems += len(report.problems)
        unlabelled += report.unlabelled
    if problems:
        advice = "fix or remove these files"
        if unlabelled and spec.seen_ids and spec.labelled == "all":
            advice += (
                "; where images have no label on purpose, say `labelled: some` in the description"
            )
        raise DatasetError(f"{problems} problems (listed above); {advice}")
    if warnings:
        console.out.print("", f"no file is wrong, but {warnings} warnings (above)", sep="\n")
    else:
        console.out.print("", "no problems", sep="\n")


def _advance(advance: console.Advance, done: int, total: int) -> None:
    advance(done, total, "")
