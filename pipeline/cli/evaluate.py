"""`zsseg evaluate`: scores a run, or the cached teacher alone."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zsseg.pipeline import console
from zsseg.pipeline.cli.options import CacheFolder, Checkpoint, Exit, MovedRoot, Quiet, Settings
from zsseg.pipeline.run_options import evaluate_config, fixed_settings, text_encoder
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.errors import UserError
from zsseg.stages.printable import counted

if TYPE_CHECKING:
    from zsseg.stages.evaluate.result import EvaluationResult
    from zsseg.stages.evaluate.trained_run import TrainedRun
    from zsseg.stages.train.run_config import EvaluateConfig

Dataset = Annotated[
    str | None, typer.Option(help="Data set or description. \\[default: the run's]")
]
Calibration = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="gamma: taken off the cosines of seen classes before the argmax. Above 0, the "
        "scores without it are reported too. \\[default: the run's]",
    ),
]
Clip = Annotated[
    str | None, typer.Option(help="Where the run's CLIP is now, for names that --dataset changes.")
]
OldFlag = Annotated[
    bool, typer.Option("--teacher", hidden=True, help="The name of --teacher-alone in 0.1.")
]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json", help="Print each result as a line of JSON: gamma 0 first, a teacher's last."
    ),
]
Show = Callable[[int, int], None]
"""Called with the number of images scored, and of all."""


ResultFolder = Annotated[
    Path | None, typer.Option(help="Folder of the JSON and CSV. \\[default: the run]")
]


def evaluate(
    run: Annotated[Path | None, typer.Option(help="Folder of a run.")] = None,
    teacher_alone: Annotated[
        bool,
        typer.Option("--teacher-alone", help="Score what is cached of the teacher, untrained."),
    ] = False,
    teacher: OldFlag = False,
    cache: CacheFolder = Path("data_cache"),
    dataset: Dataset = None,
    clip: Clip = None,
    root: MovedRoot = None,
    split: Annotated[str, typer.Option(help="Split to score.")] = "val",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N images.")] = None,
    calibration: Calibration = None,
    checkpoint: Checkpoint = None,
    out: ResultFolder = None,
    as_json: AsJson = False,
    settings: Settings = None,
    quiet: Quiet = False,
) -> None:
    """Score a run (or, with --teacher-alone, the cache itself): hIoU, sIoU, uIoU and every class.

    Where no class is seen: mIoU, beside the teacher's own if the cache has a store of the split.

    With a gamma above 0, with and without it: two score lines, and two results written.

    For several GPUs or machines, start it with `torchrun --no-python --nproc-per-node N -- zsseg
    evaluate ...` or `accelerate launch`: they share the images, and the result stays what it is.
    """

    def checked() -> "EvaluateConfig | None":
        of_run = bool(limit or settings or clip or checkpoint)
        _check_options(run, teacher or teacher_alone, calibration, of_run)
        return None if run is None else evaluate_config(run, calibration, settings or [])

    if "WORLD_SIZE" not in os.environ:
        checked()  # before torch is loaded; of several processes one tells of a mistake, below
    from zsseg.stages.evaluate.trained_run import load_run
    from zsseg.stages.train.processes import joined_processes, launched

    first = launched()[0] == 0
    quiet = quiet or as_json or not first
    console.configure_logging(quiet=quiet, first=first)
    with joined_processes():
        config = checked()
        with console.progress("evaluate", quiet=quiet) as advance:

            def show(done: int, total: int) -> None:
                advance(done, total, "")

            if run is None:
                results = _of_teacher(cache, split, dataset, root, calibration or 0.0, show)
            else:
                opened = load_run(run, evaluate=config, checkpoint=checkpoint)
                student = replace(opened, fixed=fixed_settings(settings or []))
                results = _of_run(student, clip, dataset, root, split, limit, show)
        if first:
            _report(results, out or run, as_json=as_json)
        _end_as(results[0])


def _end_as(result: "EvaluationResult") -> None:
    """Exit code 3 where images were left out for lack of memory."""
    if result.settings.get("out_of_memory", {}).get("left_out"):
        raise typer.Exit(Exit.SKIPPED)


def _check_options(run: Path | None, alone: bool, calibration: float | None, of_run: bool) -> None:
    """Raise UserError for options that do not go together; `of_run`: some are for runs only."""
    if (run is None) != alone:
        raise UserError(
            "give either --run RUN (a student) or --teacher-alone --cache DIR (a store)"
        )
    if run is None and of_run:
        raise UserError(
            "--limit, --clip, --checkpoint and --set are for runs; --teacher-alone scores the "
            "whole store. Leave them out"
        )
    if calibration is not None and not isfinite(calibration):
        raise UserError(f"--calibration {calibration}: give a finite number, such as 0.02")


def _of_teacher(
    cache: StorePath,
    split: str,
    dataset: str | None,
    root: Path | None,
    calibration: float,
    show: Show,
) -> "Sequence[EvaluationResult]":
    """Scores of the dense tokens, and of the map of names, in the store of a split."""
    from zsseg.pipeline.named_stores import dataset_root, stored_spec
    from zsseg.stages.cache.catalogue import choose_store
    from zsseg.stages.cache.reader import Store
    from zsseg.stages.cache.tools.uses import note_use
    from zsseg.stages.data.spec import described_root, load_spec
    from zsseg.stages.evaluate.teacher_evaluation import evaluate_teacher
    from zsseg.stages.train.processes import processes

    store = Store.open(choose_store(cache, split=split))
    if (own := store.identity["split"]) != split:
        raise UserError(
            f"{store.path}: a store of split '{own}', and '{split}' is to be scored. Give "
            f"--split {own}, or the store of '{split}' with --cache"
        )
    if processes()[0] == 0:
        note_use(store.path)
    spec = load_spec(dataset) if dataset else stored_spec(store)
    folder = dataset_root(root or (described_root(dataset) if dataset else None), store)
    return evaluate_teacher(store, spec, folder, calibration=calibration, progress=show)


def _of_run(
    student: "TrainedRun",
    clip: str | None,
    dataset: str | None,
    root: Path | None,
    split: str,
    limit: int | None,
    show: Show,
) -> "Sequence[EvaluationResult]":
    """Scores of a run's student."""
    from zsseg.stages.data.spec import described_root, load_spec
    from zsseg.stages.evaluate.evaluation import evaluate_run
    from zsseg.stages.evaluate.vocabulary import renamed

    spec = load_spec(dataset) if dataset else student.spec
    named = renamed(student, spec, encode=text_encoder(student, clip), teacher=clip)
    folder = root or (described_root(dataset) if dataset else None) or student.record.root
    results = evaluate_run(named, spec, folder, split, limit=limit, progress=show)
    if spec.seen_ids or dataset or limit:
        return results
    return [*results, *_teacher_beside(student, folder, split, show)]


