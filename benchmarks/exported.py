"""What an exported student costs beside PyTorch, and what 16 and 8 bits change.

    python -m benchmarks.exported --run runs/camvid_best --root CamVid

prints seconds, bytes and mIoU on `val` of the run in PyTorch and of its exports. `make bench` has a
ratio for a student with random weights. One image at a time, from its pixels
to its labels and its confidence: both sides make the same.
"""

import argparse
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from benchmarks.inference import STRIDE, picture, subject
from benchmarks.ratio import Ratio, timed_in_turn
from zsseg.stages.data.images import read_image
from zsseg.stages.data.labels import read_label
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import load_spec
from zsseg.stages.data.splits import list_samples
from zsseg.stages.evaluate.asked_names import AskedNames
from zsseg.stages.evaluate.colours import name_colours
from zsseg.stages.evaluate.confidence_measure import Measure
from zsseg.stages.evaluate.evaluation import student_label
from zsseg.stages.evaluate.metrics import confusion, scores
from zsseg.stages.evaluate.predictor import Predictor
from zsseg.stages.evaluate.trained_run import TrainedRun, load_run
from zsseg.stages.export.agreement import open_session
from zsseg.stages.export.export_run import ExportOptions, Precision, export_run
from zsseg.stages.export.network_graph import network_graph
from zsseg.stages.export.student_graph import GraphForm, save_model, student_graph
from zsseg.stages.train.run.run_folder import RunRecord
from zsseg.stages.train.run_config import EvaluateConfig, RunConfig

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
TIMED = 20
"""Images whose time is taken, with all of them in turn."""


def onnxruntime_ratio(
    run: TrainedRun,
    images: list[NDArray[np.uint8]],
    file: Path,
    *,
    measure: Measure = "margin",
    names: AskedNames | None = None,
) -> Ratio:
    """Seconds of onnxruntime over those of PyTorch, for labels and confidence of all images."""
    session = open_session(file)
    text_CD = run.text_CD.numpy()
    palette = name_colours(run.names)
    asked = names or AskedNames(run.names, (), run.text_CD, palette, run.spec.seen_ids)
    predictor = Predictor(run, asked, measure=measure)
    return timed_in_turn(
        f"{file.stem}, onnxruntime / PyTorch, {torch.get_num_threads()} threads",
        lambda: [session.run(None, {"image": each[None], "text": text_CD}) for each in images],
        lambda: [predictor.predict(each).confidence for each in images],
        target="at most 1",
    )


def random_student_ratios() -> Iterator[Ratio]:
    """Of a student with random weights on one picture, with few names and with many.

    The cosine is the one confidence that needs no sum over all names at every pixel.
    """
    measures: tuple[Measure, ...] = ("margin", "cosine")
    network = network_graph(subject().scorer.student)
    for names, measure in product((3, 14, 171), measures):
        yield _random_student_ratio(network, names, measure)


def _random_student_ratio(network: ModelProto, names: int, measure: Measure) -> Ratio:
    one = subject()
    student, text_CD = one.scorer.student, one.scorer.text_CD[:names]
    run = TrainedRun(
        path=Path("run"),
        record=record_of(one.config),
        evaluate=one.config,
        student=student,
        step=0,
        stride=STRIDE,
        text_CD=text_CD,
        names=tuple(map(str, range(names))),
    )
    with TemporaryDirectory() as folder:
        file = Path(folder) / f"mit_b0, {names} names, {measure}.onnx"
        save_model(student_graph(run, network, GraphForm(measure)), file)
        asked = AskedNames(run.names, (), text_CD, name_colours(run.names), ())
        return onnxruntime_ratio(run, [picture()], file, measure=measure, names=asked)


def record_of(config: EvaluateConfig) -> RunRecord:
    """The record of a run that was never trained."""
    return RunRecord(
        experiment="random",
        config=RunConfig(evaluate=config),
        dataset=load_spec("camvid"),
        split="train",
        root=Path("data"),
        teacher="none",
        templates="single",
        store="store",
        store_fingerprint="0" * 32,
        versions={},
        revision=None,
    )


def miou(run: TrainedRun, samples: list[Sample], file: Path | None) -> float:
    """In percent, of an export, or of the run itself."""
    session = None if file is None else open_session(file)
    classes = len(run.spec.classes)
    total_CC = np.zeros((classes, classes), dtype=np.int64)
    for sample in samples:
        image_HW3 = read_image(sample.image)
        if session is None:
            label_HW = student_label(run, image_HW3)
        else:
            feeds = {"image": image_HW3[None], "text": run.text_CD.numpy()}
            label_HW = session.run(["labels"], feeds)[0][0].astype(np.uint8)
        total_CC += confusion(label_HW, read_label(run.spec, sample), classes)
    return 100 * scores(total_CC, run.spec.unseen_ids).miou


def main() -> None:
    """Print a line for PyTorch and one for each precision."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--split", default="val")
    given = parser.parse_args()
    run = load_run(given.run, device="cpu")
    samples = list_samples(run.spec, given.root, given.split)
    images = [read_image(sample.image) for sample in samples[:TIMED]]
    sys.stdout.write(f"PyTorch: mIoU {miou(run, samples, None):.2f}\n")
    with TemporaryDirectory() as folder:
        for precision in PRECISIONS:
            file = Path(folder) / precision / f"{precision}.onnx"
            done = export_run(run, file, options=ExportOptions(precision))
            sys.stdout.write(f"{precision}: {done.size / 1e6:.1f} MB, ")
            sys.stdout.write(f"labels as PyTorch's {done.agreement.labels:.3%}, ")
            sys.stdout.write(f"mIoU {miou(run, samples, file):.2f}\n")
            sys.stdout.write(f"  {onnxruntime_ratio(run, images, file)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
