"""What a training step costs: `python -m benchmarks.run --only step`.

Two forms of one step of one student on the same crops, each with forward and backward pass and
optimiser: `supervised` (configuration `baseline`) and `cached` (`sdd_rst` in its second half, so
that it names pixels too). 171 classes as in COCO-Stuff. What the same step costs with CLIP in the
loop is in `online.py`.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from benchmarks.drawn import write_data, write_store
from benchmarks.ratio import Ratio, timed_in_turn
from benchmarks.scale import peak
from zsseg.pipeline.settings import apply_settings, build, read_experiment
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.spec import load_spec
from zsseg.stages.train.batches.batch import Batch
from zsseg.stages.train.batches.known_classes import make_classes
from zsseg.stages.train.batches.loader import make_loader
from zsseg.stages.train.batches.training_data import TrainingData
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.train.state import new_state, update
from zsseg.stages.train.step import gradients

Form = Literal["supervised", "cached"]
Step = Callable[[Batch], None]

BATCH, CLASSES, SIZE, STEPS = 4, 171, (512, 512), 4
WHAT = f"mit_b0, {BATCH} x {SIZE[0]} x {SIZE[1]}, {CLASSES} classes"
"""The sizes, as every ratio states them."""


def configuration(form: Form) -> RunConfig:
    """The packaged one with a small student from random weights."""
    values = read_experiment("baseline" if form == "supervised" else "sdd_rst")
    changed = (
        "student.encoder=mit_b0",
        "student.weights=none",
        f"train.batch={BATCH}",
        "train.workers=0",
        "train.device=cpu",
    )
    return build(RunConfig, apply_settings(values, changed), where="benchmark")


@contextmanager
def world() -> Iterator[Path]:
    """A folder with data and store."""
    with tempfile.TemporaryDirectory(prefix="zsseg-bench-") as name:
        folder = Path(name)
        spec = write_data(folder / "data", images=BATCH, classes=CLASSES)
        write_store(folder / "store", spec, folder / "data")
        yield folder


def batch_of(folder: Path, form: Form) -> Batch:
    """The first crops of a run, with what its form reads of the cache."""
    store, spec = Store.open(folder / "store"), load_spec(str(folder / "data" / "data.yaml"))
    return next(make_loader(TrainingData(store, spec, folder / "data"), configuration(form)))


def step_of(folder: Path, form: Form) -> Step:
    """What does one step of a run that is past its half."""
    config, spec = configuration(form), load_spec(str(folder / "data" / "data.yaml"))
    device, number = torch.device("cpu"), config.train.steps // 2
    text_CD = torch.from_numpy(Store.open(folder / "store").read_all("text"))
    classes = make_classes(spec, text_CD, device, protocol=config.protocol)
    state = new_state(
        config, width=text_CD.shape[1], device=device, precision=torch.float32, weights=False
    )

    def step(batch: Batch) -> None:
        outcome = gradients(state, batch, classes, config, number=number, logs=False)
        update(state, number, outcome.norm, config)

    return step


def cached_over_supervised() -> Ratio:
    """A step with SDD and RST from the cache / a supervised one."""
    with world() as folder:
        return timed_in_turn(
            f"step with SDD and RST from the cache / supervised step, {WHAT}",
            partial(step_of(folder, "cached"), batch_of(folder, "cached")),
            partial(step_of(folder, "supervised"), batch_of(folder, "supervised")),
            target="at most 1.10",
        )


def peak_memory() -> Ratio:
    """Resident memory that some steps take at most, each form in processes of its own."""
    with world() as folder:
        cached, supervised = (
            tuple(peak_of("benchmarks.step", form, folder) for _ in range(3))
            for form in ("cached", "supervised")
        )
    name = f"peak memory of {STEPS} steps with loading, cached / supervised, {WHAT}"
    return Ratio(name, cached, supervised, unit="MiB", target="at most 1.1")


def peak_of(module: str, form: str, folder: Path) -> float:
    """MiB that a process of its own takes at most."""
    command = [sys.executable, "-m", module, form, str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout)) / 2**20


MEASURES = (cached_over_supervised, peak_memory)


def main(words: Sequence[str]) -> None:
    """Do some steps in this process, and print the bytes that it took at most."""
    forms: dict[str, Form] = {"supervised": "supervised", "cached": "cached"}
    form, folder = forms[words[0]], Path(words[1])
    step = step_of(folder, form)
    for _ in range(STEPS):
        step(batch_of(folder, form))
    assert "open_clip" not in sys.modules  # which would be counted
    sys.stdout.write(json.dumps(peak("self")))


if __name__ == "__main__":
    main(sys.argv[1:])
