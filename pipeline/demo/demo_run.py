"""The whole pipeline on the small world, as the commands a person would type.

Every step is a `zsseg` command, printed and then run in this process, so the demo can do nothing
that the commands cannot. What an earlier demo in the same folder has finished is not done again.
"""

import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from zsseg.pipeline import console
from zsseg.pipeline.demo.curves import Points
from zsseg.pipeline.tables import gamma_text, percent
from zsseg.stages.cache.disk.durable import write_durably
from zsseg.stages.errors import UserError
from zsseg.stages.yaml_files import builtin_names

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zsseg.stages.evaluate.result import EvaluationResult
    from zsseg.stages.evaluate.trained_run import TrainedRun

PRECOMPUTE = (
    "text.templates=single",
    "dense.size=[256,384]",
    "regions.windows=[2,4]",
    "regions.minimum_tokens=1",
    "regions.unlabelled_share=0.2",
    "local.max_masks=3",
)
"""Settings for scenes of 128 x 192 pixels, which CLIP sees enlarged twice, with one token per 16
pixels. Things fill only a token or two: with the default region settings two thirds of the
unlabelled pixels would lie in no region."""

GAMMA_NOTE = (
    "gamma is taken off the cosines of the seen classes before the argmax. Its value was chosen "
    "with demo_best on 40 scenes of their own (seed 1000), which no demo trains on or shows. The "
    "recipe itself was found on the scenes of seed 0: docs/experiments.md."
)

BASELINE = "baseline"
_SETTINGS_FILE = "demo.json"
_GRID_ROWS = 7
_PREDICTED = 8
_WITHOUT_GAMMA = 3  # the first results: teacher, baseline, ours


@dataclass(frozen=True)
class Demo:
    """A demo: the paths in its folder, and the commands that fill it."""

    out: Path
    method: str
    settings: tuple[str, ...]
    """`--set` of both trainings."""

    @property
    def world(self) -> Path:
        return self.out / "world"

    @property
    def cache(self) -> Path:
        return self.out / "data_cache"

    @property
    def ours(self) -> str:
        """What tables call the method."""
        return f"ours ({self.method})"

    @property
    def report(self) -> Path:
        return self.out / "report.html"

    def run(self, method: str) -> Path:
        """Run folder of a method."""
        return self.out / "runs" / f"demo_{method}"

    def scores(self, method: str, *, gamma: bool = True) -> Path:
        """The file with a method's scores on `val`; `gamma`: with the run's, if it has one."""
        from zsseg.stages.evaluate.result import file_stem, variant
        from zsseg.stages.train.run.run_folder import read_record

        own = read_record(self.run(method)).config.evaluate.model_dump()
        own |= {} if gamma else {"calibration": 0.0}
        words = variant(dataset="demo", own_dataset="demo", settings=own, own_settings=own)
        return self.run(method) / f"{file_stem('student', 'val', words)}.json"

    def commands(self) -> list[str]:
        """The `zsseg` commands, in order, as a shell takes them."""
        world, cache, out = (shlex.quote(str(each)) for each in (self.world, self.cache, self.out))
        teacher = shlex.quote(f"local-dir:{small_clip()}")
        made = [
            f"zsseg precompute --dataset demo --root {world} --split {split} --teacher {teacher} "
            f"--cache {cache}{_sets(PRECOMPUTE)}"
            for split in ("train", "val")
        ]
        made.append(f"zsseg evaluate --teacher-alone --cache {cache} --split val --out {out}")
        for method in dict.fromkeys((BASELINE, self.method)):
            run = shlex.quote(str(self.run(method)))
            made.append(
                f"zsseg train --cache {cache} --config demo_{method} --out {run} "
                f"--resume{_sets(self.settings)}"
            )
            made.append(f"zsseg evaluate --run {run} --split val")
        pictures = sorted((self.world / "images" / "val").glob("*.png"))[:_PREDICTED]
        made.append(
            f"zsseg predict {shlex.join(map(str, pictures))} --run {run} "
            f"--out {shlex.quote(str(self.out / 'predictions'))}"
        )
        return made


