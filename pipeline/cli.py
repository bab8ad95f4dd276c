"""The `zsseg` command: precompute, train, evaluate, predict, and looking around.

Each command parses, calls and prints. Heavy imports stay inside the command that needs them, so
`zsseg --help` loads no torch.
"""

import json
import sys
import traceback
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import cli_cache, cli_config, cli_dataset, console
from pipeline.config import apply_settings, build, read_experiment, read_values
from stages.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from stages.train.config import EvaluateConfig

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Zero-shot semantic segmentation: run CLIP once into a cache (precompute), then train "
    "any student against it (train). CLIP is not needed afterwards.",
)
app.add_typer(cli_dataset.app, name="dataset")
app.add_typer(cli_cache.app, name="cache")
app.add_typer(cli_config.app, name="config")

DEFAULT_TEACHER = "ViT-B-16-quickgelu/openai"
DEFAULT_EXPERIMENT = "sdd_rst"

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Change one setting; may be given many times."),
]
CacheFolder = Annotated[
    Path, typer.Option("--cache", help="Folder of stores, or one store.", show_default=True)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no messages.")]


class Exit(IntEnum):
    """Exit codes beside those of stages.errors."""

    UNEXPECTED = 1
    SKIPPED = 3
    RESOURCES = 7
    INTERRUPTED = 130


@app.command()
def precompute(
    dataset: Annotated[str, typer.Option(help="Data set by name, or a YAML description.")],
    root: Annotated[Path, typer.Option(help="Folder of the data set; never written to.")],
    split: Annotated[str, typer.Option(help="Split of the data set.")] = "train",
    teacher: Annotated[
        str,
        typer.Option(
            help="CLIP: NAME/PRETRAINED of open_clip, hf-hub:ORG/REPO, local-dir:DIR, NAME@FILE."
        ),
    ] = DEFAULT_TEACHER,
    cache: CacheFolder = Path("data_cache"),
    config: Annotated[Path | None, typer.Option(help="YAML file of precompute settings.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N images.")] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Recompute in place what was made otherwise.")
    ] = False,
    settings: Settings = None,
    quiet: Quiet = False,
) -> None:
    """Stage one: run CLIP once over a split and write the store. Run it again to resume."""
    console.configure_logging(quiet=quiet)
    from stages.data.spec import load_spec
    from stages.precompute.config import PrecomputeConfig
    from stages.precompute.run import precompute as run

    values = apply_settings(read_values(config) if config else {}, settings or [])
    checked = build(PrecomputeConfig, values, where=str(config) if config else "precompute")
    with console.progress("precompute", quiet=quiet) as advance:
        result = run(
            load_spec(dataset),
            root=root,
            split=split,
            teacher=teacher,
            cache=cache,
            config=checked,
            limit=limit,
            update=update,
            progress=lambda now: advance(now.done, now.total, now.phase),
        )
    for name, reason in result.failed.items():
        console.err.print(f"{name}: left out: {reason}", markup=False, soft_wrap=True)
    if result.written:
        rows = ", ".join(f"{name} {count}" for name, count in result.written.items())
        seconds = " | ".join(f"{name} {spent:.1f} s" for name, spent in result.seconds.items())
        console.out.print(f"written: {rows}\n{seconds}", soft_wrap=True)
    else:
        console.out.print("nothing to do: every artifact of every image is there")
    good = result.images - len(result.failed)
    console.out.print(f"{result.path}: {good} of {result.images} images, complete", soft_wrap=True)
    if result.failed:
        raise typer.Exit(Exit.SKIPPED)


