"""The demo's pictures: what the teacher, the baseline and the student make of the same scenes."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from zsseg.pipeline.demo.demo_commands import BASELINE, Demo
from zsseg.pipeline.demo.demo_scores import NAMES
from zsseg.stages.cache.catalogue import choose_store
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.images import read_image
from zsseg.stages.data.labels import read_label
from zsseg.stages.data.spec import load_spec
from zsseg.stages.data.splits import list_samples
from zsseg.stages.evaluate.evaluation import student_label
from zsseg.stages.evaluate.labelling import upsampled_argmax
from zsseg.stages.evaluate.teacher_evaluation import PIXEL_NAMES, named_scores
from zsseg.stages.evaluate.trained_run import TrainedRun, load_run

_ROWS = 7

Pictures = list[tuple[NDArray[np.uint8], dict[str, NDArray[np.uint8]]]]
"""Images (H, W, 3), each with label maps (H, W) by the name of what made them."""


def demo_pictures(demo: Demo) -> Pictures:
    """The scenes with most of the unseen classes: the true label, the teacher's map of names, and
    what baseline and ours say without gamma."""
    spec = load_spec("demo")
    labelled = [(s, read_label(spec, s)) for s in list_samples(spec, demo.world, "val")]
    labelled.sort(key=lambda pair: -_richness(pair[1], spec.unseen_ids))
    store = Store.open(choose_store(demo.cache, split="val"))
    row_of = {entry["id"]: entry["row"] for entry in store.index}
    methods = {BASELINE: BASELINE, demo.ours: demo.method}
    runs = {row: _without_gamma(load_run(demo.run(each))) for row, each in methods.items()}
    pictures: Pictures = []
    for sample, label_HW in labelled[:_ROWS]:
        image_HW3 = read_image(sample.image)
        score_Cyx = named_scores(store.read(PIXEL_NAMES, row_of[sample.id]), len(spec.classes))
        maps = {"label": label_HW, NAMES: upsampled_argmax(score_Cyx, label_HW.shape)}
        maps |= {row: student_label(run, image_HW3) for row, run in runs.items()}
        pictures.append((image_HW3, maps))
    return pictures


def _without_gamma(run: TrainedRun) -> TrainedRun:
    return replace(run, evaluate=run.evaluate.model_copy(update={"calibration": 0.0}))


def _richness(label_HW: NDArray[np.uint8], unseen_ids: tuple[int, ...]) -> float:
    """Sum of square roots of the unseen classes' shares: several classes count more than one."""
    shares = np.bincount(label_HW.ravel(), minlength=256)[list(unseen_ids)] / label_HW.size
    return float(np.sqrt(shares).sum())
