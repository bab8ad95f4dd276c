"""`zsseg evaluate`: scores a run, or the cached teacher alone."""

import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zsseg.pipeline import console
from zsseg.pipeline.cli.options import CacheFolder, Checkpoint, Exit, MovedRoot, Quiet, Settings
from zsseg.pipeline.face.score_student import evaluate as score
from zsseg.pipeline.run_options import evaluate_config
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.errors import UserError
from zsseg.stages.printable import counted

if TYPE_CHECKING:
    from zsseg.stages.evaluate.result import EvaluationResult

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
TeacherAlone = Annotated[
    bool, typer.Option("--teacher-alone", help="Score what is cached of the teacher, untrained.")
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
ResultFolder = Annotated[
    Path | None, typer.Option(help="Folder of the JSON and CSV. \\[default: the run]")
]


def evaluate(
    run: Annotated[Path | None, typer.Option(help="Folder of a run.")] = None,
    teacher_alone: TeacherAlone = False,
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

    of_run = bool(limit or settings or clip or checkpoint)
    check = partial(
        _check_options, run, teacher or teacher_alone, calibration, of_run, settings or []
    )
    if "WORLD_SIZE" not in os.environ:
        check()  # before torch is loaded; of several processes one tells of a mistake, below
    from zsseg.stages.train.processes import joined_processes, launched

    first = launched()[0] == 0
    quiet = quiet or as_json or not first
    console.configure_logging(quiet=quiet, first=first)
    with joined_processes():
        check()
        results: Sequence[EvaluationResult]
        with console.progress("evaluate", quiet=quiet) as advance:
            if run is None:
                results = _of_teacher(cache, split, dataset, root, calibration or 0.0, advance)
            else:
                results = score(
                    run,
                    dataset=dataset,
                    clip=clip,
                    root=root,
                    split=split,
                    limit=limit,
                    calibration=calibration,
                    checkpoint=checkpoint,
                    set=settings,
                    progress=advance,
                )
        if first:
            _report(results, out or run, as_json=as_json)
        _end_as(results[0])


def _end_as(result: "EvaluationResult") -> None:
    """Exit code 3 where images were left out for lack of memory."""
    if result.settings.get("out_of_memory", {}).get("left_out"):
        raise typer.Exit(Exit.SKIPPED)


def _check_options(
    run: Path | None,
    alone: bool,
    calibration: float | None,
    of_run: bool,
    settings: Sequence[str],
) -> None:
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
    if run is not None:
        evaluate_config(run, calibration, settings)


def _of_teacher(
    cache: StorePath,
    split: str,
    dataset: str | None,
    root: Path | None,
    calibration: float,
    advance: console.Advance,
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
    return evaluate_teacher(
        store,
        spec,
        folder,
        calibration=calibration,
        progress=lambda done, total: advance(done, total, ""),
    )


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