def _sets(settings: Sequence[str]) -> str:
    return "".join(f" --set {shlex.quote(setting)}" for setting in settings)


def small_clip() -> Path:
    """Folder of the small CLIP that comes with zsseg and was trained on drawn scenes."""
    return Path(str(files("zsseg.stages.demo"))) / "clip"


def demo_methods() -> list[str]:
    """Methods that the demo can compare with its baseline, sorted.

    Not `free`, which knows no labels: the baseline learns from nothing else.
    """
    names = [name for name in builtin_names("experiments") if name.startswith("demo_")]
    return sorted({name.removeprefix("demo_") for name in names} - {BASELINE, "free"})


def run_demo(
    out: Path,
    run: Callable[[Sequence[str]], None],
    *,
    method: str,
    seed: int,
    scenes: int,
    settings: Sequence[str],
    quiet: bool,
) -> None:
    """Fill the folder `out`: scenes, stores, two runs, predictions, report; prints the scores.

    `run` runs one `zsseg` command from its words. Raises UserError for a method that there is not,
    and for a folder that is in use.
    """
    from zsseg.stages.demo.world import write_world

    if method not in demo_methods():
        raise UserError(f"--method {method}: there are {', '.join(demo_methods())}")
    _claim(out, {"seed": seed, "scenes": scenes})
    started = time.perf_counter()
    demo = Demo(out, method, (f"train.seed={seed}", *settings))
    with console.progress("draw scenes", quiet=quiet) as advance:
        write_world(
            demo.world,
            seed=seed,
            scenes={"train": scenes, "val": max(1, scenes // 5)},
            progress=lambda done, total: advance(done, total, ""),
        )
    for command in demo.commands():
        if not quiet:
            console.err.print("", f"$ {command}", sep="\n", style="bold", soft_wrap=True)
        with console.no_output():
            run([*shlex.split(command)[1:], *(["--quiet"] if quiet else [])])
    results = _results(demo)
    minutes = (time.perf_counter() - started) / 60
    _write_report(demo, results, minutes)
    console.out.print(_score_table(results))
    if len(results) > _WITHOUT_GAMMA:
        console.out.print("", GAMMA_NOTE, sep="\n", soft_wrap=True)
    text = f"{minutes:.1f} minutes. Look at {demo.report}"
    console.out.print("", text, sep="\n", soft_wrap=True)


def _claim(out: Path, settings: Mapping[str, int]) -> None:
    """Note a new demo's settings in `out`; raise UserError if the folder is used otherwise."""
    path = out / _SETTINGS_FILE
    if path.is_file():
        if (found := json.loads(path.read_text(encoding="utf-8"))) != settings:
            raise UserError(f"{out}: holds a demo with {found}, not {settings}. Give another --out")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists and is no demo. Give another --out")
    else:
        write_durably(path, f"{json.dumps(settings)}\n".encode())


def _results(demo: Demo) -> "dict[str, EvaluationResult]":
    """Scores by method: all without gamma, then those of the runs with theirs."""
    from zsseg.stages.evaluate.result import file_stem, read_result

    methods = {BASELINE: BASELINE, demo.ours: demo.method}
    results = {"teacher alone": read_result(demo.out / f"{file_stem('teacher', 'val')}.json")}
    for name, method in methods.items():
        results[name] = read_result(demo.scores(method, gamma=False))
    for name, method in methods.items():
        with_gamma = read_result(demo.scores(method))
        if with_gamma.settings["calibration"]:
            results[f"{name}, {gamma_text(with_gamma)}"] = with_gamma
    return results


def _score_table(results: "Mapping[str, EvaluationResult]") -> Table:
    table = Table("IoU in percent", "hIoU", "seen (sIoU)", "unseen (uIoU)", box=None)
    for name, result in results.items():
        means = result.scores
        table.add_row(name, *(percent(value) for value in (means.hiou, means.siou, means.uiou)))
    return table


def _write_report(demo: Demo, results: "Mapping[str, EvaluationResult]", minutes: float) -> None:
    from zsseg.pipeline.demo.demo_report import ReportContent, write_report
    from zsseg.stages.data.spec import load_spec
    from zsseg.stages.evaluate.overlay import palette

    spec = load_spec("demo")
    *others, last = spec.unseen
    losses = {method: _metrics(demo.run(method)) for method in (BASELINE, demo.method)}
    charts = {
        "Loss": {method: _curve(lines, "loss") for method, lines in losses.items()},
        "Parts of our loss": {
            name: _curve(losses[demo.method], name)
            for name in ("cross_entropy", "sdd", "local_distillation")
        },
        "Share of unlabelled pixels with a pseudo label": {
            demo.method: _curve(losses[demo.method], "pseudo_label_share")
        },
    }
    write_report(
        demo.report,
        ReportContent(
            title=f"zsseg demo: {', '.join(others)} and {last}, segmented without a single label",
            about="Three classes of these drawn street scenes had no label in training. The "
            "teacher is a small CLIP that knows their names from captions only. The baseline is a "
            "network trained on the labels of the other classes. Ours is the same network, trained "
            "on the same labels and on what CLIP left in the cache; it runs without CLIP.",
            results=results,
            ours=demo.ours,
            note=GAMMA_NOTE if len(results) > _WITHOUT_GAMMA else "",
            pictures=_pictures(demo, list(results)[:_WITHOUT_GAMMA]),
            colours=palette(len(spec.classes)),
            charts={
                title: {name: points for name, points in series.items() if points}
                for title, series in charts.items()
                if any(series.values())
            },
            commands=demo.commands(),
            made=f"Made in {minutes:.1f} minutes by zsseg {version('zsseg')} with torch "
            f"{version('torch')}.",
        ),
    )


def _metrics(run: Path) -> list[dict[str, float]]:
    text = (run / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _curve(lines: Sequence[Mapping[str, float]], name: str) -> Points:
    return [(line["step"], line[name]) for line in lines if name in line]


def _pictures(
    demo: Demo, names: Sequence[str]
) -> "list[tuple[NDArray[np.uint8], dict[str, NDArray[np.uint8]]]]":
    """The scenes with most of the unseen classes: image, true label, and the label map of each
    method without gamma."""
    import torch

    from zsseg.stages.cache.catalogue import choose_store
    from zsseg.stages.cache.reader import Store
    from zsseg.stages.data.images import read_image
    from zsseg.stages.data.labels import read_label
    from zsseg.stages.data.spec import load_spec
    from zsseg.stages.data.splits import list_samples
    from zsseg.stages.evaluate.evaluation import student_label
    from zsseg.stages.evaluate.teacher_evaluation import teacher_label
    from zsseg.stages.evaluate.trained_run import load_run

    spec = load_spec("demo")
    labelled = [(s, read_label(spec, s)) for s in list_samples(spec, demo.world, "val")]
    store = Store.open(choose_store(demo.cache, split="val"))
    row_of = {entry["id"]: entry["row"] for entry in store.index}
    text_CD = torch.from_numpy(store.read_all("text"))
    runs = [_without_gamma(load_run(demo.run(each))) for each in (BASELINE, demo.method)]
    pictures = []
    for sample, label_HW in sorted(labelled, key=lambda pair: -_richness(pair[1], spec.unseen_ids))[
        :_GRID_ROWS
    ]:
        image_HW3 = read_image(sample.image)
        dense_Dhw = store.read("dense", row_of[sample.id])
        maps = [
            teacher_label(dense_Dhw, text_CD, label_HW.shape),
            *(student_label(run, image_HW3) for run in runs),
        ]
        pictures.append((image_HW3, {"label": label_HW, **dict(zip(names, maps, strict=True))}))
    return pictures


def _without_gamma(run: "TrainedRun") -> "TrainedRun":
    return replace(run, evaluate=run.evaluate.model_copy(update={"calibration": 0.0}))


def _richness(label_HW: "NDArray[np.uint8]", unseen_ids: Sequence[int]) -> float:
    """Sum of square roots of the unseen classes' shares: several classes count more than one."""
    shares = np.bincount(label_HW.ravel(), minlength=256)[list(unseen_ids)] / label_HW.size
    return float(np.sqrt(shares).sum())
