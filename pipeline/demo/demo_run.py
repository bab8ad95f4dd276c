"""The whole pipeline on the small world, as the commands a person would type.

Every step is a `zsseg` command, printed and then run in this process, so the demo can do nothing
that the commands cannot. What an earlier demo in the same folder has finished is not done again.
"""

import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from zsseg.pipeline import console
from zsseg.pipeline.demo.curves import Points
from zsseg.pipeline.demo.demo_commands import BASELINE, CEILING, Demo, demo_methods
from zsseg.stages.cache.disk.durable import write_durably
from zsseg.stages.errors import UserError

if TYPE_CHECKING:
    from zsseg.stages.evaluate.result import EvaluationResult

_SETTINGS_FILE = "demo.json"


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
    """Fill the folder `out`: scenes, stores, three runs, predictions, report; prints the scores.

    `run` runs one `zsseg` command from its words. Raises UserError for a method that there is not,
    and for a folder that is in use.
    """
    from zsseg.pipeline.demo.demo_scores import demo_results, notes, score_table
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
    results = demo_results(demo)
    minutes = (time.perf_counter() - started) / 60
    _write_report(demo, results, minutes)
    console.out.print(score_table(results))
    for note in notes(results, demo.ours):
        console.out.print("", note, sep="\n", soft_wrap=True)
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


def _write_report(demo: Demo, results: "Mapping[str, EvaluationResult]", minutes: float) -> None:
    from zsseg.pipeline.demo.demo_pictures import demo_pictures
    from zsseg.pipeline.demo.demo_report import ReportContent, write_report
    from zsseg.pipeline.demo.demo_scores import NAMES, notes
    from zsseg.stages.data.spec import load_spec
    from zsseg.stages.evaluate.colours import name_colours

    spec = load_spec("demo")
    *others, last = spec.unseen
    losses = {method: _metrics(demo.run(method)) for method in (BASELINE, demo.method, CEILING)}
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
            "on the same labels and on what CLIP left in the cache; it runs without CLIP. The "
            "ceiling is the same network with the labels of every class.",
            results=results,
            ours=demo.ours,
            teacher=NAMES,
            notes=notes(results, demo.ours),
            pictures=demo_pictures(demo),
            colours=name_colours(spec.classes, spec),
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
