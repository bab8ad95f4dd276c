"""`zsseg evaluate` and `zsseg predict`: what a run is worth, and what it is for."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from pipeline import console
from pipeline.config import apply_settings, build
from pipeline.options import CacheFolder, Exit, Quiet, Settings
from stages.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from stages.evaluate.result import EvaluationResult
    from stages.evaluate.run import Run
    from stages.train.config import EvaluateConfig

    Embeddings = NDArray[np.float32]


def evaluate(
    run: Annotated[Path | None, typer.Option(help="Folder of a run.")] = None,
    teacher: Annotated[
        bool, typer.Option("--teacher", help="Score the cached dense tokens, without training.")
    ] = False,
    cache: CacheFolder = Path("data_cache"),
    dataset: Annotated[
        str | None, typer.Option(help="Data set or description. \\[default: the run's]")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="Folder of the data set, if it has moved.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split to score.")] = "val",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N images.")] = None,
    calibration: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="gamma: taken off the cosines of seen classes before the argmax. Above 0, the "
            "scores without it are reported too. \\[default: the run's]",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the JSON and CSV. \\[default: the run]")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each result as a line of JSON, gamma 0 first.")
    ] = False,
    settings: Settings = None,
    quiet: Quiet = False,
) -> None:
    """Score a run (or, with --teacher, the cache itself): hIoU, sIoU, uIoU and every class.

    With a gamma above 0, with and without it: two score lines, and two results written.

    For several GPUs or machines, start it with `torchrun --no-python --nproc-per-node N -- zsseg
    evaluate ...` or `accelerate launch`: they share the images, and the result stays what it is.
    """
    from stages.train.processes import joined_processes, processes

    quiet = console.others_are_silent(quiet=quiet)
    console.configure_logging(quiet=quiet or as_json)
    from pipeline.stores import dataset_root, stored_spec
    from stages.cache.catalogue import choose_store
    from stages.cache.reader import Store
    from stages.cache.uses import note_use
    from stages.data.spec import load_spec
    from stages.evaluate.evaluate import evaluate_run, evaluate_teacher
    from stages.evaluate.run import load_run
    from stages.evaluate.vocabulary import renamed

    with joined_processes():
        if (run is None) != teacher:
            raise UserError("give either --run RUN (a student) or --teacher --cache DIR (a store)")
        if run is None and (limit or settings):
            raise UserError("--limit and --set are for runs; --teacher scores the whole store")
        first = processes()[0] == 0
        with console.progress("evaluate", quiet=quiet or as_json) as advance:
            if run is None:
                store = Store.open(choose_store(cache, split=split))
                if first:
                    note_use(store.path)
                results = evaluate_teacher(
                    store,
                    load_spec(dataset) if dataset else stored_spec(store),
                    dataset_root(root, store),
                    calibration=calibration or 0.0,
                    progress=lambda done, total: advance(done, total, ""),
                )
            else:
                student = load_run(run, evaluate=_evaluate_config(run, calibration, settings or []))
                spec = load_spec(dataset) if dataset else student.spec
                results = evaluate_run(
                    renamed(student, spec, encode=_encoder(student)),
                    spec,
                    root or student.record.root,
                    split,
                    limit=limit,
                    progress=lambda done, total: advance(done, total, ""),
                )
        if first:
            _report(results, out or run, as_json=as_json)


def _report(results: "Sequence[EvaluationResult]", folder: Path | None, *, as_json: bool) -> None:
    """Print the results, one per gamma, and write them into a folder if there is one."""
    from pipeline.tables import score_lines, score_table
    from stages.evaluate.result import save_result, to_json

    if as_json:
        for result in results:
            sys.stdout.write(json.dumps(to_json(result), allow_nan=False) + "\n")
    else:
        first = results[0]
        console.out.print(score_table(results))
        console.out.print(f"\n{first.images} images of {first.dataset} {first.split}, in percent:")
        for line in score_lines(results):
            console.out.print(line, style="bold")
    # Shown first: a folder that cannot be written must not cost the result.
    if folder:
        saved = [path for result in results for path in save_result(folder, result)]
        if not as_json:
            console.out.print("written: " + ", ".join(map(str, saved)), soft_wrap=True)


def predict(
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    run: Annotated[Path, typer.Option(help="Folder of a run.")],
    out: Annotated[Path, typer.Option(help="Folder for label maps and overlays.")],
    classes: Annotated[
        str | None, typer.Option(help='Any class names: "car, tree". \\[default: the run\'s]')
    ] = None,
    background: Annotated[
        str | None, typer.Option(help="Names of what else is there; it becomes void.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Where the run's CLIP is now, for new class names.")
    ] = None,
    settings: Settings = None,
    quiet: Quiet = False,
) -> None:
    """Write a label map (palette PNG) and an overlay for each image."""
    console.configure_logging(quiet=quiet)
    from stages.evaluate.predict import predict_files
    from stages.evaluate.run import load_run
    from stages.evaluate.vocabulary import class_text

    student = load_run(run, evaluate=_evaluate_config(run, None, settings or []))

    names = _names(classes) or student.spec.classes
    others = _names(background)
    encode = _encoder(student, teacher)
    text_CD = class_text(student, [*names, *others], encode=encode, teacher=teacher)
    with console.progress("predict", quiet=quiet) as advance:
        result = predict_files(
            student,
            images,
            out,
            text_CD=text_CD,
            classes=names,
            background=others,
            progress=lambda done, total: advance(done, total, ""),
        )
    console.out.print(f"{len(result.labels)} label maps and overlays in {out}", soft_wrap=True)
    if result.failures:
        console.err.print(f"{len(result.failures)} images could not be read (named above)")
        raise typer.Exit(Exit.SKIPPED)


def _evaluate_config(
    run: Path, calibration: float | None, settings: "Sequence[str]"
) -> "EvaluateConfig":
    """How the run was set to be evaluated, with what the command line changes."""
    from stages.train.config import RunConfig
    from stages.train.run_folder import read_record

    if wrong := [setting for setting in settings if not setting.startswith("evaluate.")]:
        raise UserError(f"--set {wrong[0]}: the run is trained; only evaluate.* can be set now")
    values = read_record(run).config.model_dump(mode="json")
    changes = [*settings]
    if calibration is not None:
        changes.append(f"evaluate.calibration={calibration}")
    return build(RunConfig, apply_settings(values, changes), where="--set").evaluate


def _encoder(run: "Run", teacher: str | None = None) -> "Callable[[Sequence[str]], Embeddings]":
    """CLIP's text tower with the run's templates, loaded when it is first called."""

    def encode(names: "Sequence[str]") -> "Embeddings":
        from stages.precompute.text import Templates, encode_names

        templates = cast(Templates, run.record.templates)
        return encode_names(teacher or run.record.teacher, names, templates)

    return encode


def _names(text: str | None) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in text.split(",")] if text else []