@app.command()
def train(
    cache: CacheFolder = Path("data_cache"),
    config: Annotated[
        str, typer.Option(help="Experiment by name (`zsseg config ls`), or a YAML file.")
    ] = DEFAULT_EXPERIMENT,
    root: Annotated[
        Path | None, typer.Option(help="Folder of the data set, if it has moved.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run. [default: runs/EXPERIMENT]")
    ] = None,
    settings: Settings = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Stage two: train a student against a store. CLIP is not loaded."""
    console.configure_logging(quiet=quiet)
    from pipeline.stores import dataset_root, stored_spec, training_store
    from stages.cache.reader import Store
    from stages.train.config import RunConfig
    from stages.train.loop import train as run

    name = Path(config).stem
    checked = build(
        RunConfig, apply_settings(read_experiment(config), settings or []), where=config
    )
    store = Store.open(training_store(cache))
    folder = out or Path("runs") / name
    with console.progress("train", quiet=quiet) as advance:
        result = run(
            checked,
            store=store,
            spec=stored_spec(store),
            root=dataset_root(root, store),
            out=folder,
            resume=resume,
            experiment=name,
            progress=lambda now: advance(now.step, now.steps, _words(now.metrics)),
        )
    console.out.print(f"{result.steps} steps, student in {result.checkpoint}", soft_wrap=True)
    console.out.print(
        f"next: zsseg evaluate --run {folder} --split val  or  zsseg predict --run {folder} "
        "IMAGES --out predictions",
        soft_wrap=True,
    )


@app.command()
def evaluate(
    run: Annotated[Path | None, typer.Option(help="Folder of a run.")] = None,
    teacher: Annotated[
        bool, typer.Option("--teacher", help="Score the cached dense tokens, without training.")
    ] = False,
    cache: CacheFolder = Path("data_cache"),
    dataset: Annotated[
        str | None, typer.Option(help="Data set or description. [default: the run's]")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="Folder of the data set, if it has moved.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split to score.")] = "val",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N images.")] = None,
    calibration: Annotated[
        float | None,
        typer.Option(min=0, help="gamma: taken off the cosines of seen classes before the argmax."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the JSON and CSV. [default: the run]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    settings: Settings = None,
    quiet: Quiet = False,
) -> None:
    """Score a run (or, with --teacher, the cache itself): hIoU, sIoU, uIoU and every class."""
    console.configure_logging(quiet=quiet or as_json)
    if (run is None) != teacher:
        raise UserError("give either --run RUN (a student) or --teacher --cache DIR (the cache)")
    from pipeline.stores import dataset_root, stored_spec
    from pipeline.tables import score_line, score_table
    from stages.cache.catalogue import choose_store
    from stages.cache.reader import Store
    from stages.data.spec import load_spec
    from stages.evaluate.evaluate import evaluate_run, evaluate_teacher
    from stages.evaluate.result import save_result, to_json
    from stages.evaluate.run import load_run

    with console.progress("evaluate", quiet=quiet or as_json) as advance:
        if run is None:
            if limit or settings:
                raise UserError("--limit and --set are for runs; --teacher scores the whole store")
            store = Store.open(choose_store(cache, split=split))
            result = evaluate_teacher(
                store,
                load_spec(dataset) if dataset else stored_spec(store),
                dataset_root(root, store),
                calibration=calibration or 0.0,
                progress=lambda done, total: advance(done, total, ""),
            )
        else:
            student = load_run(run, evaluate=_evaluate_config(run, calibration, settings or []))
            result = evaluate_run(
                student,
                load_spec(dataset) if dataset else student.spec,
                root or student.record.root,
                split,
                limit=limit,
                progress=lambda done, total: advance(done, total, ""),
            )
    folder = out or run
    saved = save_result(folder, result) if folder else ()
    if as_json:
        sys.stdout.write(json.dumps(to_json(result), allow_nan=False) + "\n")
        return
    console.out.print(score_table(result))
    console.out.print(f"\n{result.images} images of {result.dataset} {result.split}, in percent:")
    console.out.print(score_line(result), style="bold")
    if saved:
        console.out.print("written: " + ", ".join(map(str, saved)), soft_wrap=True)


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    run: Annotated[Path, typer.Option(help="Folder of a run.")],
    out: Annotated[Path, typer.Option(help="Folder for label maps and overlays.")],
    classes: Annotated[
        str | None, typer.Option(help='Any class names: "car, tree". [default: the run\'s]')
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

    def encode(names: "Sequence[str]") -> "NDArray[np.float32]":
        # Only new names need CLIP's text tower.
        from stages.precompute.text import encode_names

        where = teacher or student.record.teacher
        return encode_names(where, names, student.record.templates)

    names = _names(classes) or student.spec.classes
    others = _names(background)
    text_CD = class_text(student, [*names, *others], encode=encode)
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


def _names(text: str | None) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in text.split(",")] if text else []


def _words(metrics: dict[str, float]) -> str:
    """The last log line, short: what a person watches."""
    shown = {
        "loss": "loss {:.3f}",
        "pseudo_label_share": "pseudo labels {:.0%}",
        "images_per_second": "{:.1f} images/s",
        "data_wait": "waiting for data {:.0%}",
    }
    return ", ".join(text.format(metrics[key]) for key, text in shown.items() if key in metrics)


def main() -> None:
    """Run the command; a user's mistake is one message and its exit code, never a traceback."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        app()
    except UserError as error:
        if debug:
            traceback.print_exc()
        console.err.print(f"error: {error}", style="bold red", markup=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if debug:
            traceback.print_exc()
        where = f" ({error.filename})" if error.filename else ""
        console.err.print(
            f"error: {error.strerror or error}{where}. Nothing that was finished is lost; run the "
            "same command again when this is mended",
            style="bold red",
            markup=False,
            soft_wrap=True,
        )
        sys.exit(Exit.RESOURCES)
    except KeyboardInterrupt:
        console.err.print("interrupted; run the same command again to go on")
        sys.exit(Exit.INTERRUPTED)
