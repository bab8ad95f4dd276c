"""What `zsseg predict --unsure` finds and what it costs, on a split with labels.

    python -m benchmarks.unsure --run runs/camvid_best --root CamVid

prints, by measure of confidence and threshold, the shares of pixels that become void: of those
without a label (which should), of those with one (which should not), of wrong ones among the
latter, and the accuracy of what is left.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np

from zsseg.pipeline.run_options import read_names, text_encoder
from zsseg.stages.data.images import read_image
from zsseg.stages.data.labels import read_label
from zsseg.stages.data.spec import VOID
from zsseg.stages.data.splits import list_samples
from zsseg.stages.evaluate.asked_names import ask_names
from zsseg.stages.evaluate.confidence_measure import Measure
from zsseg.stages.evaluate.predictor import Predictor
from zsseg.stages.evaluate.trained_run import TrainedRun, load_run

BINS = 1000
THRESHOLDS: dict[Measure, tuple[float, ...]] = {
    "margin": (0.02, 0.05, 0.1, 0.2, 0.3, 0.5),
    "probability": (0.3, 0.4, 0.5, 0.6, 0.8),
    "cosine": (0.05, 0.08, 0.1, 0.12, 0.15),
}


def main() -> None:
    """Print one line per measure and threshold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--background", help="words as for zsseg predict")
    given = parser.parse_args()
    run = load_run(given.run)
    words = read_names(given.background, "--background")
    counts_MGB = counted_pixels(run, given.root, given.split, words)
    print("measure      below  void found  labelled lost  of wrong  accuracy of the rest")
    for measure, counts_GB in zip(get_args(Measure), counts_MGB, strict=True):
        for threshold in (0.0, *THRESHOLDS[measure]):
            below_G = counts_GB[:, : round(threshold * BINS)].sum(1) + counts_GB[:, -1]
            void, _, wrong = below_G / counts_GB.sum(1)
            lost = below_G[1:].sum() / counts_GB[1:].sum()
            left = counts_GB[1:].sum(1) - below_G[1:]
            shares = f"{void:10.1%}  {lost:13.1%}  {wrong:8.1%}  {left[0] / left.sum():20.1%}"
            print(f"{measure:11}  {threshold:5.2f}  {shares}")


def counted_pixels(
    run: TrainedRun, root: Path, split: str, background: Sequence[str]
) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """(measures, groups, bins + 1) pixels: without a label, rightly and wrongly labelled, by
    confidence; in the last bin those that a background word makes void."""
    asked = ask_names(run, run.spec.classes, background, encode=text_encoder(run))
    predictor = Predictor(run, asked)
    counts_MGB = np.zeros((len(get_args(Measure)), 3, BINS + 1), np.int64)
    for sample in list_samples(run.spec, root, split):
        label_HW = read_label(run.spec, sample)
        found = predictor.predict(read_image(sample.image))
        group_HW = np.where(label_HW == VOID, 0, np.where(label_HW == found.labels, 1, 2))
        for counts_GB, measure in zip(counts_MGB, get_args(Measure), strict=True):
            sure_HW = replace(found, measure=measure).confidence
            bin_HW = np.minimum((sure_HW * BINS).astype(np.int64), BINS - 1)
            bin_HW[found.labels == VOID] = BINS
            np.add.at(counts_GB, (group_HW, bin_HW), 1)
    return counts_MGB


if __name__ == "__main__":
    main()