def _teacher_beside(
    student: "TrainedRun", root: Path, split: str, show: Show
) -> "Sequence[EvaluationResult]":
    """The teacher's own scores, the measure of a run without labels; () without a store of them."""
    from zsseg.pipeline.named_stores import teacher_store
    from zsseg.stages.evaluate.teacher_evaluation import evaluate_teacher
    from zsseg.stages.train.processes import processes

    training = student.record.store
    store = teacher_store(training, split)
    if store is not None:
        return evaluate_teacher(store, student.spec, root, progress=show)
    if processes()[0] == 0:
        console.err.print(
            f"the teacher's own scores are not shown: beside {training} there is no finished store "
            f"of split '{split}' with dense tokens or a map of names. Make one with the `zsseg "
            f"precompute` command of this store (its README.md has it) and --split {split}",
            soft_wrap=True,
        )
    return ()


def _report(results: "Sequence[EvaluationResult]", folder: Path | None, *, as_json: bool) -> None:
    """Print the results, one per gamma, and write them into a folder if there is one."""
    from zsseg.pipeline.tables import (
        checkpoint_text,
        memory_text,
        score_lines,
        score_table,
        trained_on_text,
    )
    from zsseg.stages.evaluate.result import save_result, to_json

    if as_json:
        for result in results:
            sys.stdout.write(json.dumps(to_json(result), allow_nan=False) + "\n")
    else:
        first = results[0]
        console.out.print(score_table(results))
        text = f"{counted(first.images, 'image')} of {first.dataset} {first.split}, in percent:"
        console.out.print("", text, sep="\n")
        for line in score_lines(results):
            console.out.print(line, style="bold")
        warnings = (trained_on_text(first), memory_text(first), checkpoint_text(first))
        for warning in filter(None, warnings):
            console.out.print(warning, style="bold red", soft_wrap=True)
    # Printed before they are written: results are not lost if the folder cannot be written.
    if folder:
        saved = [path for result in results for path in save_result(folder, result)]
        if not as_json:
            console.out.print("written: " + ", ".join(map(str, saved)), soft_wrap=True)
